//! GET /openapi.json and GET /docs

use phalanx_tests::{Cluster, Value, fixtures, json};

#[tokio::test]
async fn the_reference_is_there_without_a_key_and_without_a_network() {
    let cluster = Cluster::start().await;
    let open = cluster.client.with_key("");
    let document = open.get("/openapi.json").await.ok();
    assert!(
        document["openapi"]
            .as_str()
            .is_some_and(|version| version.starts_with("3.1")),
        "{}",
        document["openapi"]
    );
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            assert!(
                operation["operationId"].is_string() && operation["summary"].is_string(),
                "{method} {path}"
            );
            assert!(
                operation["responses"]
                    .as_object()
                    .is_some_and(|all| all.len() > usize::from(path.starts_with("/api"))),
                "{method} {path}"
            );
        }
    }
    let page = open.get("/docs").await;
    let page = if page.status == 200 {
        page
    } else {
        open.get("/docs/").await
    };
    assert_eq!(page.status, 200);
    for part in page
        .text
        .split(['"', '\''])
        .filter(|part| part.starts_with("http"))
    {
        assert!(
            part.starts_with("http://www.w3.org") || part.starts_with(&cluster.client.base),
            "it loads {part}"
        );
    }
}

/// What Schemathesis has found to be told otherwise than it is.
#[tokio::test]
async fn the_reference_tells_what_is_answered() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let document = client.get("/openapi.json").await.ok();
    let operation = |method: &str, path: &str| document["paths"][path][method].clone();

    // A status that is answered is told.
    client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    client
        .delete("/api/v1/alerts/policy?agent_id=echo")
        .await
        .refused(404, "NOT_FOUND");
    let delete = operation("delete", "/api/v1/alerts/policy");
    assert!(delete["responses"]["404"].is_object(), "{delete:#}");

    // A parameter that takes a few words says which.
    let path = "/api/v1/agents/{agent_id}/callbacks";
    let list = operation("get", path);
    let parameters = list["parameters"].as_array().expect("a list");
    let status = parameters.iter().find(|one| one["name"] == "status");
    let words = status.and_then(|status| status["schema"]["enum"].as_array());
    let words = words.unwrap_or_else(|| panic!("no words: {list:#}"));
    assert_eq!(words.len(), 4);
    for word in words {
        let word = word.as_str().expect("a word");
        client
            .get(&format!("/api/v1/agents/echo/callbacks?status={word}"))
            .await
            .ok();
    }

    // Of every body that is read, what may be left out may be null, and there is nothing else.
    let mut bodies = 0;
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let Some(reference) = schema["$ref"].as_str() else {
                continue;
            };
            let schema = document
                .pointer(reference.trim_start_matches('#'))
                .expect("it leads somewhere");
            bodies += 1;
            assert_eq!(schema["additionalProperties"], false, "{method} {path}");
            let needed = schema["required"].as_array().cloned().unwrap_or_default();
            for (name, property) in schema["properties"].as_object().expect("properties") {
                let either = property["anyOf"].as_array();
                let null = either.is_some_and(|all| all.iter().any(|one| one["type"] == "null"));
                assert!(
                    null || needed.contains(&Value::from(name.as_str())),
                    "{method} {path}: {name}"
                );
            }
        }
    }
    assert!(bodies >= 10, "{bodies}");
    let rotate = "/api/v1/agents/echo/webhook-secret/rotate";
    client
        .post(rotate, &json!({"grace_hours": null}))
        .await
        .ok();

    // A member that is told as always there is there.
    let done = client.execute("echo", json!({})).await;
    let id = done["execution_id"].as_str().expect("an id");
    let read = client.execution("echo", id).await;
    for (schema, performance) in [
        ("Times", &done["performance"]),
        ("ExecutionFigures", &read["performance"]),
    ] {
        let needed = document["components"]["schemas"][schema]["required"].as_array();
        for name in needed.expect("names") {
            let name = name.as_str().expect("a name");
            assert!(
                performance.get(name).is_some(),
                "{schema}.{name}: {performance:#}"
            );
        }
    }
}
