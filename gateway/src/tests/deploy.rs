//! POST /agents/deploy and DELETE /agents/{id}.

use super::world::{World, deploy_body};
use domain::{deployment::Status, id::AccountId};
use serde_json::{Value, json};

#[tokio::test]
async fn a_first_deploy_shows_its_secrets_once() {
    let world = World::new().await;
    let first = world.deploy("mine", "1.0.0").await;
    assert_eq!(
        (first.status, &first.body["status"]),
        (200, &json!("deploying")),
        "{first:?}"
    );
    assert!(
        first.body["security"]["api_key"]
            .as_str()
            .is_some_and(|key| key.starts_with("akc_"))
    );
    assert!(
        first.body["security"]["webhook_secret"]
            .as_str()
            .is_some_and(|secret| secret.starts_with("whsec_"))
    );
    assert_eq!(
        first.body["api_endpoint"],
        format!("http://{}/api/v1/agents/mine/execute", world.address)
    );
    assert_eq!(
        first.body["monitoring"],
        json!({"cloudwatch_log_group": "/phalanx/agents/mine", "metrics_namespace": "Phalanx/mine", "dashboard_url": null})
    );
    let text = first.body.to_string();
    assert!(!text.contains("hunter2"));

    let again = world.deploy("mine", "1.0.0").await;
    assert_eq!(
        (again.status, &again.body["deployment_id"]),
        (200, &first.body["deployment_id"])
    );
    assert_eq!(
        again.body["security"],
        json!({"api_key": null, "webhook_secret": null})
    );

    let mut other = deploy_body("mine", "1.0.0");
    other["agent_metadata"]["name"] = json!("Another");
    assert_eq!(
        world.post("/api/v1/agents/deploy", &other).await.status,
        409
    );

    let next = world.deploy("mine", "1.1.0").await;
    assert_eq!(next.status, 200);
    assert_ne!(next.body["deployment_id"], first.body["deployment_id"]);
    assert_eq!(
        world.get("/api/v1/agents/mine/versions").await.body["pagination"]["total"],
        2
    );
    assert_eq!(
        world.get("/api/v1/agents/mine/deployments").await.body["pagination"]["total"],
        2
    );
}

#[tokio::test]
async fn what_failed_is_tried_again_by_the_same_request() {
    let world = World::new().await;
    let first = world.deploy("mine", "1.0.0").await;
    let id = first.body["deployment_id"].as_str().expect("an id");
    world.end_deployment(id, Status::Failed).await;
    let failed = world
        .get(&format!("/api/v1/agents/mine/deployments/{id}"))
        .await;
    assert_eq!(
        (
            &failed.body["status"],
            &failed.body["health"]["overall_status"]
        ),
        (&json!("failed"), &json!("unhealthy"))
    );
    assert_eq!(failed.body["phases"][0]["logs"], json!(["no such package"]));
    let refused = world.post("/api/v1/agents/mine/execute", &json!({})).await;
    assert_eq!(
        (refused.status, refused.code()),
        (409, "CONFLICT"),
        "{refused:?}"
    );
    assert!(
        refused.body["error"]["message"]
            .as_str()
            .is_some_and(|words| words.contains(id)),
        "{refused:?}"
    );
    assert_eq!(
        refused.body["error"]["details"]["deployment_logs"],
        json!(["no such package"])
    );
    let again = world.deploy("mine", "1.0.0").await;
    assert_eq!(again.status, 200);
    assert_ne!(again.body["deployment_id"], first.body["deployment_id"]);
}

#[tokio::test]
async fn many_at_once_make_one_agent() {
    let world = World::new().await;
    let all = futures::future::join_all((0..8).map(|_| world.deploy("mine", "1.0.0"))).await;
    assert!(all.iter().all(|answer| answer.status == 200), "{all:?}");
    let shown = all
        .iter()
        .filter(|answer| answer.body["security"]["api_key"].is_string())
        .count();
    assert_eq!(shown, 1);
    assert!(
        all.iter()
            .all(|answer| answer.body["deployment_id"] == all[0].body["deployment_id"])
    );
}

#[tokio::test]
async fn every_fault_is_named_at_once() {
    let world = World::new().await;
    let refused = world
        .post(
            "/api/v1/agents/deploy",
            &json!({"agent_metadata": {"agent_id": "X", "nam": "a"}, "agent_code": 5}),
        )
        .await;
    assert_eq!((refused.status, refused.code()), (400, "VALIDATION_FAILED"));
    let faults = refused.faults();
    assert_eq!(faults.len(), 5, "{faults:#?}");
    assert!(
        faults
            .iter()
            .any(|fault| fault.starts_with("agent_metadata.nam: is not known; did you mean name?")),
        "{faults:#?}"
    );
}

#[tokio::test]
async fn a_delete_is_idempotent_and_bars_deploys() {
    let world = World::new().await;
    let deployed = world.deploy("mine", "1.0.0").await;
    let key = deployed.body["security"]["api_key"]
        .as_str()
        .expect("a key")
        .to_owned();
    let first = world.delete("/api/v1/agents/mine").await;
    assert_eq!(first.status, 202, "{first:?}");
    let again = world.delete("/api/v1/agents/mine").await;
    assert_eq!(
        (again.status, &again.body["deployment_id"]),
        (202, &first.body["deployment_id"])
    );
    assert_eq!(world.deploy("mine", "2.0.0").await.status, 409);
    let read = world
        .send(
            world
                .request("GET", "/api/v1/agents/mine")
                .bearer_auth(&key),
        )
        .await;
    assert_eq!(read.status, 401, "the agent's key still opens");
    assert_eq!(
        world.get("/api/v1/agents/mine").await.body["deployment"]["status"],
        "deleting"
    );

    let row = world
        .store
        .agent(
            &AccountId::default_account(),
            &"mine".parse().expect("an id"),
        )
        .await
        .expect("rows")
        .expect("an agent");
    world
        .store
        .mark_agent_deleted(&row.incarnation, domain::Timestamp(5))
        .await
        .expect("rows");
    assert_eq!(world.get("/api/v1/agents/mine").await.status, 404);
    assert_eq!(world.delete("/api/v1/agents/mine").await.status, 404);
    let id = first.body["deployment_id"].as_str().expect("an id");
    assert_eq!(
        world
            .get(&format!("/api/v1/agents/mine/deployments/{id}"))
            .await
            .body["kind"],
        "delete"
    );
    assert_eq!(
        world.get("/api/v1/agents/mine/executions").await.status,
        200
    );
    let anew = world.deploy("mine", "1.0.0").await;
    assert!(anew.body["security"]["api_key"].is_string(), "{anew:?}");
}

#[tokio::test]
async fn changes_are_in_the_audit() {
    let world = World::new().await;
    world.deploy("mine", "1.0.0").await;
    world.post("/api/v1/agents/deploy", &json!({})).await;
    world.delete("/api/v1/agents/mine").await;
    world.get("/api/v1/agents").await;
    let records = world.get("/api/v1/audit").await.body["records"].take();
    let lines: Vec<String> = records
        .as_array()
        .expect("a list")
        .iter()
        .map(|record| {
            let word = |name: &str| record[name].as_str().unwrap_or("-").to_owned();
            assert!(
                record["key_id"].is_string() && record["remote"] == "127.0.0.1",
                "{record}"
            );
            format!("{} {} {}", word("action"), word("subject"), word("outcome"))
        })
        .collect();
    assert_eq!(
        lines,
        [
            "agent.delete agents/mine ok",
            "agent.deploy agents/deploy VALIDATION_FAILED",
            "agent.deploy agents/mine 1.0.0 ok"
        ]
    );
}

#[tokio::test]
async fn the_list_filters_and_names_every_bad_parameter() {
    let world = World::new().await;
    for agent in ["one", "two", "three"] {
        world.deploy(agent, "1.0.0").await;
    }
    let ids = |answer: &Value| {
        answer["agents"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["agent_id"].as_str().unwrap_or("").to_owned())
            .collect::<Vec<_>>()
    };
    let list = world
        .get("/api/v1/agents?sort=created_at&order=asc&limit=2")
        .await;
    assert_eq!(ids(&list.body), ["one", "two"]);
    assert_eq!(
        list.body["pagination"],
        json!({"page": 1, "limit": 2, "total": 3, "total_pages": 2})
    );
    assert_eq!(
        list.body["agents"][0]["performance_metrics"],
        json!({"avg_response_time": null, "success_rate": null, "total_requests": null})
    );
    assert_eq!(
        ids(&world
            .get("/api/v1/agents?tag=a&tag=b&environment=dev&status=deploying&page=2&limit=2")
            .await
            .body)
        .len(),
        1
    );
    assert!(ids(&world.get("/api/v1/agents?tag=a&tag=z").await.body).is_empty());
    let bad = world.get("/api/v1/agents?page=0&limit=1000&sort=size&order=up&status=dead&environment=x&colour=red").await;
    assert_eq!((bad.status, bad.faults().len()), (400, 7), "{bad:?}");
}
