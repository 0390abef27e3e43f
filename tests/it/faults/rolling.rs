//! A rolling restart of every process under load, as an upgrade does it: callers notice nothing but words that say to try again.

use phalanx_tests::{Client, Cluster, Options, Shape, fixtures, json};
use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

const SHAPE: Shape = Shape {
    gateways: 2,
    deployers: 2,
    executors: 2,
    monitors: 2,
};

#[derive(Default)]
struct Seen {
    over: AtomicBool,
    answered: AtomicU64,
    try_again: AtomicU64,
    failed: Mutex<Vec<String>>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_role_is_restarted_and_no_request_fails() {
    let mut cluster = Cluster::many(SHAPE, Options::default()).await;
    let source = "import time\ndef handler(input):\n    time.sleep(0.02)\n    return input['n']\n";
    let changes =
        json!({"deployment_config": {"auto_scaling": {"min_instances": 2, "max_instances": 4}}});
    cluster
        .client
        .deploy_source("steady", source, changes)
        .await;
    let (client, seen) = (cluster.client.clone(), Seen::default());
    let roll = async {
        let names: Vec<String> = cluster.parts.iter().map(|part| part.name.clone()).collect();
        for name in names {
            // As a proxy before them does: it is asked no more, then it leaves.
            let gateway = name
                .strip_prefix("gateway-")
                .and_then(|place| place.parse::<usize>().ok());
            if let Some(place) = gateway {
                client.leave_out(Some(place - 1));
            }
            let status = cluster.part(&name).terminate();
            assert!(
                status.success(),
                "{name}: {status}\n{}",
                cluster.part(&name).tail()
            );
            cluster.part(&name).spawn();
            cluster.all_ready().await;
            client.leave_out(None);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        seen.over.store(true, Ordering::Relaxed);
    };
    tokio::join!(
        roll,
        call(&client, &seen, false),
        call(&client, &seen, false),
        call(&client, &seen, true),
    );
    let (answered, again) = (
        seen.answered.load(Ordering::Relaxed),
        seen.try_again.load(Ordering::Relaxed),
    );
    let failed = seen.failed.lock().expect("whole");
    eprintln!(
        "{answered} requests answered, {again} told to try again, {} failed",
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:?}");
    assert!(answered > 200, "hardly any load: this proves nothing");
    assert!(
        again * 20 <= answered,
        "{again} of {answered} were told to try again"
    );
}

/// Calls one after the other. What says to be tried again is, by the same id.
async fn call(client: &Client, seen: &Seen, in_background: bool) {
    let mut n = 0;
    while !seen.over.load(Ordering::Relaxed) {
        n += 1;
        let id = format!(
            "{}-{n}-{}",
            if in_background { "later" } else { "now" },
            uuid::Uuid::new_v4().simple()
        );
        let body = fixtures::with(
            fixtures::call(json!({"n": n})),
            json!({"execution_id": id, "execution_options": {"async": in_background}}),
        );
        for _ in 0..100 {
            match client
                .try_post("/api/v1/agents/steady/execute", &body)
                .await
            {
                Ok(answer) if answer.status == 200 => {
                    let document = answer.body();
                    let good = in_background || document["result"]["output"] == n;
                    if !good {
                        seen.failed.lock().expect("whole").push(answer.text.clone());
                    }
                    seen.answered.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Ok(answer)
                    if matches!(answer.status, 429 | 503)
                        && answer.header("retry-after").is_some() =>
                {
                    seen.try_again.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(answer) => {
                    seen.failed
                        .lock()
                        .expect("whole")
                        .push(format!("{} {}", answer.status, answer.text));
                    break;
                }
                Err(error) => {
                    seen.failed.lock().expect("whole").push(error);
                    break;
                }
            }
        }
        if in_background {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
