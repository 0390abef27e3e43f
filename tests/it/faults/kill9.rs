//! `kill -9` of the whole process at random moments under load, again and again: nothing that was accepted is lost, nothing
//! that ran is left behind.

use crate::chance::{Chance, seed};
use phalanx_tests::{Client, Cluster, Options, fixtures, json, remains, wait};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

const KILLS: u32 = 30;
/// The longest that a round runs before it is cut.
const LONGEST_MS: u64 = 900;
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// What callers were promised.
#[derive(Default)]
struct Promised {
    executions: Mutex<BTreeSet<String>>,
    /// Agent and deployment.
    deployments: Mutex<BTreeSet<(String, String)>>,
    next: AtomicU32,
}

#[tokio::test]
async fn nothing_is_lost_and_nothing_is_left() {
    let seed = seed();
    eprintln!("PHALANX_TEST_SEED={seed}");
    let mut chance = Chance(seed);
    let mut cluster = Cluster::embedded(Options::default()).await;
    let source = "import time\ndef handler(input):\n    print('run', input['n'])\n    time.sleep(input['ms'] / 1000)\n    return input['n']\n";
    let scaling =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 1, "max_instances": 2}}});
    cluster
        .client
        .deploy_source("worker", source, scaling)
        .await;
    let promised = Promised::default();
    let mut survivors = 0;
    for kill in 0..KILLS {
        let moment = Duration::from_millis(chance.below(LONGEST_MS));
        let load = Load {
            client: cluster.client.clone(),
            promised: &promised,
            over: AtomicBool::new(false),
            salt: chance.below(1000),
        };
        let cut = async {
            tokio::time::sleep(moment).await;
            cluster.kill9();
            load.over.store(true, Ordering::Relaxed);
        };
        tokio::join!(
            load.executions(),
            load.executions(),
            load.executions(),
            load.deployments(kill),
            cut
        );
        survivors += restarted(&mut cluster).await;
    }
    let counts = all_kept(&cluster.client, &promised).await;
    let deployments = all_ended(&cluster.client, &promised).await;
    settled(&cluster).await;
    eprintln!(
        "{KILLS} kills: {} executions accepted, {counts:?}; {} deployments accepted, {deployments:?}; {survivors} processes outlived their executor and were ended",
        promised.executions.lock().expect("whole").len(),
        promised.deployments.lock().expect("whole").len(),
    );
    assert!(
        promised.executions.lock().expect("whole").len() >= 100,
        "hardly any load: this proves nothing"
    );
    assert!(
        promised.deployments.lock().expect("whole").len() >= 10,
        "hardly any deployment: this proves nothing"
    );
}

/// Starts it again. What the killed run left must be gone soon after; gives how many processes that were.
async fn restarted(cluster: &mut Cluster) -> usize {
    let port = cluster
        .client
        .base
        .rsplit(':')
        .next()
        .and_then(|port| port.parse::<u16>().ok())
        .expect("a port");
    drop(TcpListener::bind(("127.0.0.1", port)).expect("the port is free again"));
    let before: BTreeSet<u32> = cluster
        .agent_processes()
        .iter()
        .map(|process| process.pid)
        .collect();
    cluster.restart().await;
    cluster.client.get("/readyz").await.ok();
    wait::until(
        "what the killed run left is gone",
        Duration::from_secs(15),
        || async {
            let left: Vec<_> = cluster
                .agent_processes()
                .into_iter()
                .filter(|process| before.contains(&process.pid))
                .collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        },
    )
    .await;
    before.len()
}

struct Load<'a> {
    client: Client,
    promised: &'a Promised,
    over: AtomicBool,
    salt: u64,
}

impl Load<'_> {
    /// Async executions, one after the other; only what was answered counts as promised.
    async fn executions(&self) {
        while !self.over.load(Ordering::Relaxed) {
            let n = self.promised.next.fetch_add(1, Ordering::Relaxed);
            let id = format!("run-{n}");
            let call = fixtures::call(json!({"n": n, "ms": (u64::from(n) * 7 + self.salt) % 120}));
            let body = fixtures::with(
                call,
                json!({"execution_id": id, "execution_options": {"async": true}}),
            );
            match self
                .client
                .try_post("/api/v1/agents/worker/execute", &body)
                .await
            {
                Ok(answer) if answer.status == 200 => {
                    self.promised.executions.lock().expect("whole").insert(id);
                }
                // Cut while it answered, or still starting: nothing was promised.
                Ok(answer) => assert!(
                    matches!(answer.status, 409 | 429 | 503),
                    "{} {}",
                    answer.status,
                    answer.text
                ),
                Err(_) => return,
            }
            tokio::time::sleep(Duration::from_millis(8)).await;
        }
    }

    /// A new agent, then new versions of it, as fast as they are accepted.
    async fn deployments(&self, kill: u32) {
        let mut version = 0;
        while !self.over.load(Ordering::Relaxed) {
            let id = format!("agent-{}", kill % 6);
            let changes = json!({
                "agent_metadata": {"version": format!("1.{kill}.{version}")},
                "deployment_config": {"auto_scaling": {"min_instances": 0, "max_instances": 1}},
            });
            let source = format!("def handler(input):\n    return {}\n", kill * 100 + version);
            match self
                .client
                .try_post(
                    "/api/v1/agents/deploy",
                    &fixtures::with(fixtures::agent(&id, &source), changes),
                )
                .await
            {
                Ok(answer) if answer.status == 200 => {
                    let deployment = answer.body()["deployment_id"]
                        .as_str()
                        .expect("an id")
                        .to_owned();
                    self.promised
                        .deployments
                        .lock()
                        .expect("whole")
                        .insert((id, deployment));
                }
                Ok(answer) => assert!(
                    matches!(answer.status, 409 | 429 | 503),
                    "{} {}",
                    answer.status,
                    answer.text
                ),
                Err(_) => return,
            }
            version += 1;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }
}

/// Every accepted execution has one outcome, and keeps it. How many ended how.
async fn all_kept(client: &Client, promised: &Promised) -> BTreeMap<String, usize> {
    let ids = promised.executions.lock().expect("whole").clone();
    let (mut counts, mut outcomes) = (BTreeMap::new(), BTreeMap::new());
    let until = Instant::now() + SETTLES_WITHIN;
    for id in &ids {
        let left = until
            .saturating_duration_since(Instant::now())
            .max(Duration::from_secs(1));
        let end = wait::until(&format!("{id} has its outcome"), left, || async {
            let document = client.execution("worker", id).await;
            let going = document["status"] == "queued" || document["status"] == "running";
            if going {
                Err(document.to_string())
            } else {
                Ok(document)
            }
        })
        .await;
        // The handler never fails, so nothing but its own result may be recorded.
        assert_eq!(end["status"], "completed", "{end:#}");
        assert_eq!(
            end["result"]["output"],
            json!(id["run-".len()..].parse::<u32>().expect("a number")),
            "{end:#}"
        );
        *counts
            .entry(end["status"].as_str().expect("a word").to_owned())
            .or_insert(0) += 1;
        outcomes.insert(
            id.clone(),
            (end["completed_at"].clone(), end["attempt"].clone()),
        );
    }
    for (id, outcome) in &outcomes {
        let again = client.execution("worker", id).await;
        assert_eq!(
            (&again["completed_at"], &again["attempt"]),
            (&outcome.0, &outcome.1),
            "its outcome was recorded twice: {again:#}"
        );
    }
    // What was accepted without the caller hearing of it ends as well.
    wait::until("nothing is open", SETTLES_WITHIN, || async {
        for status in ["queued", "running"] {
            let list = client
                .get(&format!("/api/v1/agents/worker/executions?status={status}"))
                .await
                .ok();
            if list["pagination"]["total"] != 0 {
                return Err(list.to_string());
            }
        }
        Ok(())
    })
    .await;
    let first = client
        .get("/api/v1/agents/worker/executions?limit=200")
        .await
        .ok();
    let pages = first["pagination"]["total_pages"]
        .as_u64()
        .expect("a count");
    let mut seen = BTreeSet::new();
    for page in 1..=pages {
        let list = client
            .get(&format!(
                "/api/v1/agents/worker/executions?limit=200&page={page}"
            ))
            .await
            .ok();
        for one in list["executions"].as_array().expect("a list") {
            assert!(
                seen.insert(one["execution_id"].as_str().expect("an id").to_owned()),
                "{one:#} is listed twice"
            );
        }
    }
    assert!(
        ids.is_subset(&seen),
        "lost: {:?}",
        ids.difference(&seen).collect::<Vec<_>>()
    );
    counts
}

/// Every accepted deployment went on or failed with a reason. How many ended how.
async fn all_ended(client: &Client, promised: &Promised) -> BTreeMap<String, usize> {
    let deployments = promised.deployments.lock().expect("whole").clone();
    let mut counts = BTreeMap::new();
    for (agent, deployment) in deployments {
        let path = format!("/api/v1/agents/{agent}/deployments/{deployment}");
        let end = wait::until("the deployment ends", SETTLES_WITHIN, || async {
            let document = client.get(&path).await.ok();
            if document["status"] == "deploying" {
                Err(document.to_string())
            } else {
                Ok(document)
            }
        })
        .await;
        let status = end["status"].as_str().expect("a word").to_owned();
        assert!(
            matches!(status.as_str(), "deployed" | "superseded" | "failed"),
            "{end:#}"
        );
        assert!(
            status != "failed"
                || end["reason"]
                    .as_str()
                    .is_some_and(|reason| !reason.is_empty()),
            "no reason: {end:#}"
        );
        *counts.entry(status).or_insert(0) += 1;
    }
    counts
}

/// In the end there is a control group for every process and nothing else, and everyone serves.
async fn settled(cluster: &Cluster) {
    let agents = cluster.client.get("/api/v1/agents?limit=200").await.ok();
    for agent in agents["agents"].as_array().expect("a list") {
        let id = agent["agent_id"].as_str().expect("an id");
        if agent["status"] == "active" {
            cluster.client.output(id, json!({"n": 0, "ms": 0})).await;
        }
        let list = cluster
            .client
            .get(&format!("/api/v1/agents/{id}/instances"))
            .await
            .ok();
        for instance in list["instances"].as_array().expect("a list") {
            let pid = instance["pid"].as_u64().expect("a pid");
            assert!(
                std::path::Path::new(&format!("/proc/{pid}")).exists(),
                "a row of an instance that is not there: {instance:#}"
            );
        }
    }
    // Instances have groups, and so have templates, spares and prepared sandboxes; those of a killed run would be empty by now.
    wait::until("no group is left over", Duration::from_secs(20), || async {
        let nodes = cluster.nodes();
        let groups = nodes.iter().flat_map(|node| remains::groups(node));
        let left: Vec<_> = groups.filter(|group| remains::is_empty(group)).collect();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
}
