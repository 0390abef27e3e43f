//! Bad days of a whole cluster, one after the other, under load: every process killed, NATS and Postgres killed and cut off,
//! executors frozen for longer than anybody waits for them, clocks apart. Nothing that was accepted is lost, nothing has two
//! outcomes, nothing is left without an owner, and all is healthy again without a hand.
//!
//! `PHALANX_TEST_FAULTS=200 tests/run storm` is the long form; CI runs the short one. `PHALANX_TEST_SEED` repeats a run's choices.

use crate::chance::{Chance, seed};
use nix::sys::signal::Signal;
use phalanx_tests::{Client, Cluster, Options, Shape, Value, fixtures, json, remains, wait};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Faults of the short form: each kind once, and one more.
const FAULTS: u32 = 12;
const HEALS_WITHIN: Duration = Duration::from_secs(90);
const ENDS_WITHIN: Duration = Duration::from_secs(180);
const SHAPE: Shape = Shape {
    gateways: 2,
    deployers: 2,
    executors: 3,
    monitors: 2,
};
const SOURCE: &str = "import time\ndef handler(input):\n    print('run', input['n'])\n    time.sleep(input['ms'] / 1000)\n    return input['n']\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillGateway,
    KillDeployer,
    KillExecutor,
    KillExecutorForLong,
    KillMonitor,
    RestartNats,
    RestartPostgres,
    CutNats,
    CutPostgres,
    FreezeExecutor,
    ClockApart,
}

const KINDS: [Fault; 11] = [
    Fault::KillGateway,
    Fault::KillDeployer,
    Fault::KillExecutor,
    Fault::KillExecutorForLong,
    Fault::KillMonitor,
    Fault::RestartNats,
    Fault::RestartPostgres,
    Fault::CutNats,
    Fault::CutPostgres,
    Fault::FreezeExecutor,
    Fault::ClockApart,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_a_storm() {
    let seed = seed();
    let faults = std::env::var("PHALANX_TEST_FAULTS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(FAULTS);
    eprintln!("PHALANX_TEST_SEED={seed} PHALANX_TEST_FAULTS={faults}");
    let mut chance = Chance(seed);
    let mut cluster = Cluster::with_bad_days(SHAPE, Options::default()).await;
    watch_for_second_outcomes(&cluster);
    for (id, min) in [("one", 1), ("two", 2)] {
        let changes = json!({
            "agent_code": {"configuration": {"concurrent_executions": 4}},
            "deployment_config": {"auto_scaling": {"min_instances": min, "max_instances": 4}},
        });
        cluster.client.deploy_source(id, SOURCE, changes).await;
    }
    let load = Load::new(cluster.client.clone());
    let mut counts: BTreeMap<Fault, u32> = BTreeMap::new();
    let storm = async {
        for place in 0..faults {
            let kind = match KINDS.get(place as usize) {
                Some(kind) => *kind,
                None => KINDS[chance.below(KINDS.len() as u64) as usize],
            };
            *counts.entry(kind).or_insert(0) += 1;
            let begun = Instant::now();
            strike(&mut cluster, kind, &mut chance).await;
            let struck = begun.elapsed();
            healthy(&mut cluster, kind).await;
            eprintln!(
                "{place}: {kind:?} took {:.1} s, healthy {:.1} s later; {} accepted",
                struck.as_secs_f64(),
                (begun.elapsed() - struck).as_secs_f64(),
                load.accepted()
            );
        }
        load.over.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        storm,
        load.in_background("one"),
        load.in_background("two"),
        load.in_background("two"),
        load.waiting("one"),
        load.waiting("two"),
    );
    let starts = all_ended_once(&cluster.client, &load).await;
    let doubled = cluster
        .backing
        .as_ref()
        .expect("rows")
        .rows("SELECT agent_id, id, was, is_now FROM second_outcomes");
    assert!(doubled.is_empty(), "second outcomes: {doubled:?}");
    owned(&cluster).await;
    let accepted = load.accepted();
    eprintln!(
        "{faults} faults {counts:?}: {accepted} async executions accepted, each with one outcome; {} started more than once; sync: {} answered, {} told to try again, {} connections broken, {:?} other answers",
        starts,
        load.answered.load(Ordering::Relaxed),
        load.try_again.load(Ordering::Relaxed),
        load.broken.load(Ordering::Relaxed),
        load.others.lock().expect("whole"),
    );
    assert!(
        accepted >= u64::from(faults) * 10,
        "hardly any load: this proves nothing"
    );
    assert!(
        load.others.lock().expect("whole").is_empty(),
        "answers that are no documented ones: {:?}",
        load.others.lock().expect("whole")
    );
}

/// The database itself notes whoever changes the outcome of what has ended.
fn watch_for_second_outcomes(cluster: &Cluster) {
    cluster.backing.as_ref().expect("rows").rows(
        "CREATE TABLE second_outcomes (agent_id TEXT, id TEXT, was TEXT, is_now TEXT);
         CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           INSERT INTO second_outcomes VALUES (OLD.agent_id, OLD.id, OLD.status, NEW.status); RETURN NEW; END $$;
         CREATE TRIGGER second BEFORE UPDATE ON executions FOR EACH ROW
           WHEN (OLD.status NOT IN ('queued', 'running')) EXECUTE FUNCTION note();",
    );
}

async fn strike(cluster: &mut Cluster, kind: Fault, chance: &mut Chance) {
    let one_of = |role: &str, of: usize, chance: &mut Chance| {
        format!("{role}-{}", chance.below(of as u64) + 1)
    };
    let away = Duration::from_millis(chance.below(1500));
    match kind {
        Fault::KillGateway | Fault::KillDeployer | Fault::KillMonitor | Fault::KillExecutor => {
            let name = match kind {
                Fault::KillGateway => one_of("gateway", SHAPE.gateways, chance),
                Fault::KillDeployer => one_of("deployer", SHAPE.deployers, chance),
                Fault::KillMonitor => one_of("monitor", SHAPE.monitors, chance),
                _ => one_of("executor", SHAPE.executors, chance),
            };
            killed(cluster, &name, away).await;
        }
        // Longer than an executor may be silent: its work and its versions go to others.
        Fault::KillExecutorForLong => {
            let name = one_of("executor", SHAPE.executors, chance);
            killed(cluster, &name, Duration::from_secs(12) + away).await;
        }
        Fault::RestartNats => {
            backing(cluster).kill_nats();
            tokio::time::sleep(away).await;
            backing(cluster).start_nats();
        }
        Fault::RestartPostgres => {
            backing(cluster).kill_postgres();
            tokio::time::sleep(away).await;
            backing(cluster).start_postgres();
        }
        Fault::CutNats => {
            backing(cluster).wires().nats.cut();
            tokio::time::sleep(Duration::from_secs(10)).await;
            backing(cluster).wires().nats.mend();
        }
        Fault::CutPostgres => {
            backing(cluster).wires().postgres.cut();
            tokio::time::sleep(Duration::from_secs(10)).await;
            backing(cluster).wires().postgres.mend();
        }
        Fault::FreezeExecutor => {
            let name = one_of("executor", SHAPE.executors, chance);
            cluster.part(&name).signal(Signal::SIGSTOP);
            tokio::time::sleep(Duration::from_secs(14)).await;
            cluster.part(&name).signal(Signal::SIGCONT);
        }
        Fault::ClockApart => {
            let name = match chance.below(3) {
                0 => one_of("gateway", SHAPE.gateways, chance),
                1 => one_of("deployer", SHAPE.deployers, chance),
                _ => one_of("executor", SHAPE.executors, chance),
            };
            let apart_s = chance.below(240) as i64 - 120;
            let part = cluster.part(&name);
            part.kill9();
            part.clock_apart_s = Some(apart_s);
            part.spawn();
        }
    }
}

async fn killed(cluster: &mut Cluster, name: &str, away: Duration) {
    cluster.part(name).kill9();
    tokio::time::sleep(away).await;
    cluster.part(name).spawn();
}

fn backing(cluster: &mut Cluster) -> &mut phalanx_tests::backing::Backing {
    cluster.backing.as_mut().expect("it stands on something")
}

/// Everything is ready, everything says that it is healthy, and both agents answer.
async fn healthy(cluster: &mut Cluster, after: Fault) {
    cluster.all_ready().await;
    let client = cluster.client.clone();
    wait::until(
        &format!("healthy after {after:?}"),
        HEALS_WITHIN,
        || async {
            let health = client.try_get("/api/v1/system/health").await?;
            if health.status != 200 || health.body()["overall_status"] != "healthy" {
                return Err(health.text);
            }
            for agent in ["one", "two"] {
                let body = fixtures::call(json!({"n": 0, "ms": 0}));
                let answer = client
                    .try_post(&format!("/api/v1/agents/{agent}/execute"), &body)
                    .await?;
                if answer.status != 200 || answer.body()["status"] != "completed" {
                    return Err(format!("{agent}: {}", answer.text));
                }
            }
            Ok(())
        },
    )
    .await;
}

struct Load {
    client: Client,
    over: AtomicBool,
    next: AtomicU32,
    /// Agent and execution of what was answered with 200.
    promised: Mutex<BTreeSet<(String, String)>>,
    answered: AtomicU64,
    try_again: AtomicU64,
    broken: AtomicU64,
    others: Mutex<Vec<String>>,
}

impl Load {
    fn new(client: Client) -> Self {
        Self {
            client,
            over: AtomicBool::new(false),
            next: AtomicU32::new(1),
            promised: Mutex::default(),
            answered: AtomicU64::new(0),
            try_again: AtomicU64::new(0),
            broken: AtomicU64::new(0),
            others: Mutex::default(),
        }
    }

    fn accepted(&self) -> u64 {
        self.promised.lock().expect("whole").len() as u64
    }

    /// Async executions; only what was answered counts as promised, and what was not is asked again by its id.
    async fn in_background(&self, agent: &str) {
        while !self.over.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let id = format!("run-{n}");
            let call = fixtures::call(json!({"n": n, "ms": (u64::from(n) * 7) % 150}));
            let body = fixtures::with(
                call,
                json!({"execution_id": id, "execution_options": {"async": true}}),
            );
            let path = format!("/api/v1/agents/{agent}/execute");
            if let Ok(answer) = self.client.try_post(&path, &body).await {
                match answer.status {
                    200 => {
                        let promise = (agent.to_owned(), id);
                        self.promised.lock().expect("whole").insert(promise);
                    }
                    429 | 503 | 504 => {}
                    _ => self.note(&answer.text),
                }
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Sync executions: an answer, or a word that the caller may try again.
    async fn waiting(&self, agent: &str) {
        while !self.over.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let body = fixtures::call(json!({"n": n, "ms": (u64::from(n) * 11) % 150}));
            let path = format!("/api/v1/agents/{agent}/execute");
            match self.client.try_post(&path, &body).await {
                Err(_) => {
                    self.broken.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) if answer.status == 200 => self.judge(&answer.body(), n),
                Ok(answer) if matches!(answer.status, 429 | 503 | 504) => {
                    self.try_again.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(answer) => self.note(&answer.text),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn judge(&self, document: &Value, n: u32) {
        let completed = document["status"] == "completed" && document["result"]["output"] == n;
        // An instance may be killed with its executor; that is an outcome with its cause.
        let crashed = document["result"]["error"]["code"] == "INSTANCE_CRASHED"
            || document["result"]["error"]["code"] == "INIT_FAILED";
        if completed || crashed {
            self.answered.fetch_add(1, Ordering::Relaxed);
        } else {
            self.note(&document.to_string());
        }
    }

    fn note(&self, text: &str) {
        let mut others = self.others.lock().expect("whole");
        if others.len() < 20 {
            others.push(text.chars().take(400).collect());
        }
    }
}

/// Every promise was kept with its own result. How many were begun more than once.
async fn all_ended_once(client: &Client, load: &Load) -> usize {
    let promised = load.promised.lock().expect("whole").clone();
    let until = Instant::now() + ENDS_WITHIN;
    let mut again = 0;
    for (agent, id) in &promised {
        let left = until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_secs(2));
        let end = wait::until(&format!("{agent}/{id} has its outcome"), left, || async {
            let path = format!("/api/v1/agents/{agent}/executions/{id}");
            let answer = client.try_get(&path).await?;
            if answer.status != 200 {
                return Err(answer.text);
            }
            let document = answer.body();
            let going = document["status"] == "queued" || document["status"] == "running";
            if going {
                Err(document.to_string())
            } else {
                Ok(document)
            }
        })
        .await;
        assert_eq!(end["status"], "completed", "{end:#}");
        let n: u32 = id["run-".len()..].parse().expect("a number");
        assert_eq!(end["result"]["output"], n, "{end:#}");
        again += usize::from(end["attempt"].as_u64().unwrap_or(1) > 1);
    }
    again
}

/// Every control group belongs to an instance that its executor knows, or is one of a few that are kept prepared.
async fn owned(cluster: &Cluster) {
    wait::until(
        "every instance has an owner",
        Duration::from_secs(60),
        || async {
            let mut known = 0;
            for agent in ["one", "two"] {
                let list = cluster
                    .client
                    .try_get(&format!("/api/v1/agents/{agent}/instances"))
                    .await?
                    .body();
                known += list["instances"].as_array().map_or(0, Vec::len);
            }
            // One instance has a group of the same name in every hierarchy.
            let groups: BTreeSet<_> = cluster
                .nodes()
                .iter()
                .flat_map(|node| remains::groups(node))
                .filter_map(|group| group.file_name().map(ToOwned::to_owned))
                .collect();
            let groups = groups.len();
            if groups <= known + 8 * SHAPE.executors && known > 0 {
                Ok(())
            } else {
                Err(format!("{groups} groups, {known} instances"))
            }
        },
    )
    .await;
}
