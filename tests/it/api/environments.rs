//! Python dependencies: named, from a zip's own files, shared, and failing with the installer's own words.

use phalanx_tests::{Cluster, fixtures, json};
use std::{collections::BTreeSet, ffi::OsString, fs};

const SIX: &str = "import six\ndef handler(input):\n    return six.__version__\n";

fn built(cluster: &Cluster) -> usize {
    let dirs = cluster.executor_dirs();
    let entries = dirs
        .iter()
        .flat_map(|dir| fs::read_dir(dir.join("environments")))
        .flatten()
        .flatten();
    let names: BTreeSet<OsString> = entries.map(|entry| entry.file_name()).collect();
    names
        .iter()
        .filter(|name| !name.to_string_lossy().starts_with('.'))
        .count()
}

#[tokio::test]
async fn two_that_want_the_same_at_once_share_one() {
    let cluster = Cluster::start().await;
    let wants = |id: &str| {
        fixtures::with(
            fixtures::agent(id, SIX),
            json!({"agent_code": {"dependencies": {"python": ["six==1.17.0"]}}}),
        )
    };
    let (one, two) = (wants("one"), wants("two"));
    tokio::join!(cluster.client.deployed(&one), cluster.client.deployed(&two));
    assert_eq!(built(&cluster), 1);
    for id in ["one", "two"] {
        assert_eq!(cluster.client.output(id, json!({})).await, "1.17.0");
    }
    // What is shared cannot be written by those who share it.
    let vandal =
        "import six\ndef handler(input):\n    open(six.__file__, 'a').write('raise SystemError')\n";
    let changes = json!({"agent_code": {"dependencies": {"python": ["six==1.17.0"]}}});
    cluster
        .client
        .deploy_source("vandal", vandal, changes)
        .await;
    let error = cluster.client.failure("vandal", json!({})).await;
    assert_eq!(error["code"], "HANDLER_RAISED", "{error:#}");
    assert_eq!(cluster.client.output("one", json!({})).await, "1.17.0");
    assert_eq!(built(&cluster), 1);
}

#[tokio::test]
async fn a_zips_own_files_count_when_nothing_is_named() {
    let cluster = Cluster::start().await;
    for (id, file, text) in [
        (
            "requirements",
            "requirements.txt",
            "six==1.17.0  # pinned\n",
        ),
        (
            "pyproject",
            "pyproject.toml",
            "[project]\nname = 'x'\nversion = '1'\ndependencies = ['six==1.17.0']\n",
        ),
    ] {
        let zip = fixtures::zipped(&[("main.py", SIX.as_bytes()), (file, text.as_bytes())]);
        cluster.client.deployed(&fixtures::agent_of(id, &zip)).await;
        assert_eq!(cluster.client.output(id, json!({})).await, "1.17.0", "{id}");
        let versions = cluster
            .client
            .get(&format!("/api/v1/agents/{id}/versions"))
            .await
            .ok();
        assert_eq!(
            versions["versions"][0]["dependencies"]["python"],
            json!(["six==1.17.0"])
        );
    }
}

#[tokio::test]
async fn what_cannot_be_had_fails_with_the_tools_own_words() {
    let cluster = Cluster::start().await;
    for (id, python, words) in [
        ("unknown", json!(["six==99.99.99"]), "six"),
        ("conflict", json!(["six==1.17.0", "six==1.16.0"]), "six"),
    ] {
        let body = fixtures::with(
            fixtures::agent(id, SIX),
            json!({"agent_code": {"dependencies": {"python": python}}}),
        );
        let end = cluster.client.deploy_fails(&body).await;
        let phase = end["phases"]
            .as_array()
            .expect("a list")
            .iter()
            .find(|phase| phase["status"] == "failed");
        let phase = phase.unwrap_or_else(|| panic!("{end:#}"));
        assert_eq!(phase["name"], "package", "{end:#}");
        let logs = phase["logs"].to_string();
        assert!(
            logs.contains(words)
                && (logs.contains("unsatisfiable") || logs.contains("No solution")),
            "{id}: {logs}"
        );
    }
    // A host that cannot add Debian packages to a sandbox says so.
    let body = fixtures::with(
        fixtures::agent("system", fixtures::ECHO),
        json!({"agent_code": {"dependencies": {"system": ["cowsay"]}}}),
    );
    let accepted = cluster.client.deploy(&body).await.ok();
    let end = cluster.client.deployment_end(&accepted).await;
    if end["status"] != "deployed" {
        assert!(end["phases"].to_string().contains("cowsay"), "{end:#}");
    }
}
