//! Two hundred agents, and one of them bursts: nobody else starves, it stays within its bounds, and nothing is lost.

use futures::StreamExt;
use phalanx_tests::{Client, Cluster, Options, Value, fixtures, json, wait};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

const OTHERS: usize = 199;
const MOST: usize = 32;
/// Callers of the burst, each of whom calls again until it is over, and async executions that are handed in at its beginning.
const CALLERS: usize = 160;
const HANDED_IN: usize = 80;
/// Callers of the others, who go round them.
const WALKERS: usize = 8;
/// How long a call may wait: on a slow machine too, nobody is to be refused for that.
const PATIENCE_S: u64 = 110;
const SOON: Duration = Duration::from_secs(120);

/// Each of its starts holds a turn for a while without a processor, so that whoever has to stand behind a burst of them shows it.
const BURSTER: &str = "
import os, time
time.sleep(0.25)
def handler(input):
    time.sleep(0.5)
    return input
";

fn scaling(most: usize) -> Value {
    json!({"auto_scaling": {"min_instances": 0, "max_instances": most}})
}

/// Whom the walkers call.
fn other(n: usize) -> String {
    format!("other-{n:03}")
}

async fn deploy_all(client: &Client) {
    let burster = json!({
        "agent_code": {"configuration": {"concurrent_executions": 1, "warm_start": false, "timeout": PATIENCE_S}},
        "deployment_config": scaling(MOST),
    });
    client.deploy_source("burster", BURSTER, burster).await;
    let deploys = (0..OTHERS).map(|n| async move {
        let changes = json!({
            "agent_code": {"configuration": {"timeout": PATIENCE_S}},
            "deployment_config": scaling(2),
        });
        client
            .deploy_source(&other(n), fixtures::ECHO, changes)
            .await
    });
    let deployed = futures::stream::iter(deploys).buffer_unordered(16);
    assert_eq!(deployed.count().await, OTHERS);
}

async fn living(client: &Client, agent: &str) -> Vec<Value> {
    let path = format!("/api/v1/agents/{agent}/instances");
    let list = client.get(&path).await.ok();
    list["instances"].as_array().expect("a list").clone()
}

/// From here on everybody's next call meets nobody.
async fn all_at_zero(client: &Client) {
    for agent in (0..OTHERS).map(other).chain(["burster".to_owned()]) {
        wait::until("nobody is left", SOON, || async {
            match living(client, &agent).await {
                now if now.is_empty() => Ok(()),
                now => Err(format!("{agent}: {now:?}")),
            }
        })
        .await;
    }
}

/// A call that must be answered: what it waited for an instance, in milliseconds, by the platform's own figures.
async fn call(client: &Client, agent: &str, parameters: &Value) -> f64 {
    let document = client.execute(agent, parameters.clone()).await;
    assert_eq!(document["status"], "completed", "{document:#}");
    assert_eq!(&document["result"]["output"], parameters);
    let wait = document["performance"]["queue_time"].as_f64();
    wait.unwrap_or_else(|| panic!("no queue_time: {document:#}"))
}

/// Every one of the others is called once, some at a time: what each waited, sorted.
async fn walk(client: &Client, round: &str) -> Vec<f64> {
    let calls = (0..OTHERS)
        .map(|n| async move { call(client, &other(n), &json!({"round": round, "n": n})).await });
    let mut waits: Vec<f64> = futures::stream::iter(calls)
        .buffer_unordered(WALKERS)
        .collect()
        .await;
    waits.sort_by(f64::total_cmp);
    waits
}

fn at(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize]
}

/// The burst: as many callers as it has, until they are told that it is over.
struct Burst {
    callers: JoinSet<Vec<f64>>,
    over: Arc<AtomicBool>,
    handed_in: Vec<String>,
    most_seen: Arc<AtomicUsize>,
    watcher: JoinSet<()>,
}

impl Burst {
    async fn begin(client: &Client) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (client, over) = (client.clone(), Arc::clone(&over));
            callers.spawn(async move {
                let mut waits = Vec::new();
                while waits.is_empty() || !over.load(Ordering::SeqCst) {
                    let parameters = json!({"caller": caller, "call": waits.len()});
                    waits.push(call(&client, "burster", &parameters).await);
                }
                waits
            });
        }
        let accepted = (0..HANDED_IN).map(|n| client.execute_async("burster", json!({"n": n})));
        let handed_in = futures::future::join_all(accepted).await;
        let most_seen = Arc::new(AtomicUsize::new(0));
        let mut watcher = JoinSet::new();
        watcher.spawn({
            let (client, over) = (client.clone(), Arc::clone(&over));
            let most_seen = Arc::clone(&most_seen);
            async move {
                while !over.load(Ordering::SeqCst) {
                    let now = living(&client, "burster").await.len();
                    most_seen.fetch_max(now, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        });
        Self {
            callers,
            over,
            handed_in,
            most_seen,
            watcher,
        }
    }

    async fn has_grown_to(&self, wanted: usize) {
        wait::until("it has grown", SOON, || async {
            match self.most_seen.load(Ordering::SeqCst) {
                most if most >= wanted => Ok(()),
                most => Err(most.to_string()),
            }
        })
        .await;
    }

    /// Every call that was accepted has its answer: what the callers waited, sorted.
    async fn end(mut self, client: &Client) -> Vec<f64> {
        self.over.store(true, Ordering::SeqCst);
        let mut waits = self.callers.join_all().await.concat();
        waits.sort_by(f64::total_cmp);
        self.watcher.join_next().await;
        let mut outputs = BTreeSet::new();
        for id in &self.handed_in {
            let end = client.execution_end("burster", id).await;
            assert_eq!(end["status"], "completed", "{end:#}");
            outputs.insert(end["result"]["output"]["n"].as_u64());
        }
        assert_eq!(outputs.len(), HANDED_IN, "{outputs:?}");
        waits
    }
}

/// By agent: how many executions the platform has counted.
async fn counted(client: &Client) -> BTreeMap<String, usize> {
    let list = client.get("/api/v1/agents?limit=200").await.ok();
    let agents = list["agents"].as_array().expect("a list").iter();
    let count = |agent: &Value| {
        let total = agent["performance_metrics"]["total_requests"].as_u64();
        usize::try_from(total.unwrap_or(0)).expect("a small number")
    };
    let name = |agent: &Value| agent["agent_id"].as_str().expect("an id").to_owned();
    agents.map(|agent| (name(agent), count(agent))).collect()
}

#[tokio::test]
async fn one_of_two_hundred_bursts_and_starves_nobody() {
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__EXECUTOR__IDLE_S", "1")).await;
    let client = &cluster.client;
    deploy_all(client).await;

    all_at_zero(client).await;
    let own = call(client, "burster", &json!({})).await;
    let calm = walk(client, "calm").await;

    all_at_zero(client).await;
    let burst = Burst::begin(client).await;
    let busy = walk(client, "busy").await;
    burst.has_grown_to(MOST).await;
    let most = Arc::clone(&burst.most_seen);
    let bursting = burst.end(client).await;

    let figures = [("calm", &calm), ("busy", &busy), ("burst", &bursting)].map(|(of, waits)| {
        let [half, most, all] = [0.5, 0.95, 1.0].map(|share| at(waits, share));
        format!("{of}: {half:.0}, {most:.0}, {all:.0} ms")
    });
    let figures = format!(
        "p50, p95 and the longest wait: {figures:?}; alone the burster starts in {own:.0} ms"
    );
    println!(
        "{figures}; it was called {} times",
        bursting.len() + HANDED_IN
    );
    // Whoever starts waits for a turn at most, which may be one of the burster's; beside it, the machine has more to do.
    for (share, turns) in [(0.5, 1.0), (1.0, 4.0)] {
        let bound = 10.0 * at(&calm, share) + turns * own;
        assert!(at(&busy, share) <= bound, "over {bound:.0} ms: {figures}");
    }
    // Who bursts stands in a queue of its own.
    assert!(at(&busy, 0.5) < at(&bursting, 0.5), "{figures}");

    let most = most.load(Ordering::SeqCst);
    assert!(most <= MOST, "{most} instances at once");
    let agent = client.get("/api/v1/agents/burster").await.ok();
    let events = agent["scaling"]["scaling_events"]
        .as_array()
        .expect("a list");
    let over = events
        .iter()
        .find(|event| event["to_instances"].as_u64() > Some(MOST as u64));
    assert_eq!(over, None, "{agent:#}");

    let mut wanted: BTreeMap<String, usize> = (0..OTHERS).map(|n| (other(n), 2)).collect();
    wanted.insert("burster".to_owned(), 1 + bursting.len() + HANDED_IN);
    assert_eq!(counted(client).await, wanted);
}
