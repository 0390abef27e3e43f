//! What a caller could learn from how long an answer takes: the rows are asked the same, whatever is there and whosever it is.
//!
//! Statements are counted, not seconds: those differ by a machine's mood. The comparison of a key itself is by the keyed hash of it in
//! an index, which nobody can steer.

use super::world::{Answer, World};
use crate::{key, router::ENDPOINTS};
use domain::id::AccountId;
use serde_json::json;
use std::{
    fmt::{self, Write as _},
    sync::{Mutex, OnceLock, PoisonError},
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// Keeps the statements that sqlx tells of.
struct Heard;

static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Subscriber for Heard {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::query"
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut words = Words::default();
        event.record(&mut words);
        // Notes of when keys were used come by the clock.
        if !words.0.contains("last_used_at") {
            said().push(words.0);
        }
    }
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[derive(Default)]
struct Words(String);

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if matches!(field.name(), "summary" | "db.statement") {
            write!(self.0, "{value:?} ").ok();
        }
    }
}

fn said() -> std::sync::MutexGuard<'static, Vec<String>> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The tests of this file share what is heard.
fn turn() -> &'static tokio::sync::Mutex<()> {
    static TURN: OnceLock<tokio::sync::Mutex<()>> = OnceLock::new();
    TURN.get_or_init(|| {
        tracing::subscriber::set_global_default(Heard).expect("nobody else listens");
        tokio::sync::Mutex::default()
    })
}

/// An answer and the statements behind it.
async fn asked(world: &World, key: &str, method: &str, path: &str) -> (Answer, Vec<String>) {
    said().clear();
    let mut request = world.request(method, path).bearer_auth(key);
    if method != "GET" {
        request = request.json(&json!({}));
    }
    let answer = world.send(request).await;
    // What a change leaves in the audit is written before its answer. Some are asked side by side.
    let mut statements = std::mem::take(&mut *said());
    // The sweep of owed callbacks looks by itself, once a second.
    statements.retain(|statement| !statement.contains("callback_owed IS NOT NULL"));
    statements.sort_unstable();
    (answer, statements)
}

#[tokio::test]
async fn keys_that_open_nothing_are_alike() {
    let _turn = turn().lock().await;
    let world = World::new().await;
    let account = AccountId::default_account();
    let mut spoilt = world.key.clone().into_bytes();
    let last = spoilt.len() - 2;
    spoilt[last] = if spoilt[last] == b'A' { b'B' } else { b'A' };
    let spoilt = String::from_utf8(spoilt).expect("ASCII");
    let mut id = None;
    let revoked = world.key_like(|new| id = Some(new.id.clone())).await;
    let foreign = key::mint("test", &"theirs".parse().expect("an account"));
    let id = id.expect("an id");
    let now = world.store.now();
    world
        .store
        .revoke_key(&account, &id, now)
        .await
        .expect("rows");
    let mut seen = Vec::new();
    for secret in [key::mint("test", &account), spoilt, revoked, foreign] {
        let (answer, statements) = asked(&world, &secret, "GET", "/api/v1/agents").await;
        assert_eq!((answer.status, answer.code()), (401, "UNAUTHENTICATED"));
        assert_eq!(statements.len(), 1, "{statements:?}");
        seen.push((answer.body.to_string(), answer.headers.len(), statements));
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:#?}");
}

#[tokio::test]
async fn what_another_has_costs_what_nobody_has() {
    let _turn = turn().lock().await;
    let world = World::new().await;
    world.serving("mine").await;
    let body = json!({"execution_id": "e1", "execution_options": {"async": true}});
    assert_eq!(
        world
            .post("/api/v1/agents/mine/execute", &body)
            .await
            .status,
        200
    );
    let deployments = world.get("/api/v1/agents/mine/deployments").await.body;
    let deployment = deployments["deployments"][0]["deployment_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let keys = world.get("/api/v1/keys").await.body;
    let key = keys["keys"][0]["key_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let stranger = world
        .key_like(|new| new.account = "theirs".parse().expect("an account"))
        .await;
    let nobody = "0".repeat(32);
    let (mut walked, mut wrong) = (0, Vec::new());
    for endpoint in ENDPOINTS.iter().filter(|one| one.path.contains('{')) {
        let fill = |names: [&str; 4]| {
            let [agent, execution, deployment, key] = names;
            endpoint
                .path
                .replace("{agent_id}", agent)
                .replace("{execution_id}", execution)
                .replace("{deployment_id}", deployment)
                .replace("{key_id}", key)
                .replace("{session_id}", "s1")
                .replace("{version}", "1.0.0")
                .replace("{alert_id}", &format!("alert_{nobody}"))
                .replace("{dead_letter_id}", "1")
        };
        let ours = fill(["mine", "e1", &deployment, &key]);
        let (dep, other) = (format!("dep_{nobody}"), format!("key_{nobody}"));
        let nobodys = fill(["nope", "e9", &dep, &other]);
        // The key's own row is remembered by now.
        asked(&world, &stranger, "GET", "/api/v1/agents").await;
        let (one, ours) = asked(&world, &stranger, endpoint.method, &ours).await;
        asked(&world, &stranger, "GET", "/api/v1/agents").await;
        let (two, nobodys) = asked(&world, &stranger, endpoint.method, &nobodys).await;
        walked += usize::from(one.status == 404);
        if one.status != two.status || ours != nobodys {
            wrong.push(format!(
                "{} {}: {ours:#?} {nobodys:#?}",
                endpoint.method, endpoint.path
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(walked > 18, "only {walked} were looked for");
}
