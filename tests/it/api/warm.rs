//! Warm starts: what is forked, what is not, and that an instance which was forked is like one that was spawned to its callers.

use phalanx_tests::{Cluster, Options, Value, fixtures, json, program::example, wait};
use std::{collections::BTreeSet, time::Duration};

const SOON: Duration = Duration::from_secs(90);

/// `marks` is filled by `after_fork` only. A call that sleeps keeps its instance busy, so that others get others.
const AGENT: &str = "
import os, random, subprocess, sys, time, uuid

calls, marks = [], []
open('/tmp/imported', 'w').write('by the import')

def after_fork():
    marks.append(os.getpid())

def handler(input):
    calls.append(input.get('how'))
    how = input.get('how')
    if how == 'memory':
        held = []
        while True:
            held.append(bytearray(1 << 20))
    if how == 'bomb':
        while True:
            try:
                os.fork()
            except OSError:
                time.sleep(0.01)
    if how == 'tree':
        subprocess.Popen(['setsid', 'sh', '-c', 'sleep 3600 & sleep 3600'])
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            time.sleep(3600)
        print('grown')
        time.sleep(3600)
    if how == 'look':
        def tried(act):
            try:
                return str(act())
            except OSError as error:
                return type(error).__name__
        found, others = {}, [pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) != os.getpid()]
        for pid in others:
            for name in ('mem', 'environ', 'maps', 'root/tmp/imported', 'fd'):
                act = os.listdir if name == 'fd' else lambda path: open(path, 'rb').read(1)
                found[pid + '/' + name] = tried(lambda: act('/proc/%s/%s' % (pid, name)))
        found['chroot'] = tried(lambda: os.chroot('/tmp'))
        found['slots'] = tried(lambda: [os.listdir('/slots/' + slot) for slot in os.listdir('/slots') if os.listdir('/slots/' + slot)])
        found['write'] = tried(lambda: open('/slots/0/x', 'w'))
        return {'others': len(others), 'found': found}
    name = '/tmp/%d' % len(os.listdir('/tmp'))
    open(name, 'w').write(name)
    time.sleep(input.get('sleep', 0))
    return {'pid': os.getpid(), 'marks': marks, 'calls': calls, 'chance': [random.random(), str(uuid.uuid4())],
            'files': sorted(os.listdir('/tmp')), 'capabilities': [l.split()[1] for l in open('/proc/self/status') if l.startswith('Cap')]}
";

fn scaled(most: u32, configuration: &Value) -> Value {
    json!({
        "agent_code": {"configuration": configuration},
        "deployment_config": {"auto_scaling": {"min_instances": 0, "max_instances": most}},
    })
}

/// One executor, which lets go of instances as soon as it may.
async fn cluster() -> Cluster {
    Cluster::embedded(Options::default().set("PHALANX__EXECUTOR__IDLE_S", "1")).await
}

/// The execution that met no instance.
async fn cold(cluster: &Cluster, id: &str) -> Value {
    let path = format!("/api/v1/agents/{id}/instances");
    wait::until("no instance is left", SOON, || async {
        let list = cluster.client.get(&path).await.ok();
        match list["instances"].as_array().map_or(0, Vec::len) {
            0 => Ok(()),
            _ => Err(list.to_string()),
        }
    })
    .await;
    let document = cluster
        .client
        .execute(id, json!({"message": "hello"}))
        .await;
    assert_eq!(document["status"], "completed", "{document:#}");
    document
}

fn start(document: &Value) -> &str {
    let start = document["performance"]["instance_start"].as_str();
    start.unwrap_or_else(|| panic!("it waited for no start: {document:#}"))
}

/// Its template may still be importing when the first one is let go.
async fn forked(cluster: &Cluster, id: &str) -> Value {
    for _ in 0..10 {
        let document = cold(cluster, id).await;
        if start(&document) == "forked" {
            return document;
        }
    }
    panic!("{id} was never forked: {}", cluster.log());
}

/// `count` instances at work at the same time, all of them forked: what each says.
async fn side_by_side(cluster: &Cluster, id: &str, count: usize) -> Vec<Value> {
    wait::until("so many are forked", SOON, || async {
        let calls = (0..count).map(|_| cluster.client.output(id, json!({"sleep": 0.7})));
        let told = futures::future::join_all(calls).await;
        let pids: BTreeSet<String> = told.iter().map(|one| one["pid"].to_string()).collect();
        if pids.len() == count && told.iter().all(|one| one["marks"] == json!([one["pid"]])) {
            Ok(told)
        } else {
            Err(format!("{told:?}"))
        }
    })
    .await
}

#[tokio::test]
async fn what_is_forked_is_apart() {
    let cluster = cluster().await;
    let changes = scaled(
        3,
        &json!({"concurrent_executions": 1, "warm_up": {"how": "warm-up"}}),
    );
    cluster.client.deploy_source("agent", AGENT, changes).await;
    let document = forked(&cluster, "agent").await;
    let waterfall = &document["performance"]["waterfall"];
    assert_eq!(waterfall["import"], json!(0.0), "{document:#}");
    assert!(waterfall["spawn"].as_f64() > Some(0.0), "{document:#}");
    let told = &document["result"]["output"];
    assert_eq!(told["calls"], json!(["warm-up", null]), "{told}");
    // What the import and the warm-up wrote is there for each, and what others write is not.
    assert_eq!(told["files"], json!(["1", "2", "imported"]), "{told}");
    let nothing = "0000000000000000";
    assert_eq!(told["capabilities"], json!(vec![nothing; 5]), "{told}");

    let works = cluster
        .client
        .execute_async("agent", json!({"sleep": 4}))
        .await;
    let path = "/api/v1/agents/agent/instances";
    wait::until("its instance says how it started", SOON, || async {
        let list = cluster.client.get(path).await.ok();
        let mut instances = list["instances"].as_array().into_iter().flatten();
        match instances.any(|one| one["start"] == "forked") {
            true => Ok(()),
            false => Err(list.to_string()),
        }
    })
    .await;
    cluster.client.execution_end("agent", &works).await;

    let all = side_by_side(&cluster, "agent", 3).await;
    let chances: BTreeSet<String> = all.iter().map(|one| one["chance"][0].to_string()).collect();
    assert_eq!(chances.len(), 3, "{all:?}");
    let uuids: BTreeSet<String> = all.iter().map(|one| one["chance"][1].to_string()).collect();
    assert_eq!(uuids.len(), 3, "{all:?}");
    for one in &all {
        // A file a call, of its own calls alone.
        let (calls, files) = (one["calls"].as_array(), one["files"].as_array());
        assert_eq!(
            calls.map(Vec::len),
            files.map(|files| files.len() - 1),
            "{one}"
        );
    }
}

#[tokio::test]
async fn one_that_ends_leaves_the_others() {
    let cluster = cluster().await;
    let client = &cluster.client;
    // Room for a bomb's processes, of which each holds a little.
    let configuration = json!({"concurrent_executions": 1, "timeout": 20, "memory_limit": 1024});
    let changes = scaled(2, &configuration);
    client.deploy_source("agent", AGENT, changes).await;
    for (how, timeout, wanted) in [
        ("memory", 20, "OUT_OF_MEMORY"),
        ("bomb", 3, "HANDLER_TIMEOUT"),
    ] {
        forked(&cluster, "agent").await;
        side_by_side(&cluster, "agent", 2).await;
        let body = fixtures::with(
            fixtures::call(json!({"how": how})),
            json!({"execution_options": {"timeout": timeout}}),
        );
        let neighbour = client.execute("agent", json!({"sleep": 6}));
        let (one, other) = tokio::join!(client.execute_with("agent", &body), neighbour);
        assert_eq!(one.ok()["result"]["error"]["code"], wanted);
        assert_eq!(other["status"], "completed", "{how}: {other:#}");
        assert_eq!(other["performance"]["instance_start"], Value::Null);
    }
}

#[tokio::test]
async fn cancel_ends_the_tree_of_one() {
    let cluster = cluster().await;
    let client = &cluster.client;
    let changes = scaled(2, &json!({"concurrent_executions": 1, "timeout": 120}));
    client.deploy_source("agent", AGENT, changes).await;
    forked(&cluster, "agent").await;
    side_by_side(&cluster, "agent", 2).await;
    let before = cluster.agent_processes().len();
    let neighbour = client.execute_async("agent", json!({"sleep": 15})).await;
    client
        .execution_status("agent", &neighbour, "running")
        .await;
    let tree = client.execute_async("agent", json!({"how": "tree"})).await;
    wait::until("it has grown", SOON, || async {
        let now = cluster.agent_processes().len();
        if now >= before + 4 {
            Ok(())
        } else {
            Err(format!("{now} of {before} and four"))
        }
    })
    .await;
    let cancel = format!("/api/v1/agents/agent/executions/{tree}/cancel");
    let answer = client.post(&cancel, &json!({})).await.ok();
    assert_eq!(answer["status"], "cancelled", "{answer}");
    // At once: another instance of it may be on its way, nothing that it had started is left.
    let left: Vec<_> = cluster
        .agent_processes()
        .into_iter()
        .filter(|process| process.words.starts_with("sleep") || process.words.starts_with("sh "))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let end = client.execution_end("agent", &neighbour).await;
    assert_eq!(end["status"], "completed", "{end:#}");
}

#[tokio::test]
async fn what_is_forked_sees_nothing_of_others() {
    let cluster = cluster().await;
    let client = &cluster.client;
    let changes = scaled(2, &json!({"concurrent_executions": 1, "timeout": 60}));
    client.deploy_source("agent", AGENT, changes).await;
    forked(&cluster, "agent").await;
    side_by_side(&cluster, "agent", 2).await;
    let neighbour = client.execute("agent", json!({"sleep": 5}));
    let look = client.output("agent", json!({"how": "look"}));
    let (neighbour, seen) = tokio::join!(neighbour, look);
    assert_eq!(neighbour["status"], "completed", "{neighbour:#}");
    // Process 1, the template, its sibling, and what was made ahead.
    assert!(seen["others"].as_u64() >= Some(3), "{seen:#}");
    for (what, got) in seen["found"].as_object().expect("an object") {
        let refused = ["PermissionError", "OSError", "FileNotFoundError"];
        let is_refused = got.as_str().is_some_and(|got| refused.contains(&got));
        assert!(
            is_refused || (what == "slots" && got == "[]"),
            "{what}: {got}"
        );
    }
}

#[tokio::test]
async fn what_is_not_safe_is_spawned_and_says_why() {
    let cluster = cluster().await;
    let client = &cluster.client;
    for (id, import, reason) in [
        (
            "threads",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(9999,), daemon=True).start()",
            "2 threads",
        ),
        (
            "socket",
            "import socket\nkept = socket.socket()",
            "an open socket",
        ),
    ] {
        let source = format!("{import}\ndef handler(input):\n    return 1\n");
        client
            .deploy_source(id, &source, scaled(2, &json!({})))
            .await;
        wait::until("it says why", SOON, || async {
            let logs = client.get(&format!("/api/v1/agents/{id}/logs")).await.text;
            if logs.contains("spawned, not forked") && logs.contains(reason) {
                Ok(())
            } else {
                Err(logs)
            }
        })
        .await;
        assert_eq!(start(&cold(&cluster, id).await), "spawned");
    }
}

#[tokio::test]
async fn who_must_not_share_is_spawned() {
    let cluster = cluster().await;
    let client = &cluster.client;
    client
        .deploy_source("told", AGENT, scaled(2, &json!({"warm_start": false})))
        .await;
    let by_session = fixtures::with(
        scaled(3, &json!({"concurrent_executions": 1})),
        json!({"deployment_config": {"security": {"isolation": "session"}}}),
    );
    client.deploy_source("sessions", AGENT, by_session).await;
    // What might be forked meanwhile shows that a template would have been there.
    client
        .deploy_source("other", AGENT, scaled(2, &json!({})))
        .await;
    forked(&cluster, "other").await;
    for _ in 0..2 {
        assert_eq!(start(&cold(&cluster, "told").await), "spawned");
    }
    for session in ["one", "two", "three"] {
        let body = fixtures::with(
            fixtures::call(json!({})),
            json!({"input_data": {"context": {"session_id": session}}}),
        );
        let document = client.execute_with("sessions", &body).await.ok();
        assert_eq!(
            document["result"]["output"]["marks"],
            json!([]),
            "{document:#}"
        );
        assert_ne!(document["performance"]["instance_start"], "forked");
    }
}

#[tokio::test]
async fn an_agno_agent_is_forked() {
    let cluster = cluster().await;
    let changes = fixtures::with(
        scaled(
            2,
            &json!({"memory_limit": 512, "warm_up": {"message": "warm up"}}),
        ),
        json!({"agent_code": {"entrypoint": "agent", "dependencies": {"python": ["agno"]}}}),
    );
    let source = example("agno_agent.py");
    cluster.client.deploy_source("agno", &source, changes).await;
    let document = forked(&cluster, "agno").await;
    let output = document["result"]["output"].to_string();
    assert!(output.contains("hello"), "{document:#}");
    let waterfall = &document["performance"]["waterfall"];
    assert_eq!(waterfall["import"], json!(0.0), "{document:#}");
}

#[tokio::test]
async fn kill_9_leaves_no_template() {
    let mut cluster = cluster().await;
    let changes = scaled(2, &json!({"concurrent_executions": 1}));
    cluster.client.deploy_source("agent", AGENT, changes).await;
    forked(&cluster, "agent").await;
    let running = cluster
        .client
        .execute_async("agent", json!({"sleep": 5}))
        .await;
    let running = cluster
        .client
        .execution_status("agent", &running, "running");
    running.await;
    assert!(
        cluster.agent_processes().len() >= 3,
        "its template and what was forked"
    );
    cluster.kill9();
    wait::until("nothing is left", SOON, || async {
        let left = cluster.agent_processes();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    })
    .await;
    cluster.spawn();
    cluster.ready().await;
}
