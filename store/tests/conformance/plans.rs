//! What is asked for again and again, by callers or by the clock, on a Postgres that has been at work for a month: it explains each
//! statement as it is really run (auto_explain), and none reads much more than it needs.

use crate::world::{account, agent, key, statement};
use domain::{Timestamp, id::NodeId, id::VersionId, rollup::Span};
use serde_json::Value;
use sqlx::{Connection as _, Executor as _, PgConnection};
use std::{
    fmt,
    sync::{Arc, Mutex},
};
use store::{
    Config, Store,
    agents::{self, Sort},
    alerts,
    deliveries::{Filter, Shares, Turn},
    executions,
    rollouts::Window,
    rollups::Which,
};
use tracing::{
    Event, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

/// What is not here when the month is over.
const NOW: i64 = 1_800_000_000_000;
const MINUTE: i64 = 60_000;
/// Rows that one step of a plan may read.
const MOST: f64 = 3000.0;

/// A month: 20,000 and more of everything that grows, of one account. A hundred agents live, one of which is called most of the time;
/// the others are deleted. Ids are made of numbers, so that they can be named here.
const MONTH: &str = "
CREATE FUNCTION id(prefix TEXT, n BIGINT) RETURNS TEXT IMMUTABLE LANGUAGE SQL AS $$ SELECT prefix || '_' || lpad(to_hex(n), 32, '0') $$;
CREATE FUNCTION ago(n BIGINT, step BIGINT) RETURNS BIGINT IMMUTABLE LANGUAGE SQL AS $$ SELECT 1800000000000 - n * step $$;
CREATE FUNCTION whose(n BIGINT) RETURNS TEXT IMMUTABLE LANGUAGE SQL AS $$ SELECT 'agent-' || CASE WHEN n % 3 = 0 THEN n / 3 % 100 ELSE 0 END $$;

INSERT INTO agents (account, agent_id, environment, name, created_by, created_at, webhook_secret, deleted_at, incarnation)
    SELECT 'a', 'agent-' || n, 'dev', 'n', 'k', ago(n, 400000), '', CASE WHEN n >= 100 THEN ago(n, 300000) END, 'i' || n FROM generate_series(0, 59999) n;
INSERT INTO versions (id, account, agent_id, incarnation, version, spec, artifact, secrets, digest, created_at)
    SELECT id('ver', n), 'a', 'agent-' || n % 60000, 'i' || n % 60000, '1.0.' || n, repeat('x', 600), 'x', '', 'x', ago(n, 60000) FROM generate_series(0, 119999) n;
INSERT INTO traffic (incarnation, account, agent_id, routes, updated_at)
    SELECT 'i' || n, 'a', 'agent-' || n, CASE WHEN n < 100 THEN '{\"routes\":[{\"version_id\":\"' || id('ver', n) || '\",\"version\":\"1.0.0\",\"weight\":1000}]}'
    ELSE '{\"routes\":[]}' END, ago(n, 60000) FROM generate_series(0, 59999) n;
INSERT INTO deployments (id, account, agent_id, incarnation, version_id, kind, status, state, rev, created_by, created_at, updated_at)
    SELECT id('dep', n), 'a', 'agent-' || n % 60000, 'i' || n % 60000, id('ver', n), 'deploy', CASE WHEN n < 3 THEN 'deploying' WHEN n % 5 = 0 THEN 'failed' ELSE 'deployed' END,
    '{}', 0, 'k', ago(n, 60000), ago(n, 60000) + 5000 FROM generate_series(0, 119999) n;
INSERT INTO deployment_orders SELECT 'order' || n, 'a', id('dep', n), 'pause', 'k', ago(n, 60000) FROM generate_series(0, 20099) n;
INSERT INTO envelopes SELECT id('ver', n), id('node', n % 5), 'a', 2, CASE WHEN n < 100 THEN 'active' ELSE 'retired' END, 0, 1, ago(n, 60000) FROM generate_series(0, 119999) n;
INSERT INTO instances (id, account, agent_id, version_id, node_id, boot_id, state, created_at, ready_at, ended_at)
    SELECT id('inst', n), 'a', 'agent-' || n % 100, id('ver', n % 100), id('node', n % 5), id('boot', 1), CASE WHEN n < 200 THEN 'ready' ELSE 'stopped' END,
    ago(n, 50000), ago(n, 50000), CASE WHEN n >= 200 THEN ago(n, 50000) + 40000 END FROM generate_series(0, 49999) n;
INSERT INTO scaling_events SELECT 'scale' || n, 'a', 'agent-' || n % 100, id('ver', n % 100), id('node', n % 5), ago(n, 50000), 'scale_up', 'r', 0, 1 FROM generate_series(0, 49999) n;
INSERT INTO executions (account, agent_id, id, version_id, mode, priority, status, session_id, caller, options, input, accepted_at, due_at, started_at, completed_at,
    attempt, losses, attempts, duration_ms, queue_ms, logs_dropped, callback_owed)
    SELECT 'a', whose(n), 'e' || n, id('ver', 1), 'sync', 'normal', CASE WHEN n < 50 THEN 'running' ELSE 'completed' END, CASE WHEN n % 4 = 0 THEN 's' || n / 40 END,
    '{}', '{}', '{}', ago(n, 20000), ago(n, 20000), ago(n, 20000), CASE WHEN n >= 50 THEN ago(n, 20000) + 100 END, 1, 0, '[]', 100, 1, 0,
    CASE WHEN n % 100 = 60 AND n < 2000 THEN 1 END FROM generate_series(0, 129599) n;
INSERT INTO logs SELECT 'a', whose(n), 'e' || n, ago(n, 20000), 1, 'INFO', 'm' FROM generate_series(0, 129599) n;
INSERT INTO audit SELECT 'audit' || n, 'a', ago(n, 60000), 'k', 'deploy', 's', NULL, 'r', 'ok' FROM generate_series(0, 119999) n;
INSERT INTO keys (id, account, hash, name, permissions, agents, created_at, revoked_at)
    SELECT id('key', n), 'a', decode(md5(n::text), 'hex'), 'n', '[]', '[\"agent-' || n || '\"]', ago(n, 400000), CASE WHEN n >= 100 THEN ago(n, 300000) END FROM generate_series(0, 59999) n;
INSERT INTO rollups SELECT 'a', 'agent-' || n % 20, id('ver', n % 20), 'minute', ago(n / 20, 60000), 1, 0, 0, 1, 1, 0, '{}' FROM generate_series(0, 199999) n;
INSERT INTO rollups SELECT 'a', 'agent-' || n % 20, id('ver', n % 20), 'hour', ago(n / 20, 3600000), 1, 0, 0, 1, 1, 0, '{}' FROM generate_series(0, 39999) n;
INSERT INTO rollups SELECT 'a', 'agent-' || n, id('ver', n), 'ever', 0, 1, 0, 0, 1, 1, 0, '{}' FROM generate_series(0, 99) n;
INSERT INTO alerts SELECT id('alert', n), 'a', 'agent-' || n % 100, 'i' || n % 100, 'latency', ago(n, 100000), 0, CASE WHEN n >= 20 THEN ago(n, 100000) + 60000 END,
    NULL, NULL, NULL, '{}', 1 FROM generate_series(0, 24999) n;
INSERT INTO deliveries (id, account, subject, event, level, round, url, body, secret, sealed_for, status, attempts, created_at, due_at, agent_id, execution_id, host)
    SELECT id('msg', n), 'a', 'e' || n, 'callback', 0, 0, 'https://h' || n % 50, '{}', '', 'i0', CASE WHEN n < 200 THEN 'pending' ELSE 'delivered' END, 1, ago(n, 50000),
    CASE WHEN n < 200 THEN ago(n, 100) END, 'agent-' || n % 100, 'e' || n, 'h' || n % 50 FROM generate_series(0, 49999) n;
INSERT INTO delivery_attempts SELECT id('msg', n), 'a', 1, ago(n, 50000), 5, 200 FROM generate_series(0, 49999) n;
INSERT INTO spent SELECT 'a', 's' || n, 0, 0, 0, 0, 0, ago(n, 100000) FROM generate_series(0, 24999) n;
ANALYZE";

/// What Postgres tells its client, with each statement as it was run.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().expect("not poisoned"))
    }
}

impl Subscriber for Told {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "sqlx::postgres::notice"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Words(self));
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

struct Words<'a>(&'a Told);

impl Visit for Words<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            let mut told = self.0.0.lock().expect("not poisoned");
            told.push(value.to_owned());
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// Steps of a plan that read too many rows of a table; indexes are read as far as is asked.
fn excesses(step: &Value, found: &mut Vec<String>) {
    let figure = |name: &str| step[name].as_f64().unwrap_or(0.0);
    let each = figure("Actual Rows")
        + figure("Rows Removed by Filter")
        + figure("Rows Removed by Index Recheck");
    let (rows, kind) = (each * figure("Actual Loops"), step["Node Type"].as_str());
    let reads = step.get("Relation Name").is_some() || kind == Some("Bitmap Index Scan");
    if reads && rows > MOST {
        let name = step.get("Relation Name").unwrap_or(&step["Index Name"]);
        found.push(format!(
            "{} reads {rows} rows of {name}",
            kind.unwrap_or("?")
        ));
    }
    for below in step["Plans"].as_array().into_iter().flatten() {
        excesses(below, found);
    }
}

struct Judge {
    told: Told,
    faults: Vec<String>,
    seen: usize,
}

impl Judge {
    /// Of what was asked since the last time.
    fn judge(&mut self, what: &str) {
        let told = self.told.take();
        let plans: Vec<Value> = told
            .iter()
            .filter_map(|text| serde_json::from_str(text.split_once("plan:\n")?.1).ok())
            .collect();
        assert!(!plans.is_empty(), "no plan of {what}: {told:?}");
        self.seen += plans.len();
        for plan in plans {
            let mut found = Vec::new();
            excesses(&plan["Plan"], &mut found);
            if !found.is_empty() {
                let text = &plan["Query Text"];
                self.faults
                    .push(format!("{what}: {found:?}\n{text}\n{:#}", plan["Plan"]));
            }
        }
    }
}

/// Each of these is asked, and its plans are judged; what comes back is not the question.
macro_rules! ask {
    ($judge:ident: $($what:literal: $asked:expr;)+) => {
        $(
            $asked.await.ok();
            $judge.judge($what);
        )+
    };
}

fn version(n: u128) -> VersionId {
    VersionId::from_uuid(uuid::Uuid::from_u128(n))
}

#[tokio::test(flavor = "current_thread")]
async fn nothing_that_is_asked_again_and_again_reads_a_month() {
    let url = std::env::var("PHALANX_TEST_POSTGRES_URL").expect("tests/run starts a Postgres");
    let schema = format!("plans_{}", uuid::Uuid::now_v7().as_simple());
    statement(&url, &format!("CREATE SCHEMA {schema}")).await;
    let mark = if url.contains('?') { '&' } else { '?' };
    let mut asked = format!("{url}{mark}options[search_path]={schema}");
    let plain = asked.clone();
    for (name, value) in [
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_level", "notice"),
        ("auto_explain.log_format", "json"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_timing", "off"),
    ] {
        asked += &format!("&options[{name}]={value}");
    }
    let config = |url: &str| Config::Postgres {
        url: url.to_owned().into(),
        connections: 2,
    };
    let opened = Store::open(&config(&plain), crate::world::secrets()).await;
    opened.expect("opens").close().await;
    let mut connection = PgConnection::connect(&plain).await.expect("connects");
    connection.execute(MONTH).await.expect("a month");
    connection.close().await.expect("closes");

    let told = Told::default();
    let _guard = tracing::subscriber::set_default(told.clone());
    let store = Store::open(&config(&asked), crate::world::secrets()).await;
    let store = store.expect("opens");
    told.take();
    let mut judge = Judge {
        told,
        faults: Vec::new(),
        seen: 0,
    };

    let (a, hot, cold) = (&account("a"), &agent("agent-0"), &agent("agent-7"));
    let (now, minute) = (Timestamp(NOW), Timestamp(NOW - MINUTE));
    let (hour, month) = (
        Timestamp(NOW - 60 * MINUTE),
        Timestamp(NOW - 43_200 * MINUTE),
    );
    let old = Timestamp(NOW - 43_190 * MINUTE);
    let node = NodeId::from_uuid(uuid::Uuid::from_u128(1));
    let all = agents::Filter::default();
    let one = agents::Filter {
        agent_id: Some(cold.clone()),
        ..agents::Filter::default()
    };
    let recent = executions::Filter {
        from: Some(hour),
        ..executions::Filter::default()
    };
    let of_session = executions::Filter {
        session_id: Some("s30".to_owned()),
        ..executions::Filter::default()
    };
    let shares = Shares {
        of_host: 16,
        hosts: 16,
        all: 256,
    };
    let begin = (&Turn::default(), true);
    let which = |agents, span, from| Which {
        account: a,
        agents,
        version: None,
        span,
        from,
        to: now,
    };
    let just = std::slice::from_ref(cold);
    let window = Window {
        since: hour,
        from: minute,
        to: now,
    };

    ask! { judge:
        "an execution": store.execution(&key("a", "agent-0", "e70"));
        "executions since an hour ago": store.executions(a, hot, &recent, 0, 50);
        "executions of a session": store.executions(a, hot, &of_session, 0, 50);
        "executions nobody finished": store.unfinished_executions(now, 100);
        "open executions": store.open_executions(a, 10_000);
        "open executions of a version": store.open_executions_of_version(a, &version(1));
        "executions of the last minute": store.count_ended_executions(minute, now);
        "the first end since": store.first_end_since(minute);
        "sessions": store.sessions(a, hot, hour, 0, 50);
        "a session": store.session_is_known(a, hot, "s30");
        "a session that nobody had": store.session_is_known(a, hot, "nobody");
        "what a session runs": store.open_executions_of_session(a, hot, "s30");
        "samples": store.samples(a, hot, window, 1000);
        "ended executions": store.ended(minute, now, 1000);
        "ended executions by the minute": store.ended_per_minute(hour, now);
        "executions that are too old": store.purge_executions(old, 10);

        "logs of an execution": store.execution_logs(&key("a", "agent-0", "e70"), 0, 1000);
        "logs of an agent": store.agent_logs(a, hot, hour, 100);
        "how many logs an agent has": store.count_agent_logs(a, hot, hour);
        "logs of the last minute": store.count_logs(minute, now);
        "logs that are too old": store.purge_logs(old, 10);

        "counted by the minute": store.rolled_per_minute(hour, now);
        "cells of a minute": store.minute_cells(minute);
        "cells of an agent's month": store.cells_of(&which(just, Span::Hour, month));
        "cells of an agent's hour": store.cells_of(&which(just, Span::Minute, hour));
        "counts of all agents": store.counts_of(&which(&[], Span::Ever, Timestamp(0)));
        "counts of the last minutes": store.counts_of(&which(&[], Span::Minute, Timestamp(NOW - 5 * MINUTE)));
        "cells that are too old": store.purge_cells(Span::Minute, Timestamp(NOW - 9_990 * MINUTE), 10);

        "alerts at work": store.alerts_at_work(hour);
        "alerts": store.alerts(a, &alerts::Filter { agent_id: Some(cold.clone()), ..alerts::Filter::default() }, (0, 50));
        "firing alerts": store.alerts(a, &alerts::Filter { status: Some(domain::alert::Status::Firing), ..alerts::Filter::default() }, (0, 50));
        "alerts that are too old": store.purge_alerts(Timestamp(NOW - 24_990 * 100_000), 10);

        "due deliveries": store.due_deliveries(now, 512);
        "due deliveries in turn": store.due_in_turn(now, begin, shares);
        "deliveries of alerts": store.deliveries_of(a, &["e1", "e2"]);
        "callbacks of an agent": store.callbacks(a, cold, &Filter::default(), (0, 50));
        "owed callbacks": store.owed_callbacks(None, 100);
        "deliveries that are too old": store.purge_deliveries(Timestamp(NOW - 49_990 * 50_000), 10);

        "instances": store.living_instances(a, cold);
        "ready instances": store.ready_instances(a);
        "failed checks": store.failed_checks(&version(7), hour);
        "scaling events": store.scaling_events(a, cold, 50);
        "instances that are too old": store.purge_instances(Timestamp(NOW - 49_990 * 50_000));
        "instances of a lost node": store.end_instances_of_lost_node(&NodeId::from_uuid(uuid::Uuid::from_u128(77)), now);

        "agents": store.agents(a, &all, (Sort::CreatedAt, true), 0, 50);
        "one agent": store.agents(a, &one, (Sort::CreatedAt, true), 0, 1);
        "how many agents": store.count_agents(a);
        "an agent": store.agent(a, cold);
        "versions": store.versions("i7", 0, 50);
        "deployments": store.deployments("i7", 0, 50);
        "the deployment of a version": store.deployment_of(&version(7));
        "how long deployments take": store.mean_deployment(a, 20);
        "deployments on their way": store.unfinished_deployments(100);
        "deployments on their way of an agent": store.unfinished_deployments_of("i1");
        "versions in traffic": store.versions_in_traffic();
        "envelopes": store.envelopes();
        "envelopes of a node": store.envelopes_of_node(&node);
        "envelopes of an agent": store.envelopes_of_agent(a, "i7");
        "envelopes of a version": store.envelopes_of_version(a, &version(7));
        "audit": store.audit(a, 100);
        "keys": store.keys(a, false, now, (0, 50));
        "limits that are too old": store.purge_spent(Timestamp(NOW - 24_990 * 100_000), 10);
    }
    store.close().await;
    statement(&url, &format!("DROP SCHEMA {schema} CASCADE")).await;
    assert!(judge.seen > 70, "{}", judge.seen);
    assert!(
        judge.faults.is_empty(),
        "{} of {}:\n{}",
        judge.faults.len(),
        judge.seen,
        judge.faults.join("\n\n")
    );
}
