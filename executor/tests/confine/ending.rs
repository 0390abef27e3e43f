//! How a worker ends: as it likes, or when we say so, and then all of it.

use std::time::Duration;

use executor::confine::{Config, Isolation, Spec, probe, spawn};
use serde_json::json;

use crate::world::{config, ended, gone, groups, helper, level, python, said, tree};

/// Daemons as stubborn as they come: forked twice, sessions of their own, deaf to what can be ignored.
const DAEMONS: &str = "import signal
for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT): signal.signal(s, signal.SIG_IGN)
ready, told = os.pipe()
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(told, b'x')
            while True: time.sleep(60)
        os._exit(0)
    os.wait()
seen = 0
while seen < 5: seen += len(os.read(ready, 5))
say('ready')
";

#[tokio::test]
async fn by_itself() {
    let level = level("by-itself").await;
    for (code, expected) in [
        ("os._exit(7)", (Some(7), None)),
        ("os.kill(os.getpid(), 15)", (None, Some(15))),
        ("os.abort()", (None, Some(6))),
    ] {
        let worker = spawn(&python(code), &level).await.unwrap();
        let (one, other) = tokio::join!(ended(&worker), ended(&worker));
        assert_eq!(
            ((one.code, one.signal), one.oom_killed),
            (expected, false),
            "{code}"
        );
        assert_eq!(one, other);
        assert_eq!(worker.kill().await.unwrap(), one);
        assert_eq!(worker.kill().await.unwrap(), one, "again");
    }
}

#[tokio::test]
async fn with_its_daemons_when_it_leaves() {
    let level = level("leaves").await;
    let mut worker = spawn(&python(&format!("{DAEMONS}os.read(3, 1)")), &level)
        .await
        .unwrap();
    said(&mut worker).await;
    let pids = tree(worker.pid());
    assert_eq!(pids.len(), 7, "process 1, the worker, five daemons");
    drop(worker.socket.take());
    assert_eq!(ended(&worker).await.code, Some(0));
    assert_eq!(
        worker.processes(),
        0,
        "the end of the worker is the end of all"
    );
    gone(&pids).await;
    worker.kill().await.unwrap();
}

#[tokio::test]
async fn killed() {
    let level = level("killed").await;
    let mut worker = spawn(&python(&format!("{DAEMONS}time.sleep(60)")), &level)
        .await
        .unwrap();
    said(&mut worker).await;
    let pids = tree(worker.pid());
    let exit = worker.kill().await.unwrap();
    assert_eq!((exit.signal, exit.oom_killed), (Some(9), false));
    assert_eq!(worker.processes(), 0);
    gone(&pids).await;
    assert_eq!(
        groups(&config("killed").node),
        Vec::<std::path::PathBuf>::new()
    );
}

#[tokio::test]
async fn dropped() {
    let level = level("dropped").await;
    let mut worker = spawn(&python(&format!("{DAEMONS}time.sleep(60)")), &level)
        .await
        .unwrap();
    said(&mut worker).await;
    let pids = tree(worker.pid());
    drop(worker);
    gone(&pids).await;
    let deadline = std::time::Instant::now() + crate::world::WITHIN;
    while !groups(&config("dropped").node).is_empty()
        || std::path::Path::new(&format!("/proc/{}", pids[0])).exists()
    {
        assert!(
            std::time::Instant::now() < deadline,
            "left behind: {:?}",
            groups(&config("dropped").node)
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// SIGKILL for the executor: nobody is left to clean up, and nothing needs to be.
#[tokio::test]
async fn with_the_executor() {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let config = config("executor");
    let code = python(&format!(
        "{}time.sleep(60)",
        DAEMONS.replace("say('ready')", "")
    ));
    let mut executor = tokio::process::Command::new(helper());
    executor
        .arg("hold")
        .arg(&config.node)
        .args(&code.program)
        .stdout(std::process::Stdio::piped());
    let mut executor = executor.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(executor.stdout.take().unwrap())
        .read_line(&mut line)
        .await
        .unwrap();
    let init: i32 = line.trim().parse().unwrap();
    let deadline = std::time::Instant::now() + crate::world::WITHIN;
    while tree(init).len() < 7 {
        assert!(std::time::Instant::now() < deadline, "{:?}", tree(init));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut pids = tree(init);
    pids.extend(tree(i32::try_from(executor.id().unwrap()).unwrap())); // its helper on standby too
    executor.start_kill().unwrap();
    executor.wait().await.unwrap();
    gone(&pids).await;

    // What it leaves are empty groups; its next life removes them.
    let level = probe(config.clone()).await;
    let left = groups(&config.node);
    let swept = level.sweep().await;
    assert_eq!(swept > 0, !left.is_empty(), "{left:?}");
    assert_eq!(groups(&config.node), Vec::<std::path::PathBuf>::new());
    assert_eq!(level.sweep().await, 0);
}

#[tokio::test]
async fn before_it_began() {
    let level = level("before").await;
    let failing = [
        (
            Spec::new("a", vec!["/usr/bin/no-such-program".to_owned()]),
            "exec /usr/bin/no-such-program: ENOENT: No such file or directory",
        ),
        (
            python("").show("/no/such/tree", "/agent/code"),
            "open /no/such/tree: ENOENT: No such file or directory",
        ),
        (
            python("").show("/usr", "/usr/share/no-such-place"),
            "bind /usr/share/no-such-place: EROFS: Read-only file system",
        ),
        (
            Spec {
                cwd: "/nowhere".to_owned(),
                ..python("")
            },
            "chdir /nowhere: ENOENT: No such file or directory",
        ),
        (
            python("").show("/usr", "../usr"),
            "cannot show /usr as ../usr: not an absolute path without ..",
        ),
        (
            Spec::new("a", vec!["a\0b".to_owned()]),
            "an argument of the worker holds a NUL byte",
        ),
    ];
    let before = tree(i32::try_from(std::process::id()).unwrap()).len();
    for (spec, expected) in failing {
        let error = spawn(&spec, &level).await.expect_err(expected);
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    assert_eq!(
        groups(&config("before").node),
        Vec::<std::path::PathBuf>::new()
    );
    assert!(tree(i32::try_from(std::process::id()).unwrap()).len() <= before);

    let strange = Config {
        helper: "/bin/cat".into(),
        helper_args: Vec::new(),
        ..config("strange")
    };
    let level = probe(Config {
        start_within: Duration::from_millis(300),
        ..strange
    })
    .await;
    assert!(!level.is_confined(), "{level}");
    let error = spawn(&python(""), &level)
        .await
        .expect_err("cat is not our helper");
    assert!(
        error.to_string().contains("isolation = \"none\""),
        "{error}"
    );
}

#[tokio::test]
async fn many_at_once() {
    let level = level("many").await;
    let specs: Vec<_> = (0..16)
        .map(|_| python("say(os.getpid())\ntime.sleep(60)"))
        .collect();
    let mut workers = futures::future::try_join_all(specs.iter().map(|spec| spawn(spec, &level)))
        .await
        .unwrap();
    for worker in &mut workers {
        assert_eq!(said(worker).await, json!(2));
    }
    futures::future::try_join_all(workers.iter().map(executor::confine::Confined::kill))
        .await
        .unwrap();
    assert_eq!(
        groups(&config("many").node),
        Vec::<std::path::PathBuf>::new()
    );
}

/// `isolation = none` confines nothing, but it ends all the same.
#[tokio::test]
async fn without_isolation() {
    for cgroups in [true, false] {
        let level = probe(Config {
            isolation: Isolation::None,
            cgroups,
            ..config("plain")
        })
        .await;
        assert!(!level.is_confined() && level.failure.is_none());
        let code =
            format!("{DAEMONS}sys.path.insert(0, sys.argv[1])\nimport string\nos.read(3, 1)");
        let mut spec = python(&code).show("/usr/share", "/agent/code");
        spec.program.push("/agent/code/x".to_owned());
        let mut worker = spawn(&spec, &level).await.unwrap();
        assert_eq!(said(&mut worker).await, json!("ready"));
        let pids = tree(worker.pid());
        assert_eq!((pids.len(), worker.processes()), (7, 7));
        worker.kill().await.unwrap();
        gone(&pids).await;
        assert_eq!(worker.processes(), 0);
    }
}
