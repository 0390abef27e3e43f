//! PUT /agents/{id}/limits.

use phalanx_tests::{Cluster, fixtures, json, wait};
use reqwest::Method;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test]
async fn an_agent_is_executed_as_often_as_its_limits_say() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let path = "/api/v1/agents/echo/limits";
    let put = async |limits| client.change(Method::PUT, path, &limits).await;
    let set = put(json!({"executions_per_month": 6})).await.ok();
    assert_eq!(set["executions_per_month"], 6);
    assert_eq!(client.get(path).await.ok(), set);
    let call = fixtures::call(json!({}));
    // Those that a gateway let through before it was told are not counted, and say nothing of limits.
    let counted = std::cell::Cell::new(0);
    wait::until("its executions are used up", SOON, || async {
        let answer = client.execute_with("echo", &call).await;
        let told = answer.header("ratelimit").unwrap_or_default().to_owned();
        if answer.status == 429 {
            assert!(told.starts_with("\"agent-month\";r=0;t="), "{told}");
            assert!(answer.header("retry-after").is_some());
            answer.refused(429, "RATE_LIMITED");
            return Ok(());
        }
        assert_eq!(answer.status, 200, "{}", answer.text);
        counted.set(counted.get() + usize::from(!told.is_empty()));
        Err(told)
    })
    .await;
    let counted = counted.get();
    assert!((1..=6).contains(&counted), "{counted} of 6");
    put(json!({})).await.ok();
    wait::until("its limits are lifted", SOON, || async {
        let answer = client.execute_with("echo", &call).await;
        let free = answer.status == 200 && answer.header("ratelimit").is_none();
        free.then_some(()).ok_or(answer.text)
    })
    .await;
}
