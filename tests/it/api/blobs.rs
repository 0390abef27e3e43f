//! Code and environments in an object store that executors share: what has lain there once is neither kept nor built again.

use phalanx_tests::{Cluster, Options, fixtures, json};
use std::fs;

const SIX: &str = "import six\ndef handler(input):\n    return six.__version__\n";

/// All that a deployment which ended well says.
async fn said(cluster: &Cluster, id: &str) -> String {
    let wanted = fixtures::with(
        fixtures::agent(id, SIX),
        json!({"agent_code": {"dependencies": {"python": ["six==1.17.0"]}}}),
    );
    let accepted = cluster.client.deployed(&wanted).await;
    cluster.client.deployment_end(&accepted).await.to_string()
}

#[tokio::test]
async fn code_and_environments_come_from_there() {
    let shared = std::env::temp_dir().join(format!("phx-blobs-{}", uuid::Uuid::new_v4().simple()));
    let url = format!("file://{}", shared.display());
    // It is killed and started again: that is about the one process that does everything.
    let mut cluster = Cluster::embedded(Options::default().set("PHALANX__BLOBS__URL", &url)).await;
    let first = said(&cluster, "first").await;
    assert!(first.contains("is built"), "{first}");
    assert!(first.contains("is kept for other executors"), "{first}");
    let code: Vec<_> = fs::read_dir(shared.join("artifacts"))
        .expect("code")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    let [code] = &code[..] else {
        panic!("one artifact, not {code:?}");
    };
    assert_eq!(fs::read_to_string(code).expect("read"), SIX);

    // A node that has lost all that it had unpacked gets it back.
    cluster.kill9();
    for room in ["code", "environments"] {
        fs::remove_dir_all(cluster.data_dir().join(room)).expect("removed");
    }
    cluster.restart().await;
    assert_eq!(cluster.client.output("first", json!({})).await, "1.17.0");

    fs::remove_dir_all(cluster.data_dir().join("environments")).expect("removed");
    let second = said(&cluster, "second").await;
    assert!(second.contains("is fetched"), "{second}");
    assert_eq!(cluster.client.output("second", json!({})).await, "1.17.0");
    fs::remove_dir_all(shared).expect("removed");
}
