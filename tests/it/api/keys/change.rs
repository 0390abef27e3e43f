//! PATCH /keys/{id}.

use super::{UNKNOWN, make};
use phalanx_tests::{Cluster, Value, json};
use reqwest::Method;

#[tokio::test]
async fn a_key_gets_another_name_limits_and_rotation() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let body = json!({"name": "one", "permissions": ["agent:monitor"], "auto_rotation": false});
    let (made, _) = make(client, &body).await;
    let path = format!("/api/v1/keys/{}", made["key_id"].as_str().expect("an id"));
    let patch = async |body| client.change(Method::PATCH, &path, &body).await;
    let change = json!({"name": "two", "limits": {"rate": {"requests_per_second": 0.5, "burst": 9}}, "auto_rotation": true});
    let changed = patch(change).await.ok();
    assert_eq!(
        (&changed["name"], &changed["auto_rotation"]),
        (&json!("two"), &json!(true))
    );
    assert_eq!(changed["limits"]["rate"]["requests_per_second"], 0.5);
    let year = |value: &Value| value.as_str().expect("a time")[..4].parse::<u32>();
    let ends = year(&changed["expires_at"]).expect("a year");
    let made = year(&changed["created_at"]).expect("a year");
    assert!((made..=made + 1).contains(&ends), "{changed:#}");
    assert!(changed["rotate_at"].as_str() > changed["created_at"].as_str());
    assert!(changed["rotate_at"].as_str() < changed["expires_at"].as_str());
    let back = patch(json!({"auto_rotation": false})).await.ok();
    assert_eq!(
        (&back["expires_at"], &back["name"]),
        (&json!(null), &json!("two"))
    );
    patch(json!({"name": ""}))
        .await
        .refused(400, "VALIDATION_FAILED");
    client.delete(&path).await.ok();
    patch(json!({"name": "x"})).await.refused(409, "CONFLICT");
    client
        .change(
            Method::PATCH,
            &format!("/api/v1/keys/{UNKNOWN}"),
            &json!({}),
        )
        .await
        .refused(404, "NOT_FOUND");
}
