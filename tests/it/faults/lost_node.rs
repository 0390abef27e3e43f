//! An executor is killed, frozen or told to leave, or the database is away: what was accepted is done once, and the agent has
//! one host again.

use nix::sys::signal::Signal;
use phalanx_tests::{Client, Cluster, Options, Shape, Value, fixtures, json, wait};
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// From the moment that its only host is gone until the agent answers.
const ANSWERS_WITHIN: Duration = Duration::from_secs(20);
const SETTLES_WITHIN: Duration = Duration::from_secs(90);
const SHAPE: Shape = Shape {
    gateways: 2,
    deployers: 2,
    executors: 2,
    monitors: 1,
};
const WORKER: &str =
    "import time\ndef handler(input):\n    time.sleep(input['ms'] / 1000)\n    return input['n']\n";

/// A cluster with one agent of one instance; the name of the process that hosts it.
async fn with_worker() -> (Cluster, String) {
    let cluster = Cluster::many(SHAPE, Options::default()).await;
    let scaling =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 2}}});
    cluster
        .client
        .deploy_source("worker", WORKER, scaling)
        .await;
    let host = host(&cluster);
    (cluster, host)
}

fn serving(cluster: &Cluster) -> Vec<String> {
    let sql = "SELECT node_id FROM envelopes WHERE state <> 'retired'";
    cluster.backing.as_ref().expect("a cluster").rows(sql)
}

/// The one process that hosts the agent.
fn host(cluster: &Cluster) -> String {
    let serving = serving(cluster);
    assert_eq!(serving.len(), 1, "{serving:?}");
    let hosts = |part: &&phalanx_tests::part::Part| part.node().as_ref() == serving.first();
    let part = cluster.parts.iter().find(hosts);
    part.expect("one of ours").name.clone()
}

async fn instances(client: &Client) -> Vec<Value> {
    let list = client.get("/api/v1/agents/worker/instances").await.ok();
    list["instances"].as_array().expect("a list").clone()
}

async fn pids(client: &Client) -> BTreeSet<u64> {
    let instances = instances(client).await;
    let pids = instances
        .iter()
        .map(|one| one["pid"].as_u64().expect("a pid"));
    pids.collect()
}

/// Async executions that go on until it is over; only what was answered counts as promised.
struct Load {
    client: Client,
    promised: Mutex<BTreeSet<u32>>,
    next: AtomicU32,
    over: AtomicBool,
}

impl Load {
    fn new(cluster: &Cluster) -> Self {
        Self {
            client: cluster.client.clone(),
            promised: Mutex::default(),
            next: AtomicU32::new(0),
            over: AtomicBool::new(false),
        }
    }

    async fn run(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let call = fixtures::call(json!({"n": n, "ms": n % 5 * 100}));
            let body = fixtures::with(
                call,
                json!({"execution_id": format!("run-{n}"), "execution_options": {"async": true}}),
            );
            let answer = self.client.try_post("/api/v1/agents/worker/execute", &body);
            match answer.await {
                Ok(answer) if answer.status == 200 => {
                    self.promised.lock().expect("whole").insert(n);
                }
                // The agent has no host just now, or the database is away.
                Ok(answer) => assert!(
                    matches!(answer.status, 429 | 500 | 503 | 504),
                    "{} {}",
                    answer.status,
                    answer.text
                ),
                Err(error) => panic!("a gateway that runs does not answer: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }

    /// Every promised execution has its own result, once.
    async fn all_done(&self) {
        let promised = self.promised.lock().expect("whole").clone();
        assert!(promised.len() >= 30, "hardly any load: this proves nothing");
        let until = Instant::now() + SETTLES_WITHIN;
        let mut outcomes = Vec::new();
        for n in &promised {
            let id = format!("run-{n}");
            let left = until.saturating_duration_since(Instant::now());
            let what = format!("{id} ends");
            let end = wait::until(&what, left.max(Duration::from_secs(1)), || async {
                let document = self.client.execution("worker", &id).await;
                if document["status"] == "queued" || document["status"] == "running" {
                    Err(document.to_string())
                } else {
                    Ok(document)
                }
            });
            let end = end.await;
            assert_eq!(end["status"], "completed", "{end:#}");
            assert_eq!(end["result"]["output"], *n, "{end:#}");
            outcomes.push((id, end["completed_at"].clone(), end["attempt"].clone()));
        }
        for (id, completed_at, attempt) in outcomes {
            let again = self.client.execution("worker", &id).await;
            let kept = (&again["completed_at"], &again["attempt"]);
            assert_eq!(
                kept,
                (&completed_at, &attempt),
                "its outcome was recorded twice: {again:#}"
            );
        }
    }
}

/// Until the agent answers a sync call again; how long that took.
async fn answers(client: &Client) -> Duration {
    let begun = Instant::now();
    wait::until("the agent answers", ANSWERS_WITHIN, || async {
        let body = fixtures::with(
            fixtures::call(json!({"n": 7, "ms": 0})),
            json!({"execution_options": {"timeout": 2}}),
        );
        // One that a frozen executor has taken is answered by nobody.
        let asked = client.execute_with("worker", &body);
        let Ok(answer) = tokio::time::timeout(Duration::from_secs(3), asked).await else {
            return Err("no answer within 3 s".to_owned());
        };
        match answer.status {
            200 if answer.body()["result"]["output"] == 7 => Ok(()),
            _ => Err(format!("{} {}", answer.status, answer.text)),
        }
    })
    .await;
    begun.elapsed()
}

/// The agent has one host, not `lost`, and no instance anywhere else.
async fn one_host(cluster: &Cluster, lost: &str) {
    wait::until("one host", Duration::from_secs(30), || async {
        let serving = serving(cluster);
        let instances = instances(&cluster.client).await;
        let there = |one: &Value| one["node_id"].as_str() != Some(lost);
        let good = serving.len() == 1 && serving[0] != lost && instances.iter().all(there);
        if good && !instances.is_empty() {
            Ok(())
        } else {
            Err(format!("{serving:?} {instances:?}"))
        }
    })
    .await;
}

async fn gone(pids: &BTreeSet<u64>) {
    wait::until(
        "its instances are gone",
        Duration::from_secs(20),
        || async {
            let left: Vec<_> = pids
                .iter()
                .filter(|pid| Path::new(&format!("/proc/{pid}")).exists())
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        },
    )
    .await;
}

#[tokio::test]
async fn an_agent_outlives_its_executor() {
    let (mut cluster, host) = with_worker().await;
    let lost = cluster.part(&host).node().expect("a node");
    let load = Load::new(&cluster);
    let client = cluster.client.clone();
    let fault = async {
        wait::until("some are accepted", Duration::from_secs(30), || async {
            let accepted = load.promised.lock().expect("whole").len();
            if accepted >= 30 {
                Ok(())
            } else {
                Err(accepted.to_string())
            }
        })
        .await;
        cluster.part(&host).kill9();
        let took = answers(&client).await;
        eprintln!("it answered {took:?} after its executor was killed");
        load.over.store(true, Ordering::Relaxed);
    };
    tokio::join!(load.run(), fault);
    load.all_done().await;
    one_host(&cluster, &lost).await;
    // Back again, it hosts nothing of what others have.
    cluster.part(&host).spawn();
    cluster.all_ready().await;
    one_host(&cluster, &lost).await;
    assert_eq!(
        cluster
            .client
            .output("worker", json!({"n": 1, "ms": 0}))
            .await,
        1
    );
}

#[tokio::test]
async fn a_frozen_executor_lets_go_when_it_wakes() {
    let (mut cluster, host) = with_worker().await;
    let lost = cluster.part(&host).node().expect("a node");
    let before = pids(&cluster.client).await;
    assert_eq!(before.len(), 1, "{before:?}");
    let load = Load::new(&cluster);
    let client = cluster.client.clone();
    let fault = async {
        let frozen = Instant::now();
        cluster.part(&host).signal(Signal::SIGSTOP);
        answers(&client).await;
        tokio::time::sleep(Duration::from_secs(15).saturating_sub(frozen.elapsed())).await;
        cluster.part(&host).signal(Signal::SIGCONT);
        load.over.store(true, Ordering::Relaxed);
    };
    tokio::join!(load.run(), fault);
    one_host(&cluster, &lost).await;
    gone(&before).await;
    load.all_done().await;
    one_host(&cluster, &lost).await;
    answers(&cluster.client).await;
}

#[tokio::test]
async fn told_to_leave_it_hands_over_first() {
    let (mut cluster, host) = with_worker().await;
    let lost = cluster.part(&host).node().expect("a node");
    let load = Load::new(&cluster);
    let leave = async {
        wait::until("some are accepted", Duration::from_secs(30), || async {
            let accepted = load.promised.lock().expect("whole").len();
            if accepted >= 30 {
                Ok(())
            } else {
                Err(accepted.to_string())
            }
        })
        .await;
        let part = cluster.part(&host);
        part.signal(Signal::SIGTERM);
        let left = wait::until("it has left", Duration::from_secs(40), || {
            let ended = part.has_ended();
            async move { ended.ok_or_else(|| "it runs".to_owned()) }
        });
        assert!(left.await.success(), "{}", part.tail());
        part.child = None;
        // Others had it before it was gone.
        assert!(
            !serving(&cluster).contains(&lost),
            "{:?}",
            serving(&cluster)
        );
        load.over.store(true, Ordering::Relaxed);
    };
    tokio::join!(load.run(), leave);
    load.all_done().await;
    one_host(&cluster, &lost).await;
    answers(&cluster.client).await;
}

#[tokio::test]
async fn an_outage_of_the_database_moves_nothing() {
    let (cluster, _) = with_worker().await;
    let generations = || {
        let sql = "SELECT node_id, state, generation FROM envelopes ORDER BY node_id";
        cluster.backing.as_ref().expect("a cluster").rows(sql)
    };
    let before = generations();
    let long = fixtures::with(
        fixtures::call(json!({"n": 5, "ms": 4000})),
        json!({"execution_id": "over-it", "execution_options": {"async": true}}),
    );
    cluster.client.execute_with("worker", &long).await.ok();
    cluster
        .client
        .execution_status("worker", "over-it", "running")
        .await;
    let backing = cluster.backing.as_ref().expect("a cluster");
    backing.cut_database();
    // Twice as long as a silence that counts.
    tokio::time::sleep(Duration::from_secs(12)).await;
    backing.mend_database();
    let end = cluster.client.execution_end("worker", "over-it").await;
    assert_eq!(
        (&end["status"], &end["attempt"]),
        (&json!("completed"), &json!(1)),
        "{end:#}"
    );
    answers(&cluster.client).await;
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        assert_eq!(generations(), before);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test]
async fn a_version_that_answers_is_hosted_again_when_its_orders_are_gone() {
    let (cluster, _) = with_worker().await;
    let backing = cluster.backing.as_ref().expect("a cluster");
    backing.rows("DELETE FROM envelopes");
    wait::until("it has a host again", SETTLES_WITHIN, || {
        let hosts = serving(&cluster).len();
        async move { (hosts == 1).then_some(()).ok_or(format!("{hosts} hosts")) }
    })
    .await;
    answers(&cluster.client).await;
}
