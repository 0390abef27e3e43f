//! POST /keys

use super::{make, reader};
use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn opens_what_it_was_made_for_and_nothing_else() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    for id in ["echo", "other"] {
        client.deploy_source(id, fixtures::ECHO, json!({})).await;
    }
    let (made, reads) = make(client, &reader()).await;
    let secret = made["api_key"].as_str().expect("a secret");
    assert!(secret.starts_with("akc_"), "{secret}");
    assert_eq!(made["auto_rotation"], true);
    assert_eq!(made["agents"], json!(null));
    assert!(made["rotate_at"].is_string() && made["expires_at"].is_string());
    reads.get("/api/v1/agents/echo").await.ok();
    reads
        .execute_with("echo", &fixtures::call(json!({})))
        .await
        .refused(403, "FORBIDDEN");
    let one = json!({"name": "of one", "permissions": ["agent:execute", "agent:monitor"], "agents": ["echo"], "auto_rotation": false});
    let (made, one) = make(client, &one).await;
    assert_eq!(
        json!([made["rotate_at"], made["expires_at"], made["auto_rotation"]]),
        json!([null, null, false])
    );
    one.execute("echo", json!({"n": 1})).await;
    one.get("/api/v1/agents/other")
        .await
        .refused(404, "NOT_FOUND");
    let audit = client.get("/api/v1/audit?limit=1").await.ok();
    assert_eq!(audit["records"][0]["action"], "key.create");
    let subject = format!("keys/{}", made["key_id"].as_str().expect("an id"));
    assert_eq!(audit["records"][0]["subject"], subject.as_str());
}

#[tokio::test]
async fn nobody_gives_what_they_have_not() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let manager = json!({"name": "manages", "permissions": ["key:manage", "agent:monitor"], "agents": ["echo"]});
    let (_, manager) = make(client, &manager).await;
    let more = json!({"name": "more", "permissions": ["agent:monitor", "agent:delete"], "agents": ["echo"]});
    let refused = manager.post("/api/v1/keys", &more).await;
    let error = refused.refused(403, "FORBIDDEN");
    let faults = error["details"]["validation_errors"].to_string();
    assert!(
        faults.contains("agent:delete") && !faults.contains("agent:monitor"),
        "{faults}"
    );
    manager
        .post("/api/v1/keys", &reader())
        .await
        .refused(403, "FORBIDDEN");
    manager.get("/api/v1/keys").await.refused(403, "FORBIDDEN");
    let (_, reads) = make(client, &reader()).await;
    reads
        .post("/api/v1/keys", &reader())
        .await
        .refused(403, "FORBIDDEN");
}

#[tokio::test]
async fn every_fault_is_told() {
    let cluster = Cluster::start().await;
    let bad = json!({"name": "a\u{0}b", "permissions": ["agent:fly", 5], "agents": ["Not An Id"], "auto_rotation": "yes", "scope": 1});
    let faults = cluster.client.post("/api/v1/keys", &bad).await.faults();
    for path in [
        "name",
        "permissions[0]",
        "permissions[1]",
        "agents[0]",
        "auto_rotation",
        "scope",
    ] {
        let told = faults
            .iter()
            .any(|fault| fault.starts_with(&format!("{path}: ")));
        assert!(told, "{path}: {faults:#?}");
    }
    let none = json!({"name": "none", "permissions": [], "agents": []});
    let faults = cluster.client.post("/api/v1/keys", &none).await.faults();
    assert_eq!(faults.len(), 2, "{faults:#?}");
}
