//! GET /agents

use phalanx_tests::{Client, Cluster, Value, fixtures, json};

fn ids(list: &Value) -> Vec<String> {
    let agents = list["agents"].as_array().expect("a list");
    agents
        .iter()
        .map(|agent| agent["agent_id"].as_str().expect("an id").to_owned())
        .collect()
}

async fn listed(client: &Client, query: &str) -> Vec<String> {
    ids(&client.get(&format!("/api/v1/agents{query}")).await.ok())
}

#[tokio::test]
async fn filters_sorts_and_pages() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let empty = client.get("/api/v1/agents").await.ok();
    assert_eq!(
        empty,
        json!({"agents": [], "pagination": {"page": 1, "limit": 50, "total": 0, "total_pages": 0}})
    );

    let scale_to_zero = json!({"min_instances": 0});
    for (id, name, environment, tags) in [
        ("a1", "Zeta", "dev", json!(["red", "round"])),
        ("a2", "Beta", "staging", json!(["red"])),
        ("a3", "Alpha", "prod", json!(["round", "red", "new"])),
    ] {
        let changes = json!({
            "agent_metadata": {"name": name, "tags": tags},
            "deployment_config": {"environment": environment, "auto_scaling": scale_to_zero},
        });
        client.deploy_source(id, fixtures::ECHO, changes).await;
    }
    let broken = fixtures::with(
        fixtures::agent("a4", "raise ValueError('no')\n"),
        json!({"agent_metadata": {"name": "Delta"}}),
    );
    client.deploy_fails(&broken).await;

    assert_eq!(
        listed(client, "").await,
        ["a4", "a3", "a2", "a1"],
        "newest first"
    );
    assert_eq!(listed(client, "?order=asc").await, ["a1", "a2", "a3", "a4"]);
    assert_eq!(
        listed(client, "?sort=name&order=asc").await,
        ["a3", "a2", "a4", "a1"]
    );
    assert_eq!(listed(client, "?environment=prod").await, ["a3"]);
    assert_eq!(listed(client, "?status=failed").await, ["a4"]);
    assert_eq!(
        listed(client, "?status=active&sort=name&order=desc").await,
        ["a1", "a2", "a3"]
    );
    assert_eq!(
        listed(client, "?tag=red&order=asc").await,
        ["a1", "a2", "a3"]
    );
    assert_eq!(
        listed(client, "?tag=red&tag=round&order=asc").await,
        ["a1", "a3"],
        "repeated tags are an AND"
    );
    assert_eq!(
        listed(client, "?tag=red&environment=staging&status=active").await,
        ["a2"]
    );
    assert!(listed(client, "?tag=re").await.is_empty());
    assert!(listed(client, "?status=inactive").await.is_empty());

    // A new version makes the oldest the last updated, and its tags are the ones that count.
    let newer = json!({"agent_metadata": {"name": "Zeta", "version": "2.0.0", "tags": ["blue"]}, "deployment_config": {"auto_scaling": scale_to_zero}});
    client.deploy_source("a1", fixtures::ECHO, newer).await;
    assert_eq!(listed(client, "?sort=last_updated").await[0], "a1");
    assert_eq!(listed(client, "?tag=red&order=asc").await, ["a2", "a3"]);

    let page = client
        .get("/api/v1/agents?limit=3&page=2&order=asc")
        .await
        .ok();
    assert_eq!(ids(&page), ["a4"]);
    assert_eq!(
        page["pagination"],
        json!({"page": 2, "limit": 3, "total": 4, "total_pages": 2})
    );
    assert!(listed(client, "?page=9").await.is_empty());

    client.output("a2", json!({"x": 1})).await;
    let line = &client.get("/api/v1/agents?environment=staging").await.ok()["agents"][0];
    for name in [
        "agent_id",
        "name",
        "version",
        "status",
        "api_endpoint",
        "created_at",
        "last_updated",
        "health_status",
    ] {
        assert!(line[name].is_string(), "{name}: {line:#}");
    }
    let figures = &line["performance_metrics"];
    assert_eq!(figures["total_requests"], 1, "{line:#}");
    assert_eq!(figures["success_rate"].as_f64(), Some(1.0), "{line:#}");
    assert!(
        figures["avg_response_time"]
            .as_f64()
            .is_some_and(|ms| ms > 0.0),
        "{line:#}"
    );
}

#[tokio::test]
async fn every_fault_of_a_query_is_named() {
    let cluster = Cluster::start().await;
    let query = "?environment=moon&status=odd&page=0&limit=201&sort=size&order=up&colour=red";
    let faults = cluster
        .client
        .get(&format!("/api/v1/agents{query}"))
        .await
        .faults();
    for name in [
        "environment",
        "status",
        "page",
        "limit",
        "sort",
        "order",
        "colour",
    ] {
        assert!(
            faults
                .iter()
                .any(|fault| fault.starts_with(&format!("{name}: "))),
            "{name}: {faults:#?}"
        );
    }
    for query in [
        "?page=-1",
        "?page=99999999999999999999",
        "?limit=1e2",
        "?limit=",
        "?page=1&page=2",
        "?status=%00",
    ] {
        cluster
            .client
            .get(&format!("/api/v1/agents{query}"))
            .await
            .faults();
    }
}

#[tokio::test]
async fn an_agents_own_key_sees_its_agent_alone() {
    let cluster = Cluster::start().await;
    let mine = cluster
        .client
        .deploy_source("mine", fixtures::ECHO, json!({}))
        .await;
    let yours = cluster
        .client
        .deploy_source("yours", fixtures::ECHO, json!({}))
        .await;
    let client = cluster
        .client
        .with_key(mine["security"]["api_key"].as_str().expect("a key"));
    assert_eq!(listed(&client, "").await, ["mine"]);
    client.get("/api/v1/agents/mine").await.ok();
    client.execute("mine", json!({})).await;
    // Another's agent is as unknown as one that does not exist.
    let executions = json!({"input_data": {"parameters": {}}});
    client
        .get("/api/v1/agents/yours")
        .await
        .refused(404, "NOT_FOUND");
    client
        .execute_with("yours", &executions)
        .await
        .refused(404, "NOT_FOUND");
    let dep = yours["deployment_id"].as_str().expect("an id");
    for path in [
        "versions",
        "instances",
        "logs",
        "deployments",
        "executions",
        &format!("deployments/{dep}"),
    ] {
        client
            .get(&format!("/api/v1/agents/yours/{path}"))
            .await
            .refused(404, "NOT_FOUND");
    }
    let of_yours = cluster.client.execute("yours", json!({})).await;
    let execution = of_yours["execution_id"].as_str().expect("an id");
    client
        .get(&format!("/api/v1/agents/yours/executions/{execution}"))
        .await
        .refused(404, "NOT_FOUND");
    client
        .get(&format!("/api/v1/agents/mine/executions/{execution}"))
        .await
        .refused(404, "NOT_FOUND");
    client
        .post(
            &format!("/api/v1/agents/yours/executions/{execution}/cancel"),
            &json!({}),
        )
        .await
        .refused(404, "NOT_FOUND");
    // What it may not do at all names the permission that is missing.
    let error = client
        .deploy(&fixtures::agent("mine", fixtures::ECHO))
        .await
        .refused(403, "FORBIDDEN");
    assert!(
        error["message"]
            .as_str()
            .expect("text")
            .contains("agent:deploy"),
        "{error}"
    );
    let error = client
        .delete("/api/v1/agents/mine")
        .await
        .refused(403, "FORBIDDEN");
    assert!(
        error["message"]
            .as_str()
            .expect("text")
            .contains("agent:delete"),
        "{error}"
    );
    client
        .get("/api/v1/system/health")
        .await
        .refused(403, "FORBIDDEN");
    client.get("/api/v1/audit").await.refused(403, "FORBIDDEN");
}
