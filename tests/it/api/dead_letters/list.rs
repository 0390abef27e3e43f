//! GET /dead-letters

use super::World;
use phalanx_tests::{Cluster, json};

#[tokio::test]
async fn what_no_executor_can_read_is_listed_and_holds_nobody_up() {
    let world = World::start().await;
    let client = world.client();
    world.poison();
    let first = world.letters(1).await.remove(0);
    assert_eq!(
        json!([
            first["kind"],
            first["agent_id"],
            first["deliveries"],
            first["status"]
        ]),
        json!(["execution", null, 1, null])
    );
    world.poison();
    assert_eq!(world.letters(2).await[1], first);
    let page = client.get("/api/v1/dead-letters?page=2&limit=1").await.ok();
    assert_eq!(page["dead_letters"], json!([first]));
    let behind = client.execute_async("echo", json!({})).await;
    let end = client.execution_end("echo", &behind).await;
    assert_eq!(end["status"], "completed", "{end:#}");
}

#[tokio::test]
async fn where_all_is_well_there_are_none() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let list = client.get("/api/v1/dead-letters").await.ok();
    assert_eq!(
        list,
        json!({"dead_letters": [], "pagination": {"page": 1, "limit": 50, "total": 0, "total_pages": 0}})
    );
    client
        .get("/api/v1/dead-letters?limit=0&what=1")
        .await
        .faults();
}
