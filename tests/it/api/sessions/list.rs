//! GET /agents/{id}/sessions

use super::{call, deploy};
use phalanx_tests::{Cluster, Options, json, wait};
use std::{collections::BTreeSet, time::Duration};

#[tokio::test]
async fn who_called_and_the_instances_they_have_alone() {
    let cluster =
        Cluster::start_with(Options::default().set("PHALANX__EXECUTOR__SESSION_IDLE_S", "6")).await;
    let client = &cluster.client;
    deploy(client, "session").await;
    let first = call(client, Some("one")).await;
    assert_eq!(
        call(client, Some("one")).await,
        first,
        "one session, one instance"
    );
    let mut all = BTreeSet::from([first.to_string()]);
    for session in [Some("two"), None, None] {
        all.insert(call(client, session).await.to_string());
    }
    assert_eq!(all.len(), 4, "nobody shares: {all:?}");
    let listed = client.get("/api/v1/agents/agent/sessions").await.ok();
    let sessions = listed["sessions"].as_array().expect("a list");
    assert_eq!(listed["pagination"]["total"], 2, "{listed:#}");
    assert_eq!(
        json!([
            sessions[0]["session_id"],
            sessions[1]["session_id"],
            sessions[1]["executions"],
            sessions[1]["open_executions"],
            sessions[1]["version"]
        ]),
        json!(["two", "one", 2, 0, "1.0.0"])
    );
    let own = |of: usize| sessions[of]["instances"][0]["instance_id"].clone();
    assert!(
        own(0).is_string() && own(1).is_string() && own(0) != own(1),
        "{listed:#}"
    );
    // Idle for too long, its instance is gone; the session goes on with another.
    wait::until(
        "idle sessions have no instance",
        Duration::from_secs(40),
        || async {
            let listed = client.get("/api/v1/agents/agent/sessions").await.ok();
            let sessions = listed["sessions"].as_array().expect("a list");
            if sessions.iter().all(|one| one["instances"] == json!([])) {
                Ok(())
            } else {
                Err(format!("{listed:#}"))
            }
        },
    )
    .await;
    assert_ne!(call(client, Some("one")).await, first);
}

#[tokio::test]
async fn without_isolation_sessions_share() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    deploy(client, "agent").await;
    let one = call(client, Some("one")).await;
    assert_eq!(call(client, Some("two")).await, one);
    let listed = client
        .get("/api/v1/agents/agent/sessions?limit=1&page=2")
        .await
        .ok();
    assert_eq!(
        json!([
            listed["sessions"][0]["session_id"],
            listed["sessions"][0]["instances"],
            listed["pagination"]["total"]
        ]),
        json!(["one", [], 2])
    );
    let nobody = client.get("/api/v1/agents/nobody/sessions").await;
    nobody.refused(404, "NOT_FOUND");
    let faults = client.get("/api/v1/agents/agent/sessions?limit=0").await;
    faults.refused(400, "VALIDATION_FAILED");
}
