//! Agents that misbehave: each is stopped, told truly, and costs nobody else anything.

use crate::still_serves;
use phalanx_tests::{Cluster, Value, fixtures, json, wait};
use std::time::Duration;

async fn one(cluster: &Cluster, id: &str, source: &str) {
    cluster
        .client
        .deploy_source(
            id,
            source,
            json!({"deployment_config": {"auto_scaling": {"max_instances": 1}}}),
        )
        .await;
}

async fn within(cluster: &Cluster, id: &str, seconds: u32) -> Value {
    let body = fixtures::with(
        fixtures::call(json!({})),
        json!({"execution_options": {"timeout": seconds}}),
    );
    cluster.client.execute_with(id, &body).await.ok()
}

async fn processes_settle(cluster: &Cluster, most: usize) {
    wait::until(
        "its processes are gone",
        Duration::from_secs(20),
        || async {
            let now = cluster.agent_processes();
            if now.len() <= most {
                Ok(())
            } else {
                Err(format!("{} processes", now.len()))
            }
        },
    )
    .await;
}

#[tokio::test]
async fn it_forks() {
    let cluster = Cluster::start().await;
    one(&cluster, "quiet", fixtures::ECHO).await;
    one(&cluster, "bomb", "import os, time\ndef handler(input):\n    while True:\n        try:\n            os.fork()\n        except OSError:\n            time.sleep(0.01)\n").await;
    let usual = cluster.agent_processes().len();
    let document = within(&cluster, "bomb", 3).await;
    assert_ne!(document["status"], "completed", "{document:#}");
    assert_eq!(
        cluster.client.output("quiet", json!({"a": 1})).await,
        json!({"a": 1})
    );
    processes_settle(&cluster, usual + 6).await;
    // Children that outlive the call are no way to go on unseen.
    one(&cluster, "leaves", "import os, time\ndef handler(input):\n    if os.fork() == 0:\n        os.setsid()\n        time.sleep(3600)\n        os._exit(0)\n    return 1\n").await;
    within(&cluster, "leaves", 5).await;
    cluster.client.delete("/api/v1/agents/leaves").await;
    cluster.client.delete("/api/v1/agents/bomb").await;
    processes_settle(&cluster, usual).await;
    still_serves(&cluster).await;
}

#[tokio::test]
async fn it_fills_its_disk() {
    let cluster = Cluster::start().await;
    let source = "
import os
def handler(input):
    written = {}
    for place in ('/tmp', '/', '/dev/shm', '/var/tmp', os.getcwd(), os.path.expanduser('~')):
        try:
            with open(os.path.join(place, 'fill'), 'wb') as file:
                n = 0
                while n < 2000:
                    file.write(b'x' * (1 << 20))
                    file.flush()
                    n += 1
        except OSError as error:
            written[place] = [n if 'n' in dir() else 0, type(error).__name__, error.errno]
            n = 0
    return written
";
    one(&cluster, "fills", source).await;
    let document = within(&cluster, "fills", 30).await;
    if document["status"] == "completed" {
        for (place, told) in document["result"]["output"].as_object().expect("an object") {
            assert!(
                told[0].as_u64().is_some_and(|mb| mb <= 256),
                "{place}: {document:#}"
            );
        }
    } else {
        // What it writes counts as its memory.
        assert_eq!(
            document["result"]["error"]["code"], "OUT_OF_MEMORY",
            "{document:#}"
        );
    }
    still_serves(&cluster).await;
}

#[tokio::test]
async fn it_prints_a_gigabyte() {
    let cluster = Cluster::start().await;
    one(&cluster, "loud", "import sys\ndef handler(input):\n    line = 'x' * 1023 + '\\n'\n    block = line * 1024\n    for _ in range(1024):\n        sys.stdout.write(block)\n    return 'done'\n").await;
    let document = within(&cluster, "loud", 120).await;
    assert_eq!(
        document["result"]["output"],
        "done",
        "{}",
        document.to_string().chars().take(2000).collect::<String>()
    );
    let id = document["execution_id"].as_str().expect("an id");
    let kept = cluster
        .client
        .get(&format!("/api/v1/agents/loud/executions/{id}/logs"))
        .await;
    assert!(
        kept.text.len() < 4 << 20,
        "{} bytes are kept",
        kept.text.len()
    );
    assert!(
        kept.ok()["dropped"]
            .as_u64()
            .is_some_and(|dropped| dropped > 900_000),
        "{}",
        kept.ok()["dropped"]
    );
    let memory =
        std::fs::read_to_string(format!("/proc/{}/status", cluster.pid())).expect("it runs");
    let peak = memory.lines().find_map(|line| {
        line.strip_prefix("VmHWM:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    assert!(
        peak.is_some_and(|kb| kb < 400_000),
        "the server took {peak:?} kB"
    );
    // Past Python, on the descriptor itself.
    one(&cluster, "raw", "import os\ndef handler(input):\n    block = b'y' * (1 << 20)\n    for _ in range(256):\n        os.write(1, block)\n    return 'done'\n").await;
    let document = within(&cluster, "raw", 60).await;
    assert_ne!(document["status"], "timeout", "{document:#}");
    still_serves(&cluster).await;
}

#[tokio::test]
async fn it_never_returns_and_will_not_listen() {
    let cluster = Cluster::start().await;
    for (id, source) in [
        (
            "spins",
            "def handler(input):\n    while True:\n        pass\n",
        ),
        (
            "c-loop",
            "def handler(input):\n    return sum(range(10**13))\n",
        ),
        (
            "ignores",
            "import signal\nfor n in range(1, 65):\n    try:\n        signal.signal(n, signal.SIG_IGN)\n    except (OSError, ValueError):\n        pass\ndef handler(input):\n    while True:\n        try:\n            signal.pause()\n        except BaseException:\n            pass\n",
        ),
        (
            "async-blocks",
            "import time\nasync def handler(input):\n    time.sleep(3600)\n",
        ),
        (
            "async-shields",
            "import asyncio\nasync def handler(input):\n    while True:\n        try:\n            await asyncio.sleep(3600)\n        except asyncio.CancelledError:\n            pass\n",
        ),
        (
            "threads",
            "import threading, time\ndef handler(input):\n    for _ in range(20):\n        threading.Thread(target=time.sleep, args=(3600,)).start()\n    time.sleep(3600)\n",
        ),
    ] {
        one(&cluster, id, source).await;
        let list = cluster
            .client
            .get(&format!("/api/v1/agents/{id}/instances"))
            .await
            .ok();
        let pid = list["instances"][0]["pid"].as_u64().expect("a pid");
        let document = within(&cluster, id, 1).await;
        assert_eq!(
            (&document["status"], &document["result"]["error"]["code"]),
            (&json!("timeout"), &json!("HANDLER_TIMEOUT")),
            "{id}: {document:#}"
        );
        let took = document["performance"]["duration"]
            .as_f64()
            .expect("a number");
        assert!(took < 4000.0, "{id}: {took}");
        // Its thread was stopped, or its process was.
        wait::until(
            &format!("{id} has stopped"),
            Duration::from_secs(15),
            || async {
                let before = cpu_ticks(pid);
                tokio::time::sleep(Duration::from_millis(300)).await;
                match (before, cpu_ticks(pid)) {
                    (Some(before), Some(after)) if after - before > 6 => {
                        Err(format!("it took {} of 30 ticks", after - before))
                    }
                    _ => Ok(()),
                }
            },
        )
        .await;
    }
    still_serves(&cluster).await;
}

#[tokio::test]
async fn it_computes_within_its_quota() {
    let plain = Cluster::start().await;
    let health = plain.client.get("/api/v1/system/health").await.ok();
    let level = health["nodes"][0]["isolation"].as_str().expect("a level");
    if !level.contains(" cpu") {
        return; // such a host refuses to start with a quota
    }
    drop(plain);
    let options = phalanx_tests::Options::default().set("PHALANX__EXECUTOR__CPUS", "0.25");
    let cluster = Cluster::start_with(options).await;
    let source = "import time\ndef handler(input):\n    end = time.monotonic() + 2\n    while time.monotonic() < end: pass\n    return time.process_time()\n";
    let body = fixtures::agent("spins", source);
    cluster.client.deployed(&body).await;
    let used = cluster.client.output("spins", json!({})).await;
    // A quarter of two seconds, what its start took, and a period at either end.
    assert!(
        used.as_f64().is_some_and(|used| used < 1.2),
        "{used} s of processor time"
    );
    still_serves(&cluster).await;
}

#[tokio::test]
async fn it_speaks_our_protocol() {
    let cluster = Cluster::start().await;
    // Whatever it writes on its descriptors, it can only end itself.
    let source = "
import os
def handler(input):
    how = input['how']
    for fd in range(3, 64):
        try:
            if how == 'close':
                os.close(fd)
            elif how == 'noise':
                os.write(fd, os.urandom(4096))
            elif how == 'huge':
                os.write(fd, b'\\xff\\xff\\xff\\xff' + b'x' * 100)
            elif how == 'empty':
                os.write(fd, b'\\x00\\x00\\x00\\x00' * 10)
        except OSError:
            pass
    return 'done'
";
    one(&cluster, "speaks", source).await;
    for how in ["close", "noise", "huge", "empty"] {
        let body = fixtures::with(
            fixtures::call(json!({"how": how})),
            json!({"execution_options": {"timeout": 5}}),
        );
        let document = cluster.client.execute_with("speaks", &body).await.ok();
        assert!(
            document["status"] != "completed" || document["result"]["output"] == "done",
            "{how}: {document:#}"
        );
    }
    still_serves(&cluster).await;
}

#[tokio::test]
async fn its_metrics_and_progress_are_nonsense() {
    let cluster = Cluster::start().await;
    let source = "
def handler(input, context):
    told = []
    for call in (lambda: context.metric('n', float('nan')), lambda: context.metric('i', float('inf')), lambda: context.metric('x' * 100000, 1),
                 lambda: context.metric('s', 'text'), lambda: context.metric(None, 1), lambda: context.progress(-5), lambda: context.progress(1e300),
                 lambda: context.progress('x'), lambda: context.log('a' * 10_000_000), lambda: context.log('k', deep=object())):
        try:
            call()
            told.append('ok')
        except Exception as error:
            told.append(type(error).__name__)
    for n in range(100000):
        context.metric(f'm{n}', n)
    return told
";
    one(&cluster, "nonsense", source).await;
    let document = within(&cluster, "nonsense", 30).await;
    assert!(
        document["status"] == "completed" || document["status"] == "failed",
        "{document:#}"
    );
    assert!(document.to_string().len() < 2 << 20);
    cluster.client.get("/api/v1/agents").await.ok();
    still_serves(&cluster).await;
}

/// User and system time of a process so far, in hundredths of a second; `None` when it is gone (proc(5)).
fn cpu_ticks(pid: u64) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}
