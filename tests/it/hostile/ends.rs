//! Attacks that may end their own instance, and nothing else: frames that are forged, ways to die, objects and words that lie. Each is an
//! agent of its own; the table says how its execution must end, and afterwards the next call is answered as if nothing had been.

use crate::{lists_what_is_known, still_serves};
use futures::{StreamExt, stream};
use phalanx_tests::{Cluster, Value, fixtures, json, wait};
use std::time::Duration;

const CRASHED: &str = "failed INSTANCE_CRASHED";
const TIMEOUT: &str = "timeout HANDLER_TIMEOUT";
const RAISED: &str = "failed HANDLER_RAISED";
const NOT_SERIALIZABLE: &str = "failed OUTPUT_NOT_SERIALIZABLE";
const TOO_LARGE: &str = "failed OUTPUT_TOO_LARGE";
const NO_MEMORY: &str = "failed OUT_OF_MEMORY";
const DONE: &str = "completed";

pub const ENDS: &[(&str, &[&str])] = &[
    ("length_too_short", &[CRASHED]),
    ("length_of_four_gigabytes", &[CRASHED]),
    ("frame_that_never_ends", &[TIMEOUT]),
    ("kind_unknown", &[CRASHED]),
    ("greeting_twice", &[CRASHED]),
    ("failure_after_the_greeting", &[CRASHED]),
    ("body_that_is_no_json", &[CRASHED]),
    ("body_that_is_deep", &[NOT_SERIALIZABLE]),
    ("results_for_everybody", &[DONE]),
    ("errors_for_everybody", &[DONE]),
    ("lines_for_everybody", &[DONE]),
    ("lines_from_the_year_9999", &[DONE]),
    ("pieces_that_nobody_asked_for", &[DONE]),
    ("progress_of_nothing", &[CRASHED]),
    ("pongs_without_a_ping", &[DONE]),
    ("figures_without_end", &[DONE]),
    ("text_that_no_table_holds", &[DONE, NOT_SERIALIZABLE]),
    // A read ends where descriptors came along, so what comes after may wait: its own answer, and nobody else's.
    ("descriptors_over_the_socket", &[DONE, TIMEOUT]),
    ("socket_shut", &[CRASHED]),
    ("socket_half_shut", &[CRASHED]),
    ("socket_read_by_another", &[DONE]),
    ("leaves_at_once", &[CRASHED]),
    ("leaves_in_words", &[RAISED, CRASHED]),
    ("kills_itself", &[CRASHED]),
    ("kills_everybody", &[RAISED]),
    ("stops_itself", &[TIMEOUT]),
    ("aborts", &[CRASHED]),
    ("reads_nowhere", &[CRASHED]),
    ("falls_off_the_stack", &[CRASHED, RAISED]),
    ("calls_by_another_table", &[CRASHED]),
    ("becomes_another_program", &[CRASHED]),
    ("leaves_children_behind", &[CRASHED]),
    ("ignores_every_signal", &[TIMEOUT]),
    ("rains_signals", &[CRASHED, DONE]),
    ("raises_what_has_no_words", &[RAISED]),
    ("raises_a_hundred_megabytes", &[RAISED, NO_MEMORY]),
    ("raises_what_never_ends", &[TIMEOUT]),
    ("raises_out_of_the_hierarchy", &[RAISED]),
    ("raises_a_long_story", &[RAISED]),
    ("raises_itself", &[RAISED]),
    ("returns_a_pickle", &[NOT_SERIALIZABLE]),
    (
        "returns_what_changes",
        &[NOT_SERIALIZABLE, RAISED, TIMEOUT, DONE],
    ),
    ("returns_itself", &[NOT_SERIALIZABLE]),
    ("returns_no_number", &[NOT_SERIALIZABLE, DONE]),
    ("returns_too_much", &[TOO_LARGE, NO_MEMORY]),
    ("returns_a_depth", &[NOT_SERIALIZABLE]),
    ("yields_for_ever", &[TOO_LARGE, TIMEOUT, NO_MEMORY]),
    ("changes_the_worker", &[DONE, RAISED, CRASHED, TIMEOUT]),
    (
        "changes_the_language",
        &[DONE, RAISED, CRASHED, TIMEOUT, NOT_SERIALIZABLE],
    ),
    ("traces_every_line", &[DONE, RAISED, CRASHED, TIMEOUT]),
    ("says_escapes", &[DONE]),
    ("says_a_million_lines", &[DONE]),
    ("says_it_all_on_the_descriptor", &[DONE]),
    ("starts_shells", &[CRASHED]),
];

/// Those that spoil their own worker without ending it: what it says next is its own affair.
const SPOILT: &[&str] = &[
    "socket_read_by_another",
    "changes_the_worker",
    "changes_the_language",
    "traces_every_line",
];

#[tokio::test]
async fn each_ends_itself_at_most() {
    let cluster = Cluster::start().await;
    let client = &cluster.client;
    let victim =
        "import time\ndef handler(input):\n    time.sleep(input.get('s', 0))\n    return 'own'\n";
    client.deploy_source("victim", victim, json!({})).await;
    let running = client.execute_async("victim", json!({"s": 5})).await;
    let mark = uuid::Uuid::new_v4().simple().to_string();

    let source = include_str!("attacks/ends.py");
    let wanted = json!({"agent_code": {"configuration": {"memory_limit": 512}}, "deployment_config": {"auto_scaling": {"max_instances": 1}}});
    client.deploy_source("list", source, wanted.clone()).await;
    lists_what_is_known(client, "list", ENDS.iter().map(|(name, _)| *name)).await;

    let one = |(name, ends): &'static (&str, &[&str])| {
        let (wanted, running, mark) = (&wanted, &running, &mark);
        async move {
            let id = name.replace('_', "-");
            client.deploy_source(&id, source, wanted.clone()).await;
            let seconds = if name.starts_with("says") { 60 } else { 4 };
            let parameters = json!({"attack": name, "mark": mark, "other": running});
            let timeout = json!({"execution_options": {"timeout": seconds}});
            let call = fixtures::with(fixtures::call(parameters), timeout);
            let document = client.execute_with(&id, &call).await.ok();
            let code = document["result"]["error"]["code"].as_str();
            let end = format!(
                "{} {}",
                document["status"].as_str().unwrap_or("?"),
                code.unwrap_or("")
            );
            let end = end.trim().to_owned();
            println!("| {name} | {end} |");
            // What is kept of it can be read by everybody who may.
            let execution = document["execution_id"].as_str().expect("an id");
            client.execution(&id, execution).await;
            client
                .get(&format!("/api/v1/agents/{id}/executions/{execution}/logs"))
                .await
                .ok();
            client.get(&format!("/api/v1/agents/{id}")).await.ok();
            if !SPOILT.contains(name) {
                answers_again(client, &id).await;
            }
            client.delete(&format!("/api/v1/agents/{id}")).await;
            (!ends.contains(&end.as_str()))
                .then(|| format!("{name}: {end}, allowed is {ends:?}: {}", short(&document)))
        }
    };
    let holes: Vec<String> = stream::iter(ENDS)
        .map(one)
        .buffer_unordered(4)
        .filter_map(std::future::ready)
        .collect()
        .await;
    assert!(holes.is_empty(), "{holes:#?}");

    let end = client.execution_end("victim", &running).await;
    assert_eq!(
        (&end["status"], &end["result"]["output"]),
        (&json!("completed"), &json!("own")),
        "{end:#}"
    );
    let logs = client
        .get(&format!("/api/v1/agents/victim/executions/{running}/logs"))
        .await;
    assert!(!logs.text.contains(&mark), "{}", logs.text);
    let log = cluster.log();
    assert!(
        !log.contains(['\u{1b}', '\u{7}', '\u{9b}']),
        "the installation's own log steers terminals"
    );
    assert!(!log.contains("panicked"), "{log}");
    let metrics = "/api/v1/agents/figures-without-end/metrics?granularity=hour";
    let answer = client.get(metrics).await;
    assert!(answer.status < 500, "{}", answer.text);
    still_serves(&cluster).await;
}

/// The next call is answered, by this instance or by one in its place.
async fn answers_again(client: &phalanx_tests::Client, id: &str) {
    wait::until(
        &format!("{id} answers again"),
        Duration::from_secs(60),
        || async {
            let call = fixtures::with(
                fixtures::call(json!({"calm": true})),
                json!({"execution_options": {"timeout": 5}}),
            );
            let answer = client.execute_with(id, &call).await;
            assert!(
                answer.status < 500 || answer.status == 503,
                "{}",
                answer.text
            );
            if answer.status == 200 && answer.body()["status"] == "completed" {
                Ok(())
            } else {
                Err(answer.text)
            }
        },
    )
    .await;
}

fn short(document: &Value) -> String {
    document.to_string().chars().take(600).collect()
}
