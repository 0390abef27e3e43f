//! GET /alerts/policy

use super::{put, start};
use phalanx_tests::{Value, json};

#[tokio::test]
async fn an_agents_own_goes_before_the_accounts() {
    let cluster = start().await;
    let client = &cluster.client;
    let standard = client.get("/api/v1/alerts/policy").await.ok();
    assert_eq!(standard["source"], "default");
    let figures = |policy: &Value, name: &str| {
        let rule = &policy["rules"][name];
        (rule["threshold"].as_f64(), rule["for_minutes"].as_f64())
    };
    assert_eq!(figures(&standard, "error_rate"), (Some(0.01), Some(5.0)));
    assert_eq!(figures(&standard, "latency"), (Some(2000.0), Some(3.0)));
    assert_eq!(figures(&standard, "availability").0, Some(0.99));
    assert_eq!(figures(&standard, "resource").0, Some(0.8));
    for (level, minutes) in [("level_1", 5.0), ("level_2", 15.0), ("level_3", 30.0)] {
        assert_eq!(
            standard["escalation"][level]["after_minutes"].as_f64(),
            Some(minutes)
        );
    }
    put(client, "", &json!({"rules": {"latency": {"threshold": 7}}}))
        .await
        .ok();
    let of_agent = client
        .get("/api/v1/alerts/policy?agent_id=agent")
        .await
        .ok();
    assert_eq!(
        (of_agent["source"].as_str(), figures(&of_agent, "latency").0),
        (Some("account"), Some(7.0))
    );
    put(
        client,
        "?agent_id=agent",
        &json!({"rules": {"latency": {"threshold": 8}}}),
    )
    .await
    .ok();
    let of_agent = client
        .get("/api/v1/alerts/policy?agent_id=agent")
        .await
        .ok();
    assert_eq!(
        (of_agent["source"].as_str(), figures(&of_agent, "latency").0),
        (Some("agent"), Some(8.0))
    );
    assert!(of_agent["webhook_secret"].is_null(), "{of_agent:#}");
    let own = client.get("/api/v1/alerts/policy").await.ok();
    assert_eq!(
        (own["source"].as_str(), figures(&own, "latency").0),
        (Some("account"), Some(7.0))
    );
    client
        .get("/api/v1/alerts/policy?agent_id=nobody")
        .await
        .refused(404, "NOT_FOUND");
}
