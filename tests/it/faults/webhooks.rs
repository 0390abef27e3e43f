//! Whoever dies while callbacks are on their way: each execution's caller is told, of one callback.

use crate::chance::{Chance, seed};
use phalanx_tests::{Client, Cluster, Options, Receiver, Shape, Value, json, wait};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

const SOURCE: &str = "import time\ndef handler(input):\n    time.sleep(input['ms'] / 1000)\n    return input['ms']\n";
const FAILS: &str = "def handler(input):\n    if input.get('bad'):\n        raise ValueError('bad')\n    return 1\n";
const TOLD_WITHIN: Duration = Duration::from_secs(240);

fn open() -> Options {
    Options::default().set("PHALANX__WEBHOOKS__PRIVATE", "127.0.0.0/8:*")
}

/// Accepts some executions that tell `url` of their end.
async fn accept(client: &Client, url: &str, ids: std::ops::Range<u32>, chance: &mut Chance) {
    for n in ids {
        let body = json!({"execution_id": format!("e{n}"), "input_data": {"parameters": {"ms": chance.below(1500)}},
            "execution_options": {"async": true, "callback_url": url}});
        client.execute_with("agent", &body).await.ok();
    }
}

/// Once the callbacks of all are delivered: each has one, and each was told.
async fn all_told(client: &Client, receiver: &Receiver, count: usize) {
    let list = wait::until("all are told", TOLD_WITHIN, || async {
        let path = "/api/v1/agents/agent/callbacks?limit=100";
        let list = client.get(path).await.ok();
        let all = list["callbacks"].as_array().expect("a list");
        assert!(all.len() <= count, "{list:#}");
        let over = all.iter().filter(|one| one["status"] == "delivered");
        if over.count() == count {
            Ok(list)
        } else {
            Err(format!("{list:#}"))
        }
    })
    .await;
    let all = list["callbacks"].as_array().expect("a list");
    let of = |name: &str| -> BTreeSet<String> {
        let words = all.iter().map(|one| one[name].as_str().expect("a word"));
        words.map(str::to_owned).collect()
    };
    assert_eq!(of("execution_id").len(), count, "{list:#}");
    let told: BTreeSet<String> = receiver
        .at("/end")
        .iter()
        .map(|message| {
            let document: Value = message.document();
            assert_eq!(document["status"], "completed", "{document:#}");
            message.headers["webhook-id"].clone()
        })
        .collect();
    assert_eq!(told, of("callback_id"));
}

#[tokio::test]
async fn callbacks_survive_kill_9_of_everything() {
    let seed = seed();
    eprintln!("PHALANX_TEST_SEED={seed}");
    let mut chance = Chance(seed);
    let mut cluster = Cluster::embedded(open()).await;
    let receiver = Receiver::start().await;
    // Some are told at once, some later.
    let busy = "503 Busy";
    receiver.answers(
        "/end",
        &[busy, "204 No Content", busy, busy, "204 No Content"],
    );
    let url = receiver.url("/end");
    cluster
        .client
        .deploy_source("agent", SOURCE, json!({}))
        .await;
    for round in 0..5 {
        let client = cluster.client.clone();
        accept(&client, &url, round * 4..(round + 1) * 4, &mut chance).await;
        tokio::time::sleep(Duration::from_millis(chance.below(1500))).await;
        cluster.kill9();
        cluster.restart().await;
    }
    all_told(&cluster.client, &receiver, 20).await;
}

#[tokio::test]
async fn callbacks_survive_kill_9_of_each_role() {
    let seed = seed();
    eprintln!("PHALANX_TEST_SEED={seed}");
    let mut chance = Chance(seed);
    let mut cluster = Cluster::many(Shape::SMALL, open()).await;
    let receiver = Receiver::start().await;
    receiver.answers(
        "/end",
        &["503 Busy", "204 No Content", "503 Busy", "204 No Content"],
    );
    let url = receiver.url("/end");
    let client = cluster.client.clone();
    client.deploy_source("agent", SOURCE, json!({})).await;
    let mut next = 0;
    for name in ["monitor-1", "gateway-2", "executor-1", "monitor-1"] {
        accept(&client, &url, next..next + 4, &mut chance).await;
        next += 4;
        tokio::time::sleep(Duration::from_millis(chance.below(1500))).await;
        cluster.part(name).kill9();
        if name.starts_with("gateway") {
            cluster.part(name).spawn();
            cluster.all_ready().await;
        } else {
            accept(&client, &url, next..next + 1, &mut chance).await;
            next += 1;
            cluster.part(name).spawn();
            cluster.all_ready().await;
        }
    }
    all_told(&client, &receiver, next as usize).await;
}

/// Seconds of the minute.
fn second() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_secs() % 60
}

async fn alert_of(client: &Client, agent: &str, status: &str) -> Value {
    wait::until(&format!("an alert of {agent}"), TOLD_WITHIN, || async {
        let path = format!("/api/v1/alerts?agent_id={agent}");
        let list = client.get(&path).await.ok();
        let all = list["alerts"].as_array().expect("a list");
        assert!(all.len() <= 1, "{list:#}");
        match all.first() {
            Some(one) if one["status"] == status => Ok(one.clone()),
            _ => Err(format!("{list:#}")),
        }
    })
    .await
}

/// The domain's tests play hours of it; here for as long as a minute takes to be over.
#[tokio::test]
async fn what_came_and_went_while_no_monitor_was_there_is_an_alert_that_nobody_is_told_of() {
    let mut cluster = Cluster::many(Shape::SMALL, open()).await;
    let (client, receiver) = (cluster.client.clone(), Receiver::start().await);
    let off = json!({"enabled": false});
    let policy = json!({
        "rules": {"error_rate": {"threshold": 0.5, "for_minutes": 0, "minimum_samples": 4},
            "latency": off, "availability": off, "resource": off},
        "escalation": {"level_1": {"after_minutes": 0, "webhooks": [receiver.url("/alert")]}},
        "resolve_after_minutes": 0,
    });
    let put = client.request(reqwest::Method::PUT, "/api/v1/alerts/policy");
    client
        .send(put.json(&policy))
        .await
        .expect("an answer")
        .ok();
    let run = async |agent: &str, bad: bool, times: u32| {
        for _ in 0..times {
            client.execute(agent, json!({"bad": bad})).await;
        }
    };
    for agent in ["seen", "missed"] {
        client.deploy_source(agent, FAILS, json!({})).await;
    }
    run("seen", true, 6).await;
    let seen = alert_of(&client, "seen", "escalated").await;
    cluster.part("monitor-1").kill9();
    let away = Instant::now();
    wait::until("a minute is young", TOLD_WITHIN, || async {
        let second = second();
        if (1..25).contains(&second) {
            Ok(())
        } else {
            Err(second.to_string())
        }
    })
    .await;
    run("missed", true, 6).await;
    wait::until("it is over, and time has passed", TOLD_WITHIN, || async {
        let (second, away) = (second(), away.elapsed());
        let over = second >= 25;
        if over && away > Duration::from_secs(32) {
            Ok(())
        } else {
            Err(format!("{second} {away:?}"))
        }
    })
    .await;
    wait::until("the next minute is there", TOLD_WITHIN, || async {
        let second = second();
        if second < 25 {
            Ok(())
        } else {
            Err(second.to_string())
        }
    })
    .await;
    run("missed", false, 30).await;
    cluster.part("monitor-1").spawn();
    let missed = alert_of(&client, "missed", "resolved").await;
    assert_eq!(
        (&missed["level"], missed["figures"]["value"].as_f64()),
        (&json!(0), Some(1.0)),
        "{missed:#}"
    );
    assert_eq!(
        missed["notifications"].as_array().map(Vec::len),
        Some(0),
        "{missed:#}"
    );
    let told = receiver.at("/alert");
    assert!(
        told.iter()
            .all(|one| one.document()["data"]["alert_id"] == seen["alert_id"]),
        "{told:#?}"
    );
}
