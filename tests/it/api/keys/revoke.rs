//! DELETE /keys/{id}

use super::{UNKNOWN, make, reader};
use phalanx_tests::{Cluster, json};
use std::time::{Duration, Instant};

/// Every gateway refuses it within this; a slow machine's requests take some of it.
const WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn opens_nothing_any_more_on_any_gateway() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (made, reads) = make(client, &reader()).await;
    // Every gateway of a cluster knows it by then: they are asked in turns.
    for _ in 0..4 {
        reads.get("/api/v1/agents").await.ok();
    }
    let url = format!("/api/v1/keys/{}", made["key_id"].as_str().expect("an id"));
    let revoked = client.delete(&url).await.ok();
    assert!(revoked["revoked_at"].is_string(), "{revoked:#}");
    let since = Instant::now();
    let mut refused = 0;
    while refused < 4 {
        let sent = since.elapsed();
        let answer = reads.get("/api/v1/agents").await;
        refused = if answer.status == 401 { refused + 1 } else { 0 };
        assert!(refused > 0 || sent < WITHIN, "it opens after {sent:?}");
    }
    let again = client.delete(&url).await.ok();
    assert!(again["revoked_at"].is_string());
    let list = client.get("/api/v1/keys").await.ok();
    assert_eq!(list["pagination"]["total"], 1, "{list:#}");
    let all = client.get("/api/v1/keys?all=true").await.ok();
    assert_eq!(all["pagination"]["total"], 2, "{all:#}");
    client
        .post(&format!("{url}/rotate"), &json!({}))
        .await
        .refused(409, "CONFLICT");
}

#[tokio::test]
async fn a_key_leaves_somebody_who_can_manage_keys() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let list = client.get("/api/v1/keys").await.ok();
    let own = list["keys"][0]["key_id"].as_str().expect("an id");
    client
        .delete(&format!("/api/v1/keys/{own}"))
        .await
        .refused(409, "CONFLICT");
    let (_, manager) = make(
        client,
        &json!({"name": "manages keys only", "permissions": ["key:manage"]}),
    )
    .await;
    // It cannot take from another what it has not itself.
    manager
        .delete(&format!("/api/v1/keys/{own}"))
        .await
        .refused(403, "FORBIDDEN");
    client
        .delete(&format!("/api/v1/keys/{UNKNOWN}"))
        .await
        .refused(404, "NOT_FOUND");
    client
        .delete("/api/v1/keys/..")
        .await
        .refused(404, "NOT_FOUND");
}
