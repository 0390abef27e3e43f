//! `dependencies.system`: a binary and a library of Debian for an agent, made once, and refused in words where it cannot be.

use phalanx_tests::{Cluster, Options, Value, fixtures, json, program, wait};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const GRAPH: &str = r#"
import ctypes, os, subprocess, graphviz

def handler(input):
    graph = graphviz.Digraph()
    graph.edge("agent", "graphviz")
    sodium = ctypes.CDLL("libsodium.so.23")
    sodium.sodium_version_string.restype = ctypes.c_char_p
    refused = []
    for path in ["/usr/bin/dot", "/usr/bin/mine", "/etc/ld.so.cache", "/usr/lib/mine"]:
        try:
            open(path, "a")
        except OSError as error:
            refused.append(error.errno)
    return {
        "version": subprocess.run(["dot", "-V"], capture_output=True, text=True).stderr,
        "svg": graph.pipe(format="svg").decode(),
        "sodium": sodium.sodium_version_string().decode(),
        "refused": refused,
    }
"#;

fn layers(cluster: &Cluster) -> BTreeSet<PathBuf> {
    let dirs = cluster.executor_dirs();
    let entries = dirs.iter().flat_map(|dir| fs::read_dir(dir.join("layers")));
    entries
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect()
}

fn wants(id: &str, source: &str, system: &[&str]) -> Value {
    fixtures::with(
        fixtures::agent(id, source),
        json!({"agent_code": {"dependencies": {"system": system}, "configuration": {"memory_limit": 256}}}),
    )
}

/// What every package touches on a host that it is installed on.
fn host() -> Vec<(PathBuf, u64, Option<std::time::SystemTime>)> {
    let mut all = Vec::new();
    for dir in [
        "/usr/bin",
        "/usr/sbin",
        "/etc/alternatives",
        "/etc/fonts",
        "/var/lib/dpkg",
        "/var/lib/dpkg/info",
        "/var/lib/apt/lists",
    ] {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if let Ok(meta) = entry.path().symlink_metadata() {
                all.push((entry.path(), meta.len(), meta.modified().ok()));
            }
        }
    }
    all.sort();
    all
}

fn lines(deployment: &Value) -> String {
    deployment["phases"].to_string()
}

#[tokio::test]
async fn graphviz_from_python_and_a_library_by_ctypes() {
    let cluster = Cluster::start().await;
    let before = host();
    let agent = fixtures::with(
        wants("graph", GRAPH, &["graphviz", "libsodium23"]),
        json!({"agent_code": {"dependencies": {"python": ["graphviz==0.20.3"]}}}),
    );
    cluster.client.deployed(&agent).await;
    let output = cluster.client.output("graph", json!({})).await;
    let text = |name: &str| output[name].as_str().unwrap_or_default().to_owned();
    assert!(text("version").contains("graphviz version"), "{output:#}");
    assert!(
        text("svg").contains("</svg>") && text("svg").contains("agent"),
        "{output:#}"
    );
    assert!(text("sodium").starts_with("1.0."), "{output:#}");
    const EROFS: i32 = 30;
    let refused = output["refused"].as_array().expect("a list");
    assert!(
        refused.len() == 4 && refused.iter().all(|errno| *errno == EROFS || *errno == 13),
        "{output:#}"
    );
    assert_eq!(before, host(), "the host has not changed");
    assert_eq!(layers(&cluster).len(), 1);

    // The example as it stands, upon the same layer.
    let agent = fixtures::with(
        wants(
            "example",
            &program::example("graphviz_agent.py"),
            &["libsodium23", "graphviz"],
        ),
        json!({"agent_code": {"dependencies": {"python": ["graphviz==0.20.3"]}}}),
    );
    let end = cluster.client.deployed(&agent).await;
    let end = cluster.client.deployment_end(&end).await;
    // Another executor, if it was chosen, makes a layer of its own.
    if cluster.executor_dirs().len() == 1 {
        assert!(lines(&end).contains("is there already"), "{end:#}");
    }
    let edges = json!({"edges": [["question", "model"]]});
    let svg = cluster.client.output("example", edges).await.to_string();
    assert!(svg.contains("</svg>") && svg.contains("question"), "{svg}");

    let without = "import shutil\ndef handler(input):\n    return shutil.which('dot')\n";
    cluster
        .client
        .deploy_source("plain", without, json!({}))
        .await;
    if !Path::new("/usr/bin/dot").exists() {
        assert_eq!(cluster.client.output("plain", json!({})).await, json!(null));
    }
    let health = cluster.client.get("/api/v1/system/health").await.ok();
    assert_eq!(
        health["nodes"][0]["system_packages"], "overlay",
        "{health:#}"
    );
}

const SODIUM: &str =
    "import ctypes\ndef handler(input):\n    return ctypes.CDLL('libsodium.so.23').sodium_init()\n";

#[tokio::test]
async fn two_that_want_the_same_at_once_make_one_layer() {
    let cluster = Cluster::start().await;
    let (one, two) = (
        wants("one", SODIUM, &["libsodium23"]),
        wants("two", SODIUM, &["libsodium23"]),
    );
    tokio::join!(cluster.client.deployed(&one), cluster.client.deployed(&two));
    let names: BTreeSet<_> = layers(&cluster)
        .iter()
        .map(|path| path.file_name().map(ToOwned::to_owned))
        .collect();
    assert_eq!(names.len(), 1, "{names:?}");
    for id in ["one", "two"] {
        assert_eq!(cluster.client.output(id, json!({})).await, 0);
    }
}

#[tokio::test]
async fn what_is_no_package_is_said() {
    let cluster = Cluster::start().await;
    for (name, words) in [
        ("no-such-package-of-debian", "Unable to locate package"),
        ("awk", "has no installation candidate"),
    ] {
        let end = cluster
            .client
            .deploy_fails(&wants(name, fixtures::ECHO, &[name]))
            .await;
        assert!(lines(&end).contains(words), "{end:#}");
        let reason = end.to_string();
        assert!(reason.contains("agent_code.dependencies.system"), "{end:#}");
    }
    let refused = cluster
        .client
        .deploy(&wants(
            "bad",
            fixtures::ECHO,
            &["libsodium23", "--allow-remove", "a=b c"],
        ))
        .await;
    let faults = refused.faults();
    assert_eq!(
        faults
            .iter()
            .filter(|one| one.contains("dependencies.system["))
            .count(),
        2,
        "{faults:?}"
    );
}

#[tokio::test]
async fn without_confinement_it_is_refused() {
    let options = Options::default().set("PHALANX__EXECUTOR__ISOLATION", "none");
    let cluster = Cluster::start_with(options).await;
    let end = cluster
        .client
        .deploy_fails(&wants("bare", SODIUM, &["libsodium23"]))
        .await;
    assert!(
        end.to_string()
            .contains("no executor can install the system packages"),
        "{end:#}"
    );
    let health = cluster.client.get("/api/v1/system/health").await.ok();
    let said = health["nodes"][0]["system_packages"]
        .as_str()
        .unwrap_or_default();
    assert!(said.starts_with("none ("), "{health:#}");
}

/// Whatever it had done by then, it is done anew, and nothing that is half made is used.
#[tokio::test]
async fn killed_while_a_layer_is_made() {
    let mut cluster = Cluster::embedded(Options::default()).await;
    let agent = wants("graph", SODIUM, &["libsodium23", "libhunspell-1.7-0"]);
    let accepted = cluster.client.deploy(&agent).await.ok();
    wait::until(
        "a layer is being made",
        Duration::from_secs(150),
        || async {
            let layers = layers(&cluster);
            if layers.is_empty() {
                Err("no layer is begun".to_owned())
            } else {
                Ok(())
            }
        },
    )
    .await;
    cluster.kill9();
    cluster.restart().await;
    let end = cluster.client.deployment_end(&accepted).await;
    assert_eq!(end["status"], "deployed", "{end:#}");
    assert_eq!(cluster.client.output("graph", json!({})).await, 0);
    let left = layers(&cluster);
    assert!(
        left.len() == 1
            && left
                .iter()
                .all(|path| !path.to_string_lossy().contains("/.")),
        "{left:?}"
    );
}
