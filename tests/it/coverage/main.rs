//! Nothing forgotten: every line of the router has a test, an entry in the reference, and is closed to those without a key.

use phalanx_tests::{Cluster, fixtures, json, program::repository};
use reqwest::Method;
use std::{collections::BTreeSet, fs};

/// A line of the router's table.
#[derive(Debug)]
struct Endpoint {
    method: String,
    path: String,
    /// The handler, as `agents::deploy::deploy`.
    handler: String,
    open: bool,
}

/// Read from the router's own text, which is written one endpoint a line.
fn endpoints() -> Vec<Endpoint> {
    let text = fs::read_to_string(repository().join("gateway/src/router.rs")).expect("the router");
    let table = text
        .split("endpoints! {")
        .nth(1)
        .and_then(|rest| rest.split("\n}").next())
        .expect("the table");
    let found: Vec<Endpoint> = table.split(';').filter_map(line).collect();
    assert!(found.len() > 15, "the table is read wrongly: {found:#?}");
    found
}

fn line(text: &str) -> Option<Endpoint> {
    let (head, access) = text.trim().split_once("=>")?;
    let (method, path) = head.trim().split_once(' ')?;
    let (handler, access) = access.trim().split_once(',')?;
    Some(Endpoint {
        method: method.trim().to_owned(),
        path: path.trim().trim_matches('"').to_owned(),
        handler: handler.trim().to_owned(),
        open: access.trim().starts_with("Open"),
    })
}

#[test]
fn every_endpoint_has_a_test_where_its_code_is() {
    let missing: BTreeSet<String> = endpoints()
        .iter()
        .filter_map(|endpoint| {
            let (noun, rest) = endpoint.handler.split_once("::")?;
            let file = format!("tests/it/api/{noun}/{}.rs", rest.split("::").next()?);
            let text = fs::read_to_string(repository().join(&file)).unwrap_or_default();
            (!text.contains("#[tokio::test]"))
                .then_some(format!("{} {}: {file}", endpoint.method, endpoint.path))
        })
        .collect();
    assert!(
        missing.is_empty(),
        "without a test:\n{}",
        missing.into_iter().collect::<Vec<_>>().join("\n")
    );
}

#[tokio::test]
async fn every_endpoint_is_in_the_reference_and_closed() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let accepted = client
        .deploy_source("mine", fixtures::ECHO, json!({}))
        .await;
    let deployment = accepted["deployment_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    client
        .execute_with("mine", &json!({"execution_id": "e1"}))
        .await
        .ok();
    let reference = client.get("/openapi.json").await.ok();
    let mut described = 0;
    for endpoint in endpoints() {
        let Endpoint {
            method, path, open, ..
        } = &endpoint;
        let operation = &reference["paths"][path.as_str()][method.to_lowercase()];
        assert!(
            operation.is_object(),
            "{method} {path} is not in the reference"
        );
        described += 1;
        let url = path
            .replace("{agent_id}", "mine")
            .replace("{deployment_id}", &deployment)
            .replace("{execution_id}", "e1");
        let method_of = Method::from_bytes(method.as_bytes()).expect("a method");
        for key in ["", "akc_bm9ib2R5", "nonsense"] {
            let client = client.with_key(key);
            let mut request = client.request(method_of.clone(), &url);
            if method == "POST" || method == "PUT" {
                request = request.json(&json!({}));
            }
            let answer = client.send(request).await.expect("an answer");
            if *open {
                assert!(answer.status < 400, "{method} {path}: {}", answer.status);
            } else {
                answer.refused(401, "UNAUTHENTICATED");
                assert!(
                    operation["responses"].get("401").is_some(),
                    "{method} {path}: 401 is not in the reference"
                );
            }
        }
    }
    let listed: usize = reference["paths"]
        .as_object()
        .expect("paths")
        .values()
        .map(|methods| methods.as_object().map_or(0, serde_json::Map::len))
        .sum();
    assert_eq!(
        listed, described,
        "the reference names what the router does not have"
    );
    // Nothing of this was done.
    client.get("/api/v1/agents/mine").await.ok();
}
