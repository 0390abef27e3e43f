//! Limits of keys and agents, at one gateway and at two. Rates are so slow that no machine lives through a refill.

use super::world::{Answer, World, echo};
use bus::{Bus, Limits};
use serde_json::{Value, json};

const EXECUTE: &str = "/api/v1/agents/mine/execute";

/// A key with these limits, and its id.
async fn key(world: &World, limits: Value) -> (String, String) {
    let body = json!({"name": "limited", "permissions": ["agent:execute", "agent:monitor"], "limits": limits});
    let made = world.post("/api/v1/keys", &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    let text = |name: &str| made.body[name].as_str().expect("a text").to_owned();
    (text("api_key"), text("key_id"))
}

async fn read(world: &World, base: &str, key: &str) -> Answer {
    let request = world.request("GET", &format!("{base}/api/v1/agents"));
    world.send(request.bearer_auth(key)).await
}

async fn execute(world: &World, base: &str, key: &str, body: Value) -> Answer {
    let request = world.request("POST", &format!("{base}{EXECUTE}"));
    world.send(request.bearer_auth(key).json(&body)).await
}

fn all(answer: &Answer, name: &str) -> Vec<String> {
    let values = answer.headers.get_all(name).iter();
    values
        .map(|value| value.to_str().expect("text").to_owned())
        .collect()
}

fn refused(answer: &Answer) {
    assert_eq!(
        (answer.status, answer.code()),
        (429, "RATE_LIMITED"),
        "{answer:?}"
    );
    let wait: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!(wait > 1, "{answer:?}");
}

#[tokio::test]
async fn a_key_asks_as_often_as_it_may() {
    let world = World::new().await;
    let base = format!("http://{}", world.address);
    let limits = json!({"rate": {"requests_per_second": 0.001, "burst": 3}});
    let (secret, id) = key(&world, limits).await;
    for left in [2, 1, 0] {
        let answer = read(&world, &base, &secret).await;
        assert_eq!(answer.status, 200);
        assert_eq!(all(&answer, "ratelimit-policy"), ["\"key\";q=3;w=3000"]);
        let now = answer.header("ratelimit");
        assert!(now.starts_with(&format!("\"key\";r={left};t=")), "{now}");
    }
    let none = read(&world, &base, &secret).await;
    refused(&none);
    let wait = none.header("retry-after");
    assert_eq!(none.header("ratelimit"), format!("\"key\";r=0;t={wait}"));
    assert_eq!(all(&none, "ratelimit-policy").len(), 1);
    // What needs no key, and other keys, are as free as before; and nothing is said to them.
    let free = world.get("/api/v1/agents").await;
    assert_eq!((free.status, all(&free, "ratelimit").len()), (200, 0));

    // Other limits count at once; without any, nothing is said.
    let path = format!("/api/v1/keys/{id}");
    let change = async |limits: Value| {
        let request = world.request("PATCH", &path).bearer_auth(&world.key);
        let answer = world.send(request.json(&json!({"limits": limits}))).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    change(json!({"rate": {"requests_per_second": 0.001, "burst": 5}})).await;
    assert_eq!(read(&world, &base, &secret).await.status, 200);
    change(json!({})).await;
    let free = read(&world, &base, &secret).await;
    assert_eq!((free.status, all(&free, "ratelimit").len()), (200, 0));
}

#[tokio::test]
async fn two_gateways_share_what_there_is() {
    let mut world = World::new().await;
    let first = format!("http://{}", world.address);
    let second = world.second(Bus::memory(Limits::default())).await;
    let (secret, _) = key(
        &world,
        json!({"rate": {"requests_per_second": 0.001, "burst": 40}}),
    )
    .await;
    let (mut granted, mut told) = (0, 0);
    // What one holds in advance comes back to the other within seconds, so both together hand out all of it, and no more.
    for round in 0..2000 {
        let base = if round % 2 == 0 { &first } else { &second };
        match read(&world, base, &secret).await.status {
            200 => granted += 1,
            429 => told += 1,
            other => panic!("{other}"),
        }
        if granted == 40 && told > 10 {
            break;
        }
        if told > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    assert_eq!(granted, 40, "{told} were refused");
    refused(&read(&world, &second, &secret).await);
}

#[tokio::test]
async fn quotas_count_what_was_accepted_and_outlive_a_gateway() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    let base = format!("http://{}", world.address);
    let limits = json!({"executions_per_day": 3, "executions_per_month": 1000});
    let (secret, _) = key(&world, limits).await;
    // Nobody executes it yet: what is refused is not counted.
    for _ in 0..5 {
        let answer = execute(&world, &base, &secret, json!({})).await;
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    let bad = execute(&world, &base, &secret, json!({"nonsense": 1})).await;
    assert_eq!(bad.status, 400);
    world
        .execute_by(&version, |execute| Some(echo(execute)))
        .await;
    let body = || json!({"execution_id": "known"});
    let answer = execute(&world, &base, &secret, body()).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let policies = all(&answer, "ratelimit-policy");
    assert_eq!(policies[0], "\"key-day\";q=3;w=86400");
    assert!(
        policies[1].starts_with("\"key-month\";q=1000;w="),
        "{policies:?}"
    );
    assert!(all(&answer, "ratelimit")[0].starts_with("\"key-day\";r=2;t="));
    // Asked for again it is the same execution, and counts once.
    for _ in 0..3 {
        assert_eq!(execute(&world, &base, &secret, body()).await.status, 200);
    }
    // Another gateway, that nobody told anything, counts on.
    let second = world.second(Bus::memory(Limits::default())).await;
    let queued = json!({"execution_options": {"async": true}});
    for body in [json!({}), queued.clone()] {
        let answer = execute(&world, &base, &secret, body).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let none = execute(&world, &second, &secret, queued).await;
    refused(&none);
    let message = none.body["error"]["message"].as_str().expect("words");
    assert!(
        message.contains("the 3 executions a day of this key"),
        "{message}"
    );
    refused(&execute(&world, &base, &secret, json!({})).await);
    // What is known is answered all the same, and reading is no execution.
    assert_eq!(execute(&world, &base, &secret, body()).await.status, 200);
    assert_eq!(read(&world, &base, &secret).await.status, 200);
}

#[tokio::test]
async fn an_agent_is_executed_as_often_as_it_may_by_all_together() {
    let mut world = World::new().await;
    let version = world.serving("mine").await;
    world
        .execute_by(&version, |execute| Some(echo(execute)))
        .await;
    let base = format!("http://{}", world.address);
    let path = "/api/v1/agents/mine/limits";
    let put = async |world: &World, body: Value| {
        let request = world
            .request("PUT", path)
            .bearer_auth(&world.key)
            .json(&body);
        world.send(request).await
    };
    let set = put(
        &world,
        json!({"rate": {"requests_per_second": 0.001, "burst": 2}}),
    )
    .await;
    assert_eq!(
        (set.status, &set.body["rate"]["burst"]),
        (200, &json!(2)),
        "{set:?}"
    );
    let (other, _) = key(&world, json!({"executions_per_day": 100})).await;
    let admin = world.key.clone();
    assert_eq!(execute(&world, &base, &admin, json!({})).await.status, 200);
    let second = execute(&world, &base, &other, json!({})).await;
    assert_eq!(second.status, 200);
    let said = all(&second, "ratelimit-policy");
    assert_eq!(said, ["\"key-day\";q=100;w=86400", "\"agent\";q=2;w=2000"]);
    let none = execute(&world, &base, &other, json!({})).await;
    refused(&none);
    assert!(
        all(&none, "ratelimit")[0].starts_with("\"agent\";r=0;t="),
        "{none:?}"
    );
    // The key's quota was not touched by what its agent refused.
    assert_eq!(put(&world, json!({})).await.status, 200);
    let third = execute(&world, &base, &other, json!({})).await;
    assert!(
        all(&third, "ratelimit")[0].starts_with("\"key-day\";r=98;"),
        "{third:?}"
    );
    let body = world.get(path).await.body;
    assert_eq!(body["rate"], json!(null), "{body}");
}

#[tokio::test]
async fn limits_that_cannot_be_are_named() {
    let world = World::new().await;
    world.serving("mine").await;
    for (limits, fault) in [
        (
            json!({"rate": {"requests_per_second": 0}}),
            "rate.requests_per_second: is 0; allowed is a number from 0.001 to 100000",
        ),
        (
            json!({"rate": {"burst": 3}}),
            "rate.requests_per_second: is required",
        ),
        (
            json!({"rate": {"requests_per_second": 5, "burst": 0}}),
            "rate.burst: is 0; allowed is an integer from 1 to 1000000",
        ),
        (json!({"rate": 5}), "rate: is 5; allowed is an object"),
        (json!({"executions_per_day": 0}), "executions_per_day: is 0"),
        (
            json!({"executions_per_hour": 5}),
            "executions_per_hour: is not known",
        ),
    ] {
        let request = world.request("PUT", "/api/v1/agents/mine/limits");
        let answer = world
            .send(request.bearer_auth(&world.key).json(&limits))
            .await;
        assert_eq!(answer.status, 400, "{answer:?}");
        assert!(answer.faults()[0].starts_with(fault), "{answer:?}");
        let body = json!({"name": "x", "permissions": ["agent:execute"], "limits": limits});
        let answer = world.post("/api/v1/keys", &body).await;
        assert!(
            answer.faults()[0].starts_with(&format!("limits.{fault}")),
            "{answer:?}"
        );
    }
}

#[tokio::test]
async fn who_is_limited_hands_on_no_more() {
    let world = World::new().await;
    world.serving("mine").await;
    let permissions = ["key:manage", "agent:update", "agent:monitor"];
    let body = json!({"name": "manager", "permissions": permissions, "limits": {"rate": {"requests_per_second": 1000}}});
    let made = world.post("/api/v1/keys", &body).await;
    let manager = made.body["api_key"].as_str().expect("a secret").to_owned();
    let ask = async |method: &str, path: &str, body: Value| {
        let request = world.request(method, path).bearer_auth(&manager);
        world.send(request.json(&body)).await
    };
    let wanted =
        |limits: Value| json!({"name": "x", "permissions": ["agent:monitor"], "limits": limits});
    for (limits, status) in [
        (json!({}), 403),
        (
            json!({"rate": {"requests_per_second": 1001, "burst": 1000}}),
            403,
        ),
        (json!({"rate": {"requests_per_second": 10}}), 201),
    ] {
        let answer = ask("POST", "/api/v1/keys", wanted(limits)).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let own = format!(
        "/api/v1/keys/{}",
        made.body["key_id"].as_str().expect("an id")
    );
    let itself = ask(
        "PATCH",
        &own,
        json!({"limits": {"rate": {"requests_per_second": 1}}}),
    )
    .await;
    assert_eq!((itself.status, itself.code()), (409, "CONFLICT"));
    let lifted = ask("PATCH", &own, json!({"limits": {}})).await;
    assert_eq!(lifted.status, 403, "{lifted:?}");
    let agent = ask("PUT", "/api/v1/agents/mine/limits", json!({})).await;
    assert_eq!(agent.status, 403, "{agent:?}");
}
