//! What `phalanx up` stands on: a disk with room, a directory it may write, a Python it can use.

use crate::{Folder, ended, stderr};
use phalanx_tests::{Cluster, Options, Value, fixtures, json, program, wait};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::Duration,
};

/// One line, code 1.
fn up(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    ended(&output, 1);
    let words = stderr(&output);
    assert_eq!(words.trim().lines().count(), 1, "{words}");
    assert!(words.starts_with("phalanx: "), "{words}");
    words
}

/// `phalanx up` on a file system of its own at `at`, in its own namespaces: needs no root.
fn up_on(options: &str, at: &str, data_dir: &str) -> String {
    let mount = r#"mount -t tmpfs -o "$0" none "$1" || exit 99; shift; exec "$@""#;
    let mut command = Command::new("unshare");
    command
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount])
        .args([options, at])
        .arg(program::phalanx())
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir", data_dir]);
    up(&mut command)
}

#[test]
fn a_disk_without_room_is_said_at_the_start() {
    let folder = Folder::with(&[("disk/file", "x")]);
    let disk = folder.path("disk");
    let words = up_on("size=8m", &disk, &disk);
    assert!(
        words.contains(&disk) && words.contains("MB free") && words.contains("free some room"),
        "{words}"
    );
}

#[test]
fn a_directory_that_cannot_be_written_is_said_at_the_start() {
    let folder = Folder::with(&[("disk/file", "x")]);
    let disk = folder.path("disk");
    let words = up_on("ro", &disk, &disk);
    assert!(
        words.contains(&disk) && words.contains("make it writable"),
        "{words}"
    );
    let below = folder.path("disk/below");
    let words = up_on("ro", &disk, &below);
    assert!(
        words.contains(&below) && words.contains("--data-dir"),
        "{words}"
    );
}

#[test]
fn a_python_that_is_too_old_or_not_there_is_said_at_the_start() {
    let old = r#"#!/bin/sh
echo '{"executable": "/opt/old/python3", "version": [3, 7, 17], "paths": [], "tag": "cpython-37-linux", "libc": "glibc-2.31"}'
"#;
    let folder = Folder::with(&[("bin/python3", old), ("empty/file", "")]);
    let python = folder.path("bin/python3");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("its own file");
    let on_path = |path: &str| {
        let mut command = Command::new(program::phalanx());
        command
            .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(folder.path("data"))
            .env("PATH", path);
        up(&mut command)
    };
    let words = on_path(&format!("{}:/usr/bin:/bin", folder.path("bin")));
    assert!(
        words.contains("/opt/old/python3 is Python 3.7.17, which is too old")
            && words.contains("install Python 3.10 or newer"),
        "{words}"
    );
    let words = on_path(&folder.path("empty"));
    assert!(
        words.contains("python3 cannot be run") && words.contains("install Python 3.10 or newer"),
        "{words}"
    );
}

/// Writes until nothing more fits.
fn fill(path: &std::path::Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1024 * 1024, 4096, 1] {
        let bytes = vec![7; size];
        while file.write_all(&bytes).is_ok() {}
    }
}

#[tokio::test]
async fn a_disk_that_fills_is_said_and_what_was_accepted_is_done() {
    let cluster = Cluster::start_with(Options {
        room_mb: Some(100),
        ..Options::default()
    })
    .await;
    let client = &cluster.client;
    client
        .deploy_source("echo", fixtures::ECHO, json!({}))
        .await;
    let slow = "import time\ndef handler(input):\n    time.sleep(2)\n    return input\n";
    client.deploy_source("slow", slow, json!({})).await;
    let running = client.execute_async("slow", json!({"n": 7})).await;
    client.execution_status("slow", &running, "running").await;
    let filler = cluster.data_dir().join("filler");
    fill(&filler);
    let within = Duration::from_secs(30);
    wait::until("an end cannot be recorded", within, || async {
        let log = cluster.log();
        let refused = log.contains("a batch of writes was not committed");
        refused.then_some(()).ok_or(log)
    })
    .await;

    // What the database has reserved is used up first.
    let body = fixtures::with(
        fixtures::call(json!({"text": "x".repeat(200_000)})),
        json!({"execution_options": {"async": true}}),
    );
    let mut accepted: Vec<String> = Vec::new();
    let refused = loop {
        let answer = client.execute_with("echo", &body).await;
        if answer.status != 200 {
            break answer;
        }
        let id = answer.body()["execution_id"].as_str().map(str::to_owned);
        accepted.extend(id);
        assert!(accepted.len() < 500, "it is never full");
    };
    let full = |error: &Value| {
        let message = error["message"].as_str().unwrap_or_default();
        assert!(message.contains("disk is full"), "{error:#}");
    };
    full(&refused.refused(503, "UNAVAILABLE"));
    // Bytes that no database page has room for.
    let source = format!("{}# {}\n", fixtures::ECHO, "y".repeat(200_000));
    let other = fixtures::agent("other", &source);
    full(&client.deploy(&other).await.refused(503, "UNAVAILABLE"));

    fs::remove_file(&filler).expect("it was made");
    wait::until("executions are accepted again", within, || async {
        let answer = client.execute_with("echo", &body).await;
        if answer.status == 200 {
            Ok(())
        } else {
            Err(answer.text)
        }
    })
    .await;
    for id in &accepted {
        let end = client.execution_end("echo", id).await;
        assert_eq!(end["status"], "completed", "{end:#}");
    }
    let end = client.execution_end("slow", &running).await;
    assert_eq!(end["result"]["output"], json!({"n": 7}), "{end:#}");
    client.deployed(&other).await;
    assert_eq!(
        client.output("other", json!({"n": 1})).await,
        json!({"n": 1})
    );
}
