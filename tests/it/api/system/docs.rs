//! GET /openapi.json and GET /docs

use phalanx_tests::Cluster;

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
