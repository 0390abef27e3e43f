//! GET /keys

use super::{make, reader};
use phalanx_tests::{Cluster, json, wait};
use std::time::Duration;

#[tokio::test]
async fn shows_all_but_the_secrets_and_when_they_were_used() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let (made, reads) = make(client, &reader()).await;
    let list = client.get("/api/v1/keys?limit=1").await.ok();
    let newest = &list["keys"][0];
    assert_eq!(newest["key_id"], made["key_id"]);
    assert_eq!(newest["permissions"], json!(["agent:monitor"]));
    assert_eq!(list["pagination"]["total"], 2, "the first key is there too");
    assert!(newest.get("api_key").is_none(), "{newest:#}");
    let secret = made["api_key"].as_str().expect("a secret");
    assert!(!list.to_string().contains(&secret[8..]));
    assert_eq!(newest["last_used_at"], json!(null));
    reads.get("/api/v1/agents").await.ok();
    wait::until("it was used", Duration::from_secs(30), || async {
        let list = client.get("/api/v1/keys").await.ok();
        let used = list["keys"][0]["last_used_at"].is_string();
        used.then_some(()).ok_or_else(|| list.to_string())
    })
    .await;
    client.get("/api/v1/keys?all=perhaps&page=0").await.faults();
}
