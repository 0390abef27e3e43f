//! What every route has in common.

use super::world::World;
use crate::{Access, Config, endpoints};
use domain::{id::AccountId, key::Permission};
use serde_json::json;

fn filled(path: &str) -> String {
    path.replace("{agent_id}", "mine")
        .replace("{execution_id}", "e1")
        .replace("{deployment_id}", "dep_00000000000000000000000000000000")
}

#[tokio::test]
async fn every_route_wants_its_key_and_permission() {
    let world = World::new().await;
    let health_only = world.key_with(&[Permission::SystemHealth], None).await;
    let nothing = world.key_with(&[], None).await;
    for endpoint in endpoints() {
        let (Access::Key(any) | Access::KeyItself(any) | Access::KeyUnlessOpened(any)) =
            endpoint.access
        else {
            let open = world
                .send(world.request(endpoint.method, &filled(endpoint.path)))
                .await;
            assert_ne!(open.status, 401, "{}", endpoint.path);
            continue;
        };
        let bare = || world.request(endpoint.method, &filled(endpoint.path));
        for bad in [
            bare(),
            bare().bearer_auth("akc_garbage"),
            bare().bearer_auth(crate::key::mint("x", &AccountId::default_account())),
            bare().basic_auth("a", Some("b")),
        ] {
            let answer = world.send(bad).await;
            assert_eq!(
                (answer.status, answer.code()),
                (401, "UNAUTHENTICATED"),
                "{} {answer:?}",
                endpoint.path
            );
            assert!(answer.header("www-authenticate").starts_with("Bearer"));
        }
        let poor = if any.contains(&Permission::SystemHealth) {
            &nothing
        } else {
            &health_only
        };
        let answer = world.send(bare().bearer_auth(poor)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, "FORBIDDEN"),
            "{}",
            endpoint.path
        );
        let message = answer.body["error"]["message"].as_str().expect("words");
        assert!(message.contains(any[0].as_str()), "{message}");
    }
}

#[tokio::test]
async fn another_account_or_scope_sees_nothing() {
    let world = World::new().await;
    world.serving("mine").await;
    let all: Vec<Permission> = Permission::ALL.to_vec();
    let scoped = world.key_with(&all, Some(&["other"])).await;
    let stranger = world
        .key_of("stranger".parse().expect("an id"), &all, None)
        .await;
    for endpoint in endpoints()
        .iter()
        .filter(|endpoint| endpoint.path.contains("{agent_id}"))
    {
        for key in [&scoped, &stranger] {
            let request = world
                .request(endpoint.method, &filled(endpoint.path))
                .bearer_auth(key);
            let request = if endpoint.method == "POST" {
                request.json(&json!({}))
            } else {
                request
            };
            let answer = world.send(request).await;
            assert_eq!(
                (answer.status, answer.code()),
                (404, "NOT_FOUND"),
                "{} {} {answer:?}",
                endpoint.method,
                endpoint.path
            );
        }
    }
    for key in [&scoped, &stranger] {
        let list = world
            .send(world.request("GET", "/api/v1/agents").bearer_auth(key))
            .await;
        assert_eq!(
            (list.status, &list.body["pagination"]["total"]),
            (200, &json!(0))
        );
    }
    let deploy = world
        .request("POST", "/api/v1/agents/deploy")
        .bearer_auth(&scoped)
        .json(&super::world::deploy_body("mine", "2.0.0"));
    assert_eq!(world.send(deploy).await.status, 403);
}

#[tokio::test]
async fn refusals_have_the_envelope() {
    let world = World::with(Config {
        max_execute_body_bytes: 1000,
        ..Config::default()
    })
    .await;
    world.serving("mine").await;
    let execute = "/api/v1/agents/mine/execute";
    let body = |kind: &'static str, body: String| {
        world
            .request("POST", execute)
            .bearer_auth(&world.key)
            .header("content-type", kind)
            .body(body)
    };
    for (request, status, code) in [
        (world.request("GET", "/nowhere"), 404, "NOT_FOUND"),
        (
            world.request("GET", "/api/v1/agents/../../etc"),
            404,
            "NOT_FOUND",
        ),
        (
            world
                .request("GET", "/api/v1/agents/%ff")
                .bearer_auth(&world.key),
            404,
            "NOT_FOUND",
        ),
        (
            world.request("GET", "/api/v1/agents/deploy"),
            405,
            "METHOD_NOT_ALLOWED",
        ),
        (world.request("PATCH", execute), 405, "METHOD_NOT_ALLOWED"),
        (
            world.request("DELETE", "/healthz"),
            405,
            "METHOD_NOT_ALLOWED",
        ),
        (
            body("text/plain", "{}".into()),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            world.request("POST", execute).bearer_auth(&world.key),
            415,
            "UNSUPPORTED_MEDIA_TYPE",
        ),
        (
            body("application/json", "x".repeat(1001)),
            413,
            "PAYLOAD_TOO_LARGE",
        ),
        (
            body("application/json", "{".into()),
            400,
            "VALIDATION_FAILED",
        ),
        (
            body("application/json", "[]".into()),
            400,
            "VALIDATION_FAILED",
        ),
        (
            body("application/json", "{\"a\":1,\"a\":1}".into()),
            400,
            "VALIDATION_FAILED",
        ),
        (
            body("application/json", "[".repeat(900)),
            400,
            "VALIDATION_FAILED",
        ),
    ] {
        let answer = world.send(request).await;
        assert_eq!((answer.status, answer.code()), (status, code), "{answer:?}");
        let details = &answer.body["error"]["details"];
        assert!(
            details["validation_errors"].is_array() && details["deployment_logs"].is_array(),
            "{answer:?}"
        );
        assert!(
            answer.header("x-request-id").starts_with("req_"),
            "{answer:?}"
        );
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(answer.headers.get("server").is_none());
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
    }
    let chunked = reqwest::Body::wrap_stream(futures::stream::iter(
        [0, 1].map(|_| Ok::<_, std::io::Error>(vec![b' '; 600])),
    ));
    let large = world
        .request("POST", execute)
        .bearer_auth(&world.key)
        .header("content-type", "application/json")
        .body(chunked);
    assert_eq!(world.send(large).await.status, 413);
}

#[tokio::test]
async fn request_ids_come_back() {
    let world = World::new().await;
    let with = |id: &str| {
        world
            .request("GET", "/healthz")
            .header("x-request-id", id.to_owned())
    };
    assert_eq!(
        world.send(with("mine-1")).await.header("x-request-id"),
        "mine-1"
    );
    assert!(
        world
            .send(with("not one word"))
            .await
            .header("x-request-id")
            .starts_with("req_")
    );
}

#[tokio::test]
async fn a_revoked_key_is_forgotten_when_others_say_so() {
    let world = World::new().await;
    let deployed = world.deploy("mine", "1.0.0").await;
    let key = deployed.body["security"]["api_key"]
        .as_str()
        .expect("shown once")
        .to_owned();
    let read = || {
        world.send(
            world
                .request("GET", "/api/v1/agents/mine")
                .bearer_auth(&key),
        )
    };
    assert_eq!(read().await.status, 200);
    let account = AccountId::default_account();
    world
        .store
        .revoke_agent_keys(
            &account,
            &"mine".parse().expect("an id"),
            domain::Timestamp(1),
        )
        .await
        .expect("rows");
    let changed = proto::v1::KeysChanged {
        account: account.to_string(),
    };
    world
        .bus
        .tell(&account, proto::v1::event::Event::KeysChanged(changed))
        .await
        .expect("told");
    for _ in 0..100 {
        if read().await.status == 401 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the key still opens");
}

#[tokio::test]
async fn a_key_that_is_due_says_so() {
    let world = World::new().await;
    let account = AccountId::default_account();
    let now = world.store.now();
    let secrets = ["due", "not-due"].map(|word| format!("akc_{word:x>40}"));
    for (secret, due) in secrets.iter().zip([5_000, now.0 + 60_000]) {
        let mut key = store::keys::New::lasting(
            (
                domain::id::KeyId::from_uuid(uuid::Uuid::now_v7()),
                account.clone(),
            ),
            world.store.hash_key(secret),
            secret.clone(),
            domain::key::Key::all_permissions(),
            domain::Timestamp(1),
        );
        key.expires_at = Some(domain::Timestamp(now.0 + 90_000));
        key.rotate_at = Some(domain::Timestamp(due));
        world.store.insert_key(&key).await.expect("rows");
    }
    let ask = async |secret: &str| {
        let request = world.request("GET", "/api/v1/agents").bearer_auth(secret);
        let answer = world.send(request).await;
        assert_eq!(answer.status, 200);
        let said = |name: &str| answer.headers.get(name).cloned();
        (said("deprecation"), said("sunset"))
    };
    let (since, ends) = ask(&secrets[0]).await;
    assert_eq!(since.expect("due"), "@5");
    assert!(
        ends.expect("an end")
            .to_str()
            .expect("text")
            .ends_with(" GMT")
    );
    assert_eq!(ask(&secrets[1]).await, (None, None));
}

#[tokio::test]
async fn probes_and_documents_need_no_key() {
    let world = World::new().await;
    let open = async |path: &str| world.send(world.request("GET", path)).await;
    assert_eq!(open("/healthz").await.status, 200);
    let starting = open("/readyz").await;
    assert_eq!((starting.status, starting.code()), (503, "UNAVAILABLE"));
    world.readiness.set(true);
    assert_eq!(open("/readyz").await.status, 200);
    assert_eq!(open("/openapi.json").await.body["openapi"], "3.1.0");
    assert_eq!(open("/docs").await.status, 307);
    assert!(
        open("/docs/")
            .await
            .body
            .as_str()
            .is_some_and(|page| page.contains("swagger-ui"))
    );
    assert_eq!(open("/docs/swagger-ui.css").await.status, 200);
    assert_eq!(open("/docs/nothing.js").await.status, 404);
    assert_eq!(open("/metrics").await.status, 401);
    let figures = world.get("/metrics").await;
    assert!(
        figures
            .body
            .as_str()
            .is_some_and(|text| text.contains("route=\"/healthz\",status=\"200\"} 1")),
        "{figures:?}"
    );
}

#[tokio::test]
async fn a_stop_lets_what_runs_end() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    let (began, waiting) = tokio::sync::oneshot::channel();
    let began = std::sync::Mutex::new(Some(began));
    world
        .execute_by(&version, move |execute| {
            began
                .lock()
                .expect("one")
                .take()
                .map(|began| began.send(()));
            std::thread::sleep(std::time::Duration::from_millis(200));
            Some(super::world::echo(execute))
        })
        .await;
    let empty = json!({});
    let call = world.post("/api/v1/agents/mine/execute", &empty);
    let stop = async {
        waiting.await.expect("it began");
        world.stop.cancel();
    };
    let (answer, ()) = tokio::join!(call, stop);
    assert_eq!(answer.status, 200, "{answer:?}");
}
