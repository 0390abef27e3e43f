//! Secrets are planted, everything is done that may be done with them, all of it at the level trace and with traces sent; then they
//! are looked for in everything that was written, answered or shown.

use crate::planted::{Planted, shown_by_processes};
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    signal::Signal,
};
use phalanx_tests::{
    Client, Cluster, Collector, Options, Receiver, Shape, Value, apart, fixtures, json, wait,
};
use std::{fs, os::unix::process::ExitStatusExt, path::Path, time::Duration};

const WITHIN: Duration = Duration::from_secs(90);
/// Has its variable at hand wherever it fails, and never says it.
const HOLDS: &str = "\
import os, hashlib, time

def handler(input):
    token = os.environ['TOKEN']
    how = input.get('how')
    if how == 'raise':
        raise ValueError('as told')
    if how == 'abort':
        os.abort()
    if how == 'sleep':
        time.sleep(30)
    return hashlib.sha256(token.encode()).hexdigest()
";
const FAILS: &str = "\
import os
token = os.environ['TOKEN']
print('about to fail')
raise RuntimeError('at import')
";

fn random() -> String {
    apart::random()
}

/// One that is found again however it is escaped around it.
fn variable(planted: &mut Planted, what: &str) -> String {
    let core = random();
    planted.plant(what, &core);
    format!("\"ä \\{core}\\ &%\"")
}

fn with_token(id: &str, source: &str, token: &str) -> Value {
    let variables =
        json!({"deployment_config": {"security": {"environment_variables": {"TOKEN": token}}}});
    fixtures::with(fixtures::agent(id, source), variables)
}

fn text(value: &Value, name: &str) -> String {
    let found = value[name].as_str();
    found
        .unwrap_or_else(|| panic!("no {name}: {value}"))
        .to_owned()
}

/// Everything that an agent's owner may do, and everything that may go wrong. The agent is called `name`.
async fn live(cluster: &Cluster, planted: &mut Planted, name: &str, receiver: &Receiver) {
    let client = &cluster.client;
    let token = variable(planted, "a variable");
    let body = fixtures::with(
        with_token("holds", HOLDS, &token),
        json!({"agent_metadata": {"name": name}}),
    );
    let accepted = client.deployed(&body).await;
    let security = &accepted["security"];
    let (agent_key, secret) = (text(security, "api_key"), text(security, "webhook_secret"));
    planted.plant("an agent's key", &agent_key);
    planted.plant("an agent's webhook secret", &secret);
    let failing = variable(planted, "a variable of what fails");
    client
        .deploy_fails(&with_token("fails", FAILS, &failing))
        .await;

    let policy = json!({
        "rules": {"error_rate": {"threshold": 0.1, "for_minutes": 0, "minimum_samples": 2}},
        "escalation": {"level_1": {"after_minutes": 0, "webhooks": [receiver.url("/alert")]}},
    });
    let kept = client.put("/api/v1/alerts/policy", &policy).await.ok();
    planted.plant("a policy's webhook secret", &text(&kept, "webhook_secret"));
    let made = json!({"name": "made", "permissions": ["agent:monitor"]});
    let made = client.post("/api/v1/keys", &made).await.body();
    planted.plant("a key that was made", &text(&made, "api_key"));
    let id = text(&made, "key_id");
    let rotated = client
        .post(&format!("/api/v1/keys/{id}/rotate"), &json!({}))
        .await
        .body();
    planted.plant("a key that was rotated", &text(&rotated, "api_key"));

    // By the agent's own key too, in both versions of HTTP; and by one that is none.
    for key in [&agent_key, &format!("akc_{}{}", random(), random())] {
        planted.plant(&format!("a key that was shown ({})", key.len()), key);
        let other = client.with_key(key);
        other
            .post("/api/v1/agents/holds/execute", &fixtures::call(json!({})))
            .await;
        other.get("/api/v1/agents").await;
        by_http_2(cluster, key).await;
    }
    for how in ["raise", "raise", "raise", "abort"] {
        client.execute("holds", json!({"how": how})).await;
    }
    let mut slow = fixtures::call(json!({"how": "sleep"}));
    slow["execution_options"] = json!({"timeout_seconds": 1});
    client.post("/api/v1/agents/holds/execute", &slow).await;
    client.output("holds", json!({})).await;
    let background = client.execute_async("holds", json!({})).await;
    client.execution_end("holds", &background).await;

    // Requests that are refused with a secret in a wrong place.
    let wrong = variable(planted, "a variable that was refused");
    for variables in [
        json!({"A B": wrong}),
        json!({"TOKEN": [wrong]}),
        json!(wrong),
    ] {
        let body = json!({"deployment_config": {"security": {"environment_variables": variables}}});
        let body = fixtures::with(fixtures::agent("refused", HOLDS), body);
        let answer = client.deploy(&body).await;
        assert_eq!(answer.status, 400, "{}", answer.text);
        assert!(
            planted.found_in(answer.text.as_bytes()).is_empty(),
            "{}",
            answer.text
        );
    }
    // The same version with another variable is a conflict, which does not tell the one that is there.
    let conflict = variable(planted, "a variable in a conflict");
    let answer = client.deploy(&with_token("holds", HOLDS, &conflict)).await;
    assert_eq!(answer.status, 409, "{}", answer.text);
    assert!(
        planted.found_in(answer.text.as_bytes()).is_empty(),
        "{}",
        answer.text
    );
    receiver.first("/alert", "alert.escalated").await;
}

async fn by_http_2(cluster: &Cluster, key: &str) {
    let client = reqwest::Client::builder()
        .http2_prior_knowledge()
        .no_proxy()
        .build()
        .expect("a client");
    let answer = client
        .get(format!("{}/api/v1/agents", cluster.client.base()))
        .bearer_auth(key)
        .send()
        .await;
    assert_eq!(
        answer.expect("an answer").version(),
        reqwest::Version::HTTP_2
    );
}

/// Every GET that there is, of everything that there is.
async fn every_answer(client: &Client) -> Vec<(String, String)> {
    let document = client.get("/openapi.json").await.ok();
    let paths = document["paths"].as_object().expect("paths");
    let list = async |path: &str| client.get(path).await.ok();
    let deployments = list("/api/v1/agents/holds/deployments").await;
    let executions = list("/api/v1/agents/holds/executions?limit=100").await;
    let ids = |list: &Value, of: &str, name: &str| -> Vec<String> {
        let rows = list[of].as_array().expect("a list");
        rows.iter().map(|row| text(row, name)).collect()
    };
    let deployments = ids(&deployments, "deployments", "deployment_id");
    let executions = ids(&executions, "executions", "execution_id");
    assert!(deployments.len() == 1 && executions.len() >= 6);
    let mut asked = Vec::new();
    for path in paths
        .iter()
        .filter(|(_, item)| item.get("get").is_some())
        .map(|(path, _)| path)
    {
        let mut each = vec![path.replace("{agent_id}", "holds")];
        for (name, ids) in [
            ("{deployment_id}", &deployments),
            ("{execution_id}", &executions),
        ] {
            let filled = |path: &String| match path.contains(name) {
                true => ids.iter().map(|id| path.replace(name, id)).collect(),
                false => vec![path.clone()],
            };
            each = each.iter().flat_map(filled).collect();
        }
        asked.extend(each);
    }
    asked.extend(
        [
            "/api/v1/agents/fails",
            "/api/v1/agents/fails/logs",
            "/metrics",
            "/docs",
        ]
        .map(str::to_owned),
    );
    let mut answers = Vec::new();
    for path in asked {
        assert!(!path.contains('{'), "{path}");
        let answer = tokio::time::timeout(WITHIN, client.get(&path))
            .await
            .expect("an answer");
        assert!(answer.status < 500, "{path}: {}", answer.text);
        answers.push((path, answer.text));
    }
    assert!(answers.len() > 25, "{answers:?}");
    answers
}

/// What was written is in `base`; what is kept there on purpose, in `planted.kept_in`.
async fn nothing_leaks(mut cluster: Cluster, mut planted: Planted, collector: Collector) {
    let receiver = Receiver::start().await;
    // What is no secret is found: so would be what is one.
    let (name, mut public) = (random(), Planted::default());
    public.plant("the name", &name);
    live(&cluster, &mut planted, &name, &receiver).await;
    let mut found = Vec::new();
    let answers = every_answer(&cluster.client).await;
    assert!(
        answers
            .iter()
            .any(|(_, answer)| !public.found_in(answer.as_bytes()).is_empty())
    );
    for (path, answer) in answers {
        found.extend(
            planted
                .found_in(answer.as_bytes())
                .into_iter()
                .map(|what| format!("{what} in GET {path}")),
        );
    }
    let roots: Vec<u32> = cluster
        .parts
        .iter()
        .map(phalanx_tests::part::Part::pid)
        .collect();
    let shown = shown_by_processes(&roots);
    let agents = cluster.agent_processes();
    assert!(
        agents
            .iter()
            .any(|agent| shown.iter().any(|(pid, ..)| *pid == agent.pid))
    );
    for (pid, name, text) in shown {
        found.extend(
            planted
                .found_in(&text)
                .into_iter()
                .map(|what| format!("{what} in /proc/{pid}/{name}")),
        );
    }
    for pid in roots
        .iter()
        .copied()
        .chain(agents.iter().map(|agent| agent.pid))
    {
        // Some end meanwhile.
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let bound = core.is_none_or(|line| {
            line.split_whitespace()
                .skip(4)
                .take(2)
                .all(|word| word == "1" || word == "0")
        });
        assert!(bound, "{pid}: {core:?}");
    }
    wait::until("spans come", WITHIN, || async {
        let words = collector.words();
        match words.contains(&format!("invoke_agent {name}")) {
            true => Ok(()),
            false => Err(format!("{} bytes of spans", words.len())),
        }
    })
    .await;

    // One of them crashes, with all in its memory; the others leave.
    let mut parts = std::mem::take(&mut cluster.parts);
    for (at, part) in parts.iter_mut().enumerate().rev() {
        if at == 0 {
            part.signal(Signal::SIGABRT);
            let status = part.ended();
            assert!(
                status.signal() == Some(6) && !status.core_dumped(),
                "{status}"
            );
        } else {
            assert!(part.terminate().success(), "{}", part.tail());
        }
    }
    cluster.parts = parts;
    found.extend(
        planted
            .found_in(collector.words().as_bytes())
            .into_iter()
            .map(|what| format!("{what} in what was exported")),
    );
    let logs = cluster.log();
    assert!(logs.contains("TRACE"), "the level is trace");
    assert!(!public.found_in(collector.words().as_bytes()).is_empty());
    assert!(!public.found_below(cluster.base()).is_empty());
    found.extend(planted.found_below(cluster.base()));
    if cluster.backing.is_none() {
        // Clears up after the one that crashed.
        cluster.restart().await;
    }
    let told: Vec<String> = found
        .iter()
        .map(|one| format!("{one}: {}", lines(&logs, &planted)))
        .take(20)
        .collect();
    assert!(found.is_empty(), "{found:#?}\n{told:#?}");
}

/// Where in the logs, for whoever mends it.
fn lines(logs: &str, planted: &Planted) -> String {
    let line = logs
        .lines()
        .find(|line| !planted.found_in(line.as_bytes()).is_empty());
    line.map(|line| line.chars().take(600).collect())
        .unwrap_or_default()
}

fn told(collector: &Collector) -> Options {
    // A crash would leave its core, as far as this test is asked.
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE).expect("limits");
    setrlimit(Resource::RLIMIT_CORE, hard, hard).expect("our own limit");
    Options::default()
        .set("PHALANX__TELEMETRY__OTLP_ENDPOINT", &collector.url())
        .set("OTEL_BSP_SCHEDULE_DELAY", "100")
        .set("PHALANX__LOG__LEVEL", "trace")
        .set("PHALANX__WEBHOOKS__PRIVATE", "127.0.0.0/8:*")
}

fn plant_file(planted: &mut Planted, what: &str, path: &Path) -> String {
    let text =
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    planted.kept_in.push(path.to_owned());
    let text = text.trim().to_owned();
    if !what.is_empty() {
        planted.plant(what, &text);
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_one_process_tells_a_secret() {
    let collector = Collector::start().await;
    let cluster = Cluster::embedded(told(&collector)).await;
    let (mut planted, dir) = (Planted::default(), cluster.data_dir());
    plant_file(&mut planted, "the first key", &dir.join("admin.key"));
    plant_file(&mut planted, "the master key", &dir.join("master.key"));
    nothing_leaks(cluster, planted, collector).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_cluster_tells_a_secret() {
    let collector = Collector::start().await;
    let one = Shape {
        gateways: 1,
        executors: 1,
        ..Shape::SMALL
    };
    // With a Postgres of its own, whose files can be looked at.
    let cluster = Cluster::with_bad_days(one, told(&collector)).await;
    let (mut planted, base) = (Planted::default(), cluster.base().to_owned());
    plant_file(&mut planted, "the first key", &base.join("admin.key"));
    plant_file(&mut planted, "the master key", &base.join("master.key"));
    let backing = cluster.backing.as_ref().expect("a cluster");
    for (user, password) in &backing.passwords {
        planted.plant(&format!("the password of {user}"), password);
    }
    planted.kept_in.push(base.join("nats.conf"));
    for role in apart::ROLES {
        for file in ["store", "bus"] {
            plant_file(&mut planted, "", &base.join(format!("{role}.{file}")));
        }
        let pem = plant_file(&mut planted, "", &base.join(format!("{role}.key")));
        let line = pem.lines().nth(1).expect("a PEM").to_owned();
        planted.plant(&format!("the key of {role}'s certificate"), &line);
    }
    nothing_leaks(cluster, planted, collector).await;
}
