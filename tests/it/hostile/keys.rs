//! Keys that are none.

use phalanx_tests::{Cluster, fixtures, json};

#[tokio::test]
async fn nothing_opens_but_a_key() {
    let cluster = Cluster::start().await;
    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let good = cluster.client.key.clone();
    let (mut last, mut first) = (good.clone().into_bytes(), good.clone().into_bytes());
    let end = last.len() - 2;
    last[end] = if last[end] == b'A' { b'B' } else { b'A' };
    first[4] = if first[4] == b'A' { b'B' } else { b'A' };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("ASCII");
    for key in [
        String::new(),
        "akc_".to_owned(),
        "x".repeat(10_000),
        text(last),
        text(first),
        format!("{good}x"),
        good[..good.len() - 1].to_owned(),
        good.to_uppercase(),
    ] {
        let client = cluster.client.with_key(&key);
        for path in [
            "/api/v1/agents",
            "/api/v1/agents/echo",
            "/api/v1/system/health",
        ] {
            let answer = client.get(path).await;
            // A header of 10,000 characters may be refused before anybody reads it.
            assert!(
                matches!(answer.status, 401 | 431),
                "{}: {} {}",
                &key[..key.len().min(20)],
                answer.status,
                answer.text
            );
        }
        let answer = client
            .execute_with("echo", &fixtures::call(json!({})))
            .await;
        assert_ne!(answer.status, 200);
    }
    let answer = cluster.client.with_key("").get("/api/v1/agents").await;
    answer.refused(401, "UNAUTHENTICATED");
    assert!(
        answer
            .header("www-authenticate")
            .is_some_and(|value| value.starts_with("Bearer"))
    );
    for header in ["Basic YTpi", "Bearer", "bearer", "Bearer  ", "Token x"] {
        let request = cluster
            .client
            .with_key("")
            .request(reqwest::Method::GET, "/api/v1/agents")
            .header("authorization", header);
        cluster
            .client
            .send(request)
            .await
            .expect("an answer")
            .refused(401, "UNAUTHENTICATED");
    }
}
