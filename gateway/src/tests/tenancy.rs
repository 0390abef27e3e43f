//! A key of one account, with every permission, walks every endpoint: what another account has is there for it as little
//! as what nobody has.

use super::world::{Answer, World, deploy_body};
use crate::router::ENDPOINTS;
use bus::{WorkOptions, typed::deployments};
use domain::{
    agent::Environment,
    alert,
    execution::{Status, Usage},
    id::{AccountId, AlertId},
    key::Key,
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use store::{
    alerts::Kept,
    executions::{End, Key as Which},
    leases::ROLLER,
};

/// What stands for the placeholders of a path: what the account has, and what nobody has.
struct Names(Vec<(&'static str, String, String)>);

impl Names {
    fn fill(&self, path: &str, nobodys: bool) -> String {
        let mut path = path.to_owned();
        for (placeholder, ours, other) in &self.0 {
            path = path.replace(placeholder, if nobodys { other } else { ours });
        }
        assert!(
            !path.contains('{'),
            "{path}: say here what stands for its placeholder"
        );
        path
    }

    /// The answer's words, with the names taken out.
    fn words(&self, answer: &Answer) -> String {
        let mut text = answer.body.to_string();
        for (placeholder, ours, other) in &self.0 {
            if text.contains(ours.as_str()) {
                text = text.replace(ours.as_str(), placeholder);
            } else {
                text = text.replace(other.as_str(), placeholder);
            }
        }
        text
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// An account with an agent, a deployment, an execution, a callback, a key, an alert and a dead letter.
async fn furnished(world: &World) -> Names {
    let deployed = world.deploy("mine", "1.0.0").await;
    assert_eq!(deployed.status, 200, "{deployed:?}");
    let work = world.bus.work(&deployments(), WorkOptions::default()).await;
    let mut work = work.expect("work");
    let nudge = tokio::time::timeout(Duration::from_secs(60), work.next()).await;
    let nudge = nudge.expect("in time").expect("not drained");
    nudge.bury().await.expect("buried");
    world.route("mine", "1.0.0").await;
    let body = json!({"execution_id": "exec-ours", "execution_options": {"async": true}});
    let queued = world.post("/api/v1/agents/mine/execute", &body).await;
    assert_eq!(queued.status, 200, "{queued:?}");
    let keys = world.get("/api/v1/keys").await.body;
    let letters = world.get("/api/v1/dead-letters").await.body;
    let nobody = uuid::Uuid::now_v7().as_simple().to_string();
    let deployment = text(&deployed.body["deployment_id"]);
    let key = text(&keys["keys"][0]["key_id"]);
    let alert = raised(world).await;
    let callback = told(world).await;
    let like = |id: &str| {
        let prefix = id.rsplit_once('_').expect("a printed prefix").0;
        format!("{prefix}_{nobody}")
    };
    Names(vec![
        ("{deployment_id}", deployment.clone(), like(&deployment)),
        ("{execution_id}", "exec-ours".into(), "exec-none".into()),
        ("{session_id}", "session-ours".into(), "session-none".into()),
        ("{key_id}", key.clone(), like(&key)),
        ("{alert_id}", alert.clone(), like(&alert)),
        ("{callback_id}", callback.clone(), like(&callback)),
        (
            "{dead_letter_id}",
            text(&letters["dead_letters"][0]["id"]),
            "999999".into(),
        ),
        ("{version}", "1.0.0".into(), "9.9.9".into()),
        ("{agent_id}", "mine".into(), "nope".into()),
    ])
}

/// A callback of the agent.
async fn told(world: &World) -> String {
    let options = json!({"async": true, "callback_url": "https://hooks.example.org/"});
    let body = json!({"execution_id": "exec-told", "execution_options": options});
    let queued = world.post("/api/v1/agents/mine/execute", &body).await;
    assert_eq!(queued.status, 200, "{queued:?}");
    let now = world.store.now();
    let end = End {
        key: Which {
            account: AccountId::default_account(),
            agent_id: "mine".parse().expect("an id"),
            id: "exec-told".parse().expect("an id"),
        },
        attempt: 1,
        status: Status::Completed,
        due_at: now,
        started_at: Some(now),
        completed_at: Some(now),
        attempts: Vec::new(),
        instance_id: None,
        output: None,
        error: None,
        duration_ms: 0.0,
        queue_ms: 0.0,
        waterfall: None,
        recording: None,
        usage: Usage::default(),
    };
    assert!(world.store.end_execution(end).await.expect("writes"));
    // The gateway finds it within a second.
    let found = async {
        loop {
            let list = world.get("/api/v1/agents/mine/callbacks").await.body;
            if let Some(id) = list["callbacks"][0]["callback_id"].as_str() {
                return id.to_owned();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), found).await;
    found.expect("its callback is kept in time")
}

/// An alert of the agent.
async fn raised(world: &World) -> String {
    let now = world.store.now();
    let hour = Duration::from_secs(3600);
    let lease = world.store.acquire(ROLLER, "here", hour).await;
    let one = Kept {
        id: AlertId::from_uuid(uuid::Uuid::now_v7()),
        account: AccountId::default_account(),
        agent_id: "mine".parse().expect("an id"),
        incarnation: "any".to_owned(),
        rule: alert::Rule::ErrorRate,
        alert: alert::Alert {
            opened_at: now,
            raised_at: now,
            figures: alert::Figures {
                value: 0.5,
                threshold: 0.01,
                samples: 10,
                since: now,
            },
            bad_at: now,
            level: 0,
            told_at: None,
            acknowledged_at: None,
            good_since: None,
            resolved_at: None,
            returns: 0,
        },
        acknowledged_by: None,
        note: None,
        rev: 0,
    };
    let lease = lease.expect("reads").expect("nobody holds it");
    let written = world.store.write_alert(&lease, &one, &[]).await;
    assert!(written.expect("writes"));
    one.id.to_string()
}

async fn call(world: &World, key: &str, method: &str, path: &str) -> Answer {
    let asked = if path.ends_with("/metrics") {
        "?start_time=2026-01-01T00:00:00Z&end_time=2026-01-01T00:10:00Z"
    } else {
        ""
    };
    let mut request = world
        .request(method, &format!("{path}{asked}"))
        .bearer_auth(key);
    if path.ends_with("/limits") && method == "PUT" || method == "PATCH" {
        request = request.json(&json!({}));
    } else if method == "PUT" {
        let mut body = deploy_body("mine", "2.0.0");
        body.as_object_mut()
            .expect("a document")
            .remove("agent_metadata");
        request = request.json(&body);
    } else if method == "POST" {
        request = request.json(&json!({}));
    }
    world.send(request).await
}

#[tokio::test]
async fn nothing_of_another_account_is_there() {
    let world = World::new().await;
    let names = furnished(&world).await;
    let theirs: AccountId = "theirs".parse().expect("an account");
    let all: Vec<_> = Key::all_permissions().into_iter().collect();
    let key = world.key_of(theirs, &all, None).await;
    let (mut walked, mut wrong) = (0, Vec::new());
    for endpoint in ENDPOINTS.iter().filter(|one| one.path.contains('{')) {
        let (method, path) = (endpoint.method, endpoint.path);
        let ours = call(&world, &key, method, &names.fill(path, false)).await;
        let nobodys = call(&world, &key, method, &names.fill(path, true)).await;
        if (ours.status, ours.code()) != (404, "NOT_FOUND") {
            wrong.push(format!("{method} {path}: {} {}", ours.status, ours.body));
        } else if (nobodys.status, names.words(&nobodys)) != (404, names.words(&ours)) {
            wrong.push(format!(
                "{method} {path} tells them apart: {} / {}",
                ours.body, nobodys.body
            ));
        }
        walked += 1;
    }
    for path in ["agents", "alerts", "keys", "audit", "dead-letters"] {
        let list = call(&world, &key, "GET", &format!("/api/v1/{path}")).await;
        assert_eq!(list.status, 200, "{path}: {list:?}");
        let said = list.body.to_string();
        for (placeholder, ours, _) in &names.0 {
            // What they tried is in their own audit; short numbers are anywhere.
            if path != "audit" && ours.len() > 6 && said.contains(ours.as_str()) {
                wrong.push(format!("{path} lists our {placeholder}: {said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(walked > 15, "only {walked} endpoints name something");

    // And all of it is there, unchanged, for those whose it is.
    for path in [
        "/api/v1/agents/{agent_id}",
        "/api/v1/agents/{agent_id}/deployments/{deployment_id}",
        "/api/v1/agents/{agent_id}/executions/{execution_id}",
    ] {
        let read = world.get(&names.fill(path, false)).await;
        assert_eq!(read.status, 200, "{path}: {read:?}");
    }
    let alerts = world.get("/api/v1/alerts").await.body;
    let alert = &alerts["alerts"][0];
    assert_eq!(alert["alert_id"], names.fill("{alert_id}", false));
    assert_eq!(alert["status"], "firing", "{alert:#}");
    let kept = world.get("/api/v1/keys").await.body.to_string();
    assert!(kept.contains(&names.fill("{key_id}", false)), "{kept}");
}

/// The agent lives in dev. For a key of other environments it is as little there as one that nobody has.
#[tokio::test]
async fn nothing_of_another_environment_is_there() {
    let world = World::new().await;
    let names = furnished(&world).await;
    let of = |environments: &[Environment]| {
        let environments: BTreeSet<_> = environments.iter().copied().collect();
        world.key_like(|new| new.environments = Some(environments))
    };
    let outside = of(&[Environment::Staging, Environment::Prod]).await;
    let inside = of(&[Environment::Dev]).await;
    let (mut walked, mut wrong) = (0, Vec::new());
    for endpoint in ENDPOINTS {
        let (method, path) = (endpoint.method, endpoint.path);
        if !(path.contains("{agent_id}") || path.contains("{alert_id}")) {
            continue;
        }
        let ours = call(&world, &outside, method, &names.fill(path, false)).await;
        let nobodys = call(&world, &outside, method, &names.fill(path, true)).await;
        if (ours.status, ours.code()) != (404, "NOT_FOUND") {
            wrong.push(format!("{method} {path}: {} {}", ours.status, ours.body));
        } else if (nobodys.status, names.words(&nobodys)) != (404, names.words(&ours)) {
            let (ours, nobodys) = (ours.body, nobodys.body);
            wrong.push(format!(
                "{method} {path} tells them apart: {ours} / {nobodys}"
            ));
        }
        walked += 1;
        if method == "GET" {
            let seen = call(&world, &inside, method, &names.fill(path, false)).await;
            let read = seen.status != 404 || !seen.body.to_string().contains("agent mine");
            assert!(read, "{path} is hidden from its own: {seen:?}");
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(walked > 18, "only {walked} endpoints are about an agent");
    for (list, what) in [("agents", "agents"), ("alerts", "alerts")] {
        let path = format!("/api/v1/{list}");
        let hidden = call(&world, &outside, "GET", &path).await;
        assert_eq!((hidden.status, &hidden.body[what]), (200, &json!([])));
        let shown = call(&world, &inside, "GET", &path).await;
        assert_eq!(shown.body["pagination"]["total"], 1, "{shown:?}");
    }
    let of_another = format!(
        "/api/v1/alerts/policy?agent_id={}",
        names.fill("{agent_id}", false)
    );
    assert_eq!(call(&world, &outside, "GET", &of_another).await.status, 404);
    assert_eq!(call(&world, &inside, "GET", &of_another).await.status, 200);
    // What is about no agent in particular is for keys without walls.
    for (method, path) in [
        ("GET", "/api/v1/keys"),
        ("GET", "/api/v1/audit"),
        ("GET", "/api/v1/dead-letters"),
        ("GET", "/api/v1/system/health"),
        ("GET", "/api/v1/alerts/policy"),
        ("POST", "/api/v1/dead-letters/{dead_letter_id}/redrive"),
        ("POST", "/api/v1/keys/{key_id}/rotate"),
        ("PATCH", "/api/v1/keys/{key_id}"),
        ("DELETE", "/api/v1/keys/{key_id}"),
    ] {
        let answer = call(&world, &inside, method, &names.fill(path, false)).await;
        assert_eq!((answer.status, answer.code()), (403, "FORBIDDEN"), "{path}");
    }
    // Neither into another environment, nor under a name that is used in one.
    for (name, environment) in [("mine", "dev"), ("mine", "prod"), ("new", "dev")] {
        let mut body = deploy_body(name, "3.0.0");
        body["deployment_config"]["environment"] = environment.into();
        let request = world.request("POST", "/api/v1/agents/deploy");
        let answer = world.send(request.bearer_auth(&outside).json(&body)).await;
        assert_eq!(
            (answer.status, answer.code()),
            (403, "FORBIDDEN"),
            "{answer:?}"
        );
    }
    let mut body = deploy_body("new", "1.0.0");
    body["deployment_config"]["environment"] = "prod".into();
    let request = world.request("POST", "/api/v1/agents/deploy");
    let answer = world.send(request.bearer_auth(&outside).json(&body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}
