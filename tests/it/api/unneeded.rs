//! Code and packages that no version of any agent needs any more leave the disks of nodes and the object store; what is needed stays.

use phalanx_tests::{Cluster, Options, fixtures, json, wait};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const SODIUM: &str = "import ctypes, six\ndef handler(input):\n    return [six.__version__, ctypes.CDLL('libsodium.so.23').sodium_init() >= 0]\n";
const SIX: &str = "import six\ndef handler(input):\n    return six.__version__\n";

/// Finished folders of one kind, on all nodes.
fn made(cluster: &Cluster, room: &str) -> Vec<PathBuf> {
    let dirs = cluster.executor_dirs();
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir.join(room)));
    entries
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !path.to_string_lossy().contains("/."))
        .collect()
}

fn files(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            _ => 1,
        })
        .sum()
}

#[tokio::test]
async fn what_a_deleted_agent_needed_goes_and_the_rest_stays() {
    let shared =
        std::env::temp_dir().join(format!("phx-unneeded-{}", uuid::Uuid::new_v4().simple()));
    let options = Options::default()
        .set("PHALANX__EXECUTOR__UNUSED_S", "4")
        .set(
            "PHALANX__BLOBS__URL",
            &format!("file://{}", shared.display()),
        );
    let cluster = Cluster::start_with(options).await;
    let client = &cluster.client;
    let goes = fixtures::with(
        fixtures::agent("goes", SODIUM),
        json!({"agent_code": {"dependencies": {"python": ["six==1.16.0"], "system": ["libsodium23"]}}}),
    );
    let stays = fixtures::with(
        fixtures::agent("stays", SIX),
        json!({"agent_code": {"dependencies": {"python": ["six==1.17.0"]}}}),
    );
    client.deployed(&goes).await;
    client.deployed(&stays).await;
    assert_eq!(
        client.output("goes", json!({})).await,
        json!(["1.16.0", true])
    );
    assert_eq!(client.output("stays", json!({})).await, "1.17.0");
    let kept = shared.join("environments");
    assert_eq!(files(&kept), 3, "two environments and a layer");

    // Needed things outlive their time many times over: nothing is deleted for its age alone.
    let until = tokio::time::Instant::now() + Duration::from_secs(12);
    while tokio::time::Instant::now() < until {
        assert!(!made(&cluster, "layers").is_empty());
        assert_eq!(files(&kept), 3);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(
        client.output("goes", json!({})).await,
        json!(["1.16.0", true])
    );

    let deletion = client.delete("/api/v1/agents/goes").await.body();
    client.deployment_end(&deletion).await;
    let mine: Vec<PathBuf> = ["code", "environments"]
        .iter()
        .flat_map(|room| made(&cluster, room))
        .collect();
    wait::until(
        "what it needed is gone",
        Duration::from_secs(120),
        || async {
            let layers = made(&cluster, "layers");
            let rooms = ["code", "environments"].map(|room| {
                let mut names: Vec<_> = made(&cluster, room)
                    .iter()
                    .filter_map(|path| path.file_name().map(ToOwned::to_owned))
                    .collect();
                names.sort();
                names.dedup();
                names.len()
            });
            if layers.is_empty() && rooms == [1, 1] && files(&kept) == 1 {
                Ok(())
            } else {
                Err(format!(
                    "{layers:?}, {rooms:?}, {} shared; before {mine:?}",
                    files(&kept)
                ))
            }
        },
    )
    .await;
    assert_eq!(client.output("stays", json!({})).await, "1.17.0");

    // It comes back as if it had never been here.
    client.deployed(&goes).await;
    assert_eq!(
        client.output("goes", json!({})).await,
        json!(["1.16.0", true])
    );
    fs::remove_dir_all(shared).expect("removed");
}
