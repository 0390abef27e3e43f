//! Rows that hold what nobody wrote: who reads them goes past them, and says so.

use phalanx_tests::{Cluster, Options, Receiver, json, wait};
use std::{process::Command, time::Duration};

const SOURCE: &str = "def handler(input):\n    return 1\n";
/// More than gateways look at together.
const SPOILT: usize = 110;
const WITHIN: Duration = Duration::from_secs(240);

/// By another program, as a hand that slips.
fn written(cluster: &Cluster, sql: &str) {
    let script = "import sqlite3, sys\nrows = sqlite3.connect(sys.argv[1], timeout=60)\nrows.execute(sys.argv[2])\nrows.commit()\nrows.close()\n";
    let file = cluster.data_dir().join("phalanx.db");
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(file)
        .arg(sql)
        .output()
        .expect("Python starts");
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{sql}: {words}");
}

#[tokio::test]
async fn spoilt_rows_hold_up_no_callback() {
    let open = Options::default().set("PHALANX__WEBHOOKS__PRIVATE", "127.0.0.0/8:*");
    let cluster = Cluster::embedded(open).await;
    let (client, receiver) = (cluster.client.clone(), Receiver::start().await);
    client.deploy_source("agent", SOURCE, json!({})).await;
    let told = async |id: &str, path: &str| {
        let options = json!({"callback_url": receiver.url(path)});
        let body = json!({"execution_id": id, "execution_options": options});
        client.execute_with("agent", &body).await.ok();
    };
    for n in 0..SPOILT {
        told(&format!("old{n}"), "/old").await;
    }
    let count = async |status: &str| {
        let path = format!("/api/v1/agents/agent/callbacks?limit=1&status={status}");
        let list = client.get(&path).await.ok();
        list["pagination"]["total"].as_u64().expect("a number") as usize
    };
    let all = async |status: &str, most: usize| {
        wait::until(&format!("{most} are {status}"), WITHIN, || async {
            let found = count(status).await;
            if found == most {
                Ok(())
            } else {
                Err(found.to_string())
            }
        })
        .await;
    };
    all("delivered", SPOILT).await;
    // Callbacks that are owed by executions that cannot be read, and deliveries that cannot.
    written(
        &cluster,
        "UPDATE executions SET callback_owed = 1, options = 'nothing' WHERE id LIKE 'old%'",
    );
    written(
        &cluster,
        "UPDATE deliveries SET status = 'pending', due_at = 1, attempts = -1 WHERE execution_id LIKE 'old%'",
    );
    written(
        &cluster,
        "UPDATE deliveries SET account = 'not an account' WHERE execution_id LIKE 'old1%'",
    );
    let elsewhere = (0..SPOILT).filter(|n| n.to_string().starts_with('1'));
    let here = SPOILT - elsewhere.count();
    told("new", "/new").await;
    receiver.arrived("/new", 1).await;
    all("failed", here).await;
    let path = "/api/v1/agents/agent/callbacks?execution_id=old0";
    let list = client.get(path).await.ok();
    let attempts = &list["callbacks"][0]["attempts"];
    assert_eq!(
        attempts[attempts.as_array().expect("a list").len() - 1]["error"],
        "a row holds a bad attempts",
        "{list:#}"
    );
    all("delivered", 1).await;
}
