//! Why an execution failed: each cause under its own code and phase, with Python's own words, and the agent serves again.

use phalanx_tests::{Cluster, Value, fixtures, json};

const AGENT: &str = "
import ctypes, os, signal, sys, time

def handler(input):
    how = input['how']
    if how == 'import':
        import no_such_module
    if how == 'raise':
        raise KeyError('boom')
    if how == 'segfault':
        ctypes.string_at(0)
    if how == 'exit':
        os._exit(3)
    if how == 'sysexit':
        sys.exit(4)
    if how == 'kill':
        os.kill(os.getpid(), signal.SIGKILL)
    if how == 'memory':
        held = []
        while True:
            held.append(b'x' * (8 << 20))
    if how == 'sleep':
        time.sleep(60)
    if how == 'spin':
        while True:
            pass
    if how == 'object':
        return {'a': object()}
    if how == 'nan':
        return float('nan')
    if how == 'cycle':
        a = []
        a.append(a)
        return a
    if how == 'deep':
        return handler({'how': 'deep'})
    if how == 'large':
        return 'x' * (200 << 20)
    return 'fine'
";

#[tokio::test]
async fn every_cause_has_its_code_and_phase() {
    let cluster = Cluster::start().await;
    let changes = json!({
        "agent_code": {"configuration": {"timeout": 20}},
        "deployment_config": {"auto_scaling": {"max_instances": 2}},
    });
    cluster.client.deploy_source("agent", AGENT, changes).await;
    let failure = async |how: &str| cluster.client.failure("agent", json!({"how": how})).await;

    for (how, exception, words) in [
        (
            "import",
            "ModuleNotFoundError",
            "No module named 'no_such_module'",
        ),
        ("raise", "KeyError", "boom"),
        ("deep", "RecursionError", "recursion"),
    ] {
        let error = failure(how).await;
        assert_eq!(
            (&error["code"], &error["details"]["phase"]),
            (&json!("HANDLER_RAISED"), &json!("handler")),
            "{how}: {error:#}"
        );
        assert_eq!(
            error["details"]["exception_type"], exception,
            "{how}: {error:#}"
        );
        let traceback = error["details"]["traceback"]
            .as_str()
            .unwrap_or_else(|| panic!("{how}: no traceback: {error:#}"));
        assert!(
            traceback.contains("in handler") && traceback.contains(words),
            "{how}: {traceback}"
        );
        assert!(
            !traceback.contains("worker.py"),
            "{how}: it begins at the agent's own frame: {traceback}"
        );
        assert!(
            error["message"].as_str().expect("text").contains(words),
            "{how}: {error:#}"
        );
    }
    for (how, signal, exit_code) in [
        ("segfault", json!(11), Value::Null),
        ("exit", Value::Null, json!(3)),
        ("kill", json!(9), Value::Null),
    ] {
        let error = failure(how).await;
        assert_eq!(
            (&error["code"], &error["details"]["phase"]),
            (&json!("INSTANCE_CRASHED"), &json!("handler")),
            "{how}: {error:#}"
        );
        assert_eq!(
            (&error["details"]["signal"], &error["details"]["exit_code"]),
            (&signal, &exit_code),
            "{how}: {error:#}"
        );
        assert_eq!(
            cluster.client.output("agent", json!({"how": "fine"})).await,
            "fine",
            "after {how}"
        );
    }
    let error = failure("sysexit").await;
    assert_eq!(error["code"], "HANDLER_RAISED", "{error:#}");
    let error = failure("memory").await;
    assert_eq!(
        (&error["code"], &error["details"]["phase"]),
        (&json!("OUT_OF_MEMORY"), &json!("handler")),
        "{error:#}"
    );
    for how in ["object", "nan", "cycle"] {
        let error = failure(how).await;
        assert_eq!(
            (&error["code"], &error["details"]["phase"]),
            (&json!("OUTPUT_NOT_SERIALIZABLE"), &json!("serialize")),
            "{how}: {error:#}"
        );
    }
    for how in ["sleep", "spin"] {
        let body = fixtures::with(
            fixtures::call(json!({"how": how})),
            json!({"execution_options": {"timeout": 1}}),
        );
        let document = cluster.client.execute_with("agent", &body).await.ok();
        assert_eq!(document["status"], "timeout", "{how}: {document:#}");
        let error = &document["result"]["error"];
        assert_eq!(
            (&error["code"], &error["details"]["phase"]),
            (&json!("HANDLER_TIMEOUT"), &json!("handler")),
            "{how}: {error:#}"
        );
        let took = document["performance"]["duration"]
            .as_f64()
            .expect("a number");
        assert!((900.0..5000.0).contains(&took), "{how}: {took}");
    }
    assert_eq!(
        cluster.client.output("agent", json!({"how": "fine"})).await,
        "fine"
    );
}

#[tokio::test]
async fn the_kernels_memory_kill_is_told_from_other_deaths() {
    let cluster = Cluster::start().await;
    // A child that eats the memory is killed without Python noticing; the agent's own process may live or die with it.
    let source = "
import ctypes, mmap

def handler(input):
    size = 400 << 20
    held = mmap.mmap(-1, size)
    for at in range(0, size, 4096):
        held[at] = 1
    return 'it fitted'
";
    cluster
        .client
        .deploy_source("eater", source, json!({}))
        .await;
    let error = cluster.client.failure("eater", json!({})).await;
    assert_eq!(error["code"], "OUT_OF_MEMORY", "{error:#}");
}

#[tokio::test]
async fn a_result_that_is_too_large() {
    let cluster = Cluster::start().await;
    let changes = json!({"agent_code": {"configuration": {"memory_limit": 2048, "timeout": 60}}});
    cluster.client.deploy_source("agent", AGENT, changes).await;
    let error = cluster
        .client
        .failure("agent", json!({"how": "large"}))
        .await;
    assert_eq!(
        (&error["code"], &error["details"]["phase"]),
        (&json!("OUTPUT_TOO_LARGE"), &json!("serialize")),
        "{error:#}"
    );
    assert_eq!(
        cluster.client.output("agent", json!({"how": "fine"})).await,
        "fine"
    );
}

#[tokio::test]
async fn a_crash_takes_its_instance_and_says_so_to_everyone_on_it() {
    let cluster = Cluster::start().await;
    let source = "
import asyncio, os
async def handler(input):
    if input.get('crash'):
        await asyncio.sleep(0.5)
        os._exit(1)
    await asyncio.sleep(30)
";
    cluster
        .client
        .deploy_source(
            "agent",
            source,
            json!({"deployment_config": {"auto_scaling": {"max_instances": 1}}}),
        )
        .await;
    let (one, two, crash) = tokio::join!(
        cluster.client.execute("agent", json!({})),
        cluster.client.execute("agent", json!({})),
        cluster.client.execute("agent", json!({"crash": true})),
    );
    for document in [one, two, crash] {
        assert_eq!(
            (&document["status"], &document["result"]["error"]["code"]),
            (&json!("failed"), &json!("INSTANCE_CRASHED")),
            "{document:#}"
        );
    }
}
