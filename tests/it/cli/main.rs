//! The command line as a person or a script uses it: what it prints where, and how it ends.

mod ground;

use phalanx_tests::{Cluster, Value, fixtures, program};
use std::{
    fs,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

fn phalanx(cluster: &Cluster, arguments: &[&str]) -> Output {
    command(cluster, arguments).output().expect("it runs")
}

fn command(cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(program::phalanx());
    command.args(arguments).current_dir(program::repository());
    command
        .env("PHALANX_URL", &cluster.client.base)
        .env("PHALANX_DATA_DIR", cluster.data_dir())
        .env_remove("PHALANX_KEY");
    command
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn ended(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "stdout: {}\nstderr: {}",
        stdout(output),
        stderr(output)
    );
}

/// A folder of files, gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn with(files: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("phx-cli-{}", uuid::Uuid::new_v4().simple()));
        for (name, text) in files {
            let file = path.join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("made");
            fs::write(file, text).expect("written");
        }
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn from_a_file_to_its_answer() {
    let cluster = Cluster::start().await;
    let deployed = phalanx(&cluster, &["deploy", "examples/echo.py"]);
    ended(&deployed, 0);
    let (told, said) = (stdout(&deployed), stderr(&deployed));
    assert!(
        told.contains("echo deployed")
            && told.contains("akc_")
            && told.contains("phalanx execute echo"),
        "{told}"
    );
    for phase in [
        "validate",
        "package",
        "provision",
        "health_check",
        "shift_traffic",
        "retire",
    ] {
        assert!(said.contains(&format!("{phase} done")), "{phase}: {said}");
    }
    assert!(said.contains("entrypoint handler"), "{said}");

    let executed = phalanx(
        &cluster,
        &["execute", "echo", r#"{"name": "world"}"#, "--session", "s1"],
    );
    ended(&executed, 0);
    let output: Value = serde_json::from_str(&stdout(&executed)).expect("the output alone");
    assert_eq!(
        (&output["echo"]["name"], &output["session_id"]),
        (&Value::from("world"), &Value::from("s1"))
    );
    assert!(
        stderr(&executed).contains("completed") && stderr(&executed).contains("echo was called"),
        "{}",
        stderr(&executed)
    );

    let whole = phalanx(&cluster, &["execute", "echo", "--json"]);
    let document: Value = serde_json::from_str(&stdout(&whole)).expect("the API's document");
    assert_eq!(document["status"], "completed");

    let id = stdout(&phalanx(&cluster, &["execute", "echo", "{}", "--async"]));
    let waited = phalanx(
        &cluster,
        &[
            "execute",
            "echo",
            "{}",
            "--async",
            "--wait",
            "--priority",
            "high",
            "--id",
            "mine",
        ],
    );
    ended(&waited, 0);
    assert!(
        stderr(&waited).contains("mine completed"),
        "{}",
        stderr(&waited)
    );
    cluster.client.execution_end("echo", id.trim()).await;
    let status = phalanx(&cluster, &["status", "echo", id.trim()]);
    assert!(stdout(&status).contains("completed"), "{}", stdout(&status));

    let logs = phalanx(&cluster, &["logs", "echo", "mine"]);
    assert!(
        stdout(&logs).contains("INFO  echo was called"),
        "{}",
        stdout(&logs)
    );
    let list = phalanx(&cluster, &["executions", "echo", "--status", "completed"]);
    assert!(
        stdout(&list).contains("mine") && stdout(&list).contains("EXECUTION"),
        "{}",
        stdout(&list)
    );
    let agents = phalanx(&cluster, &["agents", "--environment", "dev"]);
    assert!(
        stdout(&agents).contains("echo") && stdout(&agents).contains("active"),
        "{}",
        stdout(&agents)
    );
    let agents: Value = serde_json::from_str(&stdout(&phalanx(&cluster, &["agents", "--json"])))
        .expect("the API's document");
    assert_eq!(agents["pagination"]["total"], 1);
    for (arguments, word) in [
        (&["status"][..], "overall_status"),
        (&["status", "echo"], "agent_id"),
        (&["versions", "echo"], "1.0.0"),
    ] {
        let output = phalanx(&cluster, arguments);
        ended(&output, 0);
        assert!(stdout(&output).contains(word), "{}", stdout(&output));
    }
    ended(&phalanx(&cluster, &["delete", "echo"]), 2);
    ended(&phalanx(&cluster, &["delete", "echo", "--yes"]), 0);
}

#[tokio::test]
async fn versions_are_found_by_themselves() {
    let cluster = Cluster::start().await;
    let folder = Folder::with(&[("My Agent.py", "def handler(input):\n    return 1\n")]);
    let file = folder.path("My Agent.py");
    ended(&phalanx(&cluster, &["deploy", &file]), 0);
    let again = phalanx(&cluster, &["deploy", &file]);
    ended(&again, 0);
    assert!(
        stderr(&again).contains("my-agent 1.0.0"),
        "{}",
        stderr(&again)
    );
    fs::write(&file, "def handler(input):\n    return 2\n").expect("written");
    let next = phalanx(&cluster, &["deploy", &file]);
    ended(&next, 0);
    assert!(
        stderr(&next).contains("1.0.0 has other content; this becomes 1.0.1"),
        "{}",
        stderr(&next)
    );
    let conflict = phalanx(&cluster, &["deploy", &file, "--version", "1.0.0"]);
    ended(&conflict, 1);
    assert!(
        stderr(&conflict).contains("CONFLICT"),
        "{}",
        stderr(&conflict)
    );
    assert_eq!(
        stdout(&phalanx(&cluster, &["execute", "my-agent"])).trim(),
        "2"
    );
}

#[tokio::test]
async fn a_folder_with_its_requirements() {
    let cluster = Cluster::start().await;
    let folder = Folder::with(&[
        (
            "my_app/main.py",
            "from lib.words import word\ndef handler(input):\n    return word()\n",
        ),
        ("my_app/lib/__init__.py", ""),
        (
            "my_app/lib/words.py",
            "import six\ndef word():\n    return six.__version__\n",
        ),
        ("my_app/requirements.txt", "six==1.17.0\n"),
        ("my_app/.git/config", "x"),
        ("my_app/__pycache__/main.pyc", "x"),
    ]);
    let deployed = phalanx(
        &cluster,
        &[
            "deploy",
            &folder.path("my_app"),
            "--memory",
            "256",
            "--tag",
            "a",
            "--env-var",
            "A=b=c",
            "--min",
            "0",
        ],
    );
    ended(&deployed, 0);
    assert!(
        stderr(&deployed).contains("my_app: 4 files") && stderr(&deployed).contains("main:handler"),
        "{}",
        stderr(&deployed)
    );
    assert_eq!(
        stdout(&phalanx(&cluster, &["execute", "my-app"])).trim(),
        "\"1.17.0\""
    );
}

#[tokio::test]
async fn failures_say_why_and_scripts_can_tell() {
    let cluster = Cluster::start().await;
    let folder = Folder::with(&[
        (
            "broken.py",
            "import no_such_module\ndef handler(input): ...\n",
        ),
        (
            "raises.py",
            "def handler(input):\n    print('\\x1b[31mred')\n    raise ValueError('\\x1b[2Jboom')\n",
        ),
        ("nothing.py", "x = 1\n"),
        ("in.json", r#"{"a": [1, 2]}"#),
    ]);
    let broken = phalanx(&cluster, &["deploy", &folder.path("broken.py")]);
    ended(&broken, 1);
    assert!(
        stderr(&broken).contains("No module named 'no_such_module'")
            && stderr(&broken).contains("FAILED"),
        "{}",
        stderr(&broken)
    );

    ended(
        &phalanx(&cluster, &["deploy", &folder.path("raises.py")]),
        0,
    );
    let raised = phalanx(&cluster, &["execute", "raises", "{}"]);
    ended(&raised, 1);
    let words = stderr(&raised);
    assert!(
        stdout(&raised).is_empty()
            && words.contains("HANDLER_RAISED")
            && words.contains("Traceback")
            && words.contains("in handler"),
        "{words}"
    );
    assert!(
        !words.contains('\u{1b}'),
        "the agent steers the terminal: {words:?}"
    );

    for (arguments, code, word) in [
        (&["execute", "nobody", "{}"][..], 1, "NOT_FOUND"),
        (&["execute", "raises", "{oops"], 2, "not JSON"),
        (&["execute", "raises", "5"], 1, "input_data.parameters"),
        (&["execute"], 2, "Usage"),
        (&["deploy", "nowhere.py"], 2, "cannot be read"),
        (&["deploy", &folder.path("nothing.py")], 2, "--entrypoint"),
        (
            &[
                "deploy",
                &folder.path("raises.py"),
                "--memory",
                "1",
                "--timeout",
                "0",
            ],
            1,
            "agent_code.configuration.timeout",
        ),
        (&["status", "nobody"], 1, "NOT_FOUND"),
        (&["agents", "--environment", "moon"], 1, "environment: "),
        (&["agents", "--url", "http://127.0.0.1:1"], 3, "phalanx up"),
        (&["agents", "--url", "nonsense"], 2, "--url"),
        (&["agents", "--key", "akc_no"], 1, "UNAUTHENTICATED"),
        (&["frobnicate"], 2, "frobnicate"),
    ] {
        let output = phalanx(&cluster, arguments);
        ended(&output, code);
        assert!(
            stderr(&output).contains(word),
            "{arguments:?}: {}",
            stderr(&output)
        );
        assert!(
            stdout(&output).is_empty(),
            "{arguments:?}: {}",
            stdout(&output)
        );
    }
    let faults = phalanx(
        &cluster,
        &[
            "deploy",
            &folder.path("raises.py"),
            "--memory",
            "1",
            "--timeout",
            "0",
            "--concurrency",
            "0",
        ],
    );
    let faults = stderr(&faults)
        .lines()
        .filter(|line| line.trim_start().starts_with("agent_code.configuration."))
        .count();
    assert_eq!(faults, 3, "one fault a line");

    cluster
        .client
        .deploy_source("echo", fixtures::ECHO, serde_json::json!({}))
        .await;
    let from_file = phalanx(
        &cluster,
        &["execute", "echo", "--input", &folder.path("in.json")],
    );
    assert_eq!(
        stdout(&from_file).split_whitespace().collect::<String>(),
        r#"{"a":[1,2]}"#
    );
    let mut piped = command(&cluster, &["execute", "echo", "--input", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    piped
        .stdin
        .take()
        .expect("a pipe")
        .write_all(b"{\"z\":1,\"a\":123456789012345678901234567890}")
        .expect("written");
    let output = piped.wait_with_output().expect("it ends");
    assert_eq!(
        stdout(&output).split_whitespace().collect::<String>(),
        r#"{"z":1,"a":123456789012345678901234567890}"#
    );
}

#[tokio::test]
async fn streams_and_followed_logs() {
    let cluster = Cluster::start().await;
    ended(&phalanx(&cluster, &["deploy", "examples/streaming.py"]), 0);
    let streamed = phalanx(
        &cluster,
        &["execute", "streaming", r#"{"text": "a b c"}"#, "--stream"],
    );
    ended(&streamed, 0);
    let words: Vec<Value> = stdout(&streamed)
        .lines()
        .map(|line| serde_json::from_str(line).expect("one value a line"))
        .collect();
    assert_eq!(words.len(), 3, "{words:?}");
    assert_eq!(words[2]["word"], "c");

    let source = "import time\ndef handler(input):\n    for n in range(5):\n        print('line', n)\n        time.sleep(0.2)\n";
    cluster
        .client
        .deploy_source("slow", source, serde_json::json!({}))
        .await;
    let id = cluster
        .client
        .execute_async("slow", serde_json::json!({}))
        .await;
    let followed = phalanx(&cluster, &["logs", "slow", &id, "--follow"]);
    ended(&followed, 0);
    assert_eq!(
        stdout(&followed)
            .lines()
            .filter(|line| line.contains("line "))
            .count(),
        5,
        "{}",
        stdout(&followed)
    );
    let id = cluster
        .client
        .execute_async("slow", serde_json::json!({}))
        .await;
    cluster
        .client
        .execution_status("slow", &id, "running")
        .await;
    let cancelled = phalanx(&cluster, &["cancel", "slow", &id]);
    ended(&cancelled, 0);
    assert!(
        stdout(&cancelled).contains("cancelled"),
        "{}",
        stdout(&cancelled)
    );
}

#[tokio::test]
async fn completion_and_closed_pipes() {
    let cluster = Cluster::start().await;
    for shell in ["bash", "zsh", "fish"] {
        let script = phalanx(&cluster, &["completion", shell]);
        ended(&script, 0);
        assert!(
            stdout(&script).contains("deploy") && stdout(&script).contains("executions"),
            "{shell}"
        );
    }
    // A reader that goes away is no error.
    let mut child = command(&cluster, &["status", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    ended(&output, 0);
    assert!(stderr(&output).is_empty(), "{}", stderr(&output));
}

#[test]
fn up_says_in_one_line_what_to_do() {
    let up = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(program::phalanx());
        command
            .arg("up")
            .args(arguments)
            .envs(environment.iter().copied());
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        assert!(!output.status.success(), "{}", stdout(&output));
        let words = stderr(&output);
        assert_eq!(
            words
                .trim()
                .lines()
                .filter(|line| line.contains("phalanx: ") || line.starts_with("error: "))
                .count(),
            1,
            "{words}"
        );
        words
    };
    let folder = Folder::with(&[("file", "x")]);
    let data = folder.path("data");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let words = up(&["--listen", &address, "--data-dir", &data], &[]);
    assert!(
        words.contains(&address) && words.contains("choose another"),
        "{words}"
    );
    let words = up(
        &[
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            &folder.path("file/below"),
        ],
        &[],
    );
    assert!(words.contains("--data-dir"), "{words}");
    let words = up(
        &["--listen", "127.0.0.1:0", "--data-dir", &data],
        &[("PHALANX__EXECUTOR__PYTHON", "/nowhere/python3")],
    );
    assert!(
        words.contains("/nowhere/python3") && words.contains("Python 3.10"),
        "{words}"
    );
    let words = up(&["--listen", "nonsense", "--data-dir", &data], &[]);
    assert!(words.contains("listen"), "{words}");
}

#[tokio::test]
async fn a_second_one_on_the_same_directory_is_refused() {
    let cluster = Cluster::start().await;
    let mut command = Command::new(program::phalanx());
    command
        .args(["up", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(cluster.data_dir());
    let output = command.stdin(Stdio::null()).output().expect("it runs");
    assert!(!output.status.success());
    assert!(
        stderr(&output).contains("in use by another Phalanx"),
        "{}",
        stderr(&output)
    );
    cluster.client.get("/readyz").await.ok();
}
