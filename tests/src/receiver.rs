//! A receiver of webhooks: keeps what it is sent, and answers each path as it is told.

use crate::{Value, json, wait};
use std::{
    collections::BTreeMap,
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub const SENT_WITHIN: Duration = Duration::from_secs(120);

/// By the package that receivers use: `Webhook(secret).verify(body, headers)` of each message.
const VERIFY: &str = "import json, sys\nfrom standardwebhooks.webhooks import Webhook\nasked = json.load(sys.stdin)\nhook = Webhook(asked['secret'])\nfor one in asked['messages']:\n    hook.verify(one['body'], one['headers'])\n";

#[derive(Debug, Clone)]
pub struct Message {
    pub path: String,
    /// By their names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Message {
    pub fn document(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

#[derive(Debug, Default)]
struct Kept {
    messages: Vec<Message>,
    /// Of a path, in turn; the last one stays.
    answers: BTreeMap<String, Vec<String>>,
}

/// Ends with its last clone.
#[derive(Debug, Clone)]
pub struct Receiver {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    _task: Arc<JoinSet<()>>,
}

impl Receiver {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let (mut task, shared) = (JoinSet::new(), kept.clone());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, shared.clone()));
            }
        });
        Self {
            address,
            kept,
            _task: Arc::new(task),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Status lines and headers, as `503 Busy\r\nretry-after: 1`, or `never`; 204 where nothing was said.
    pub fn answers(&self, path: &str, answers: &[&str]) {
        let answers = answers.iter().map(|one| (*one).to_owned()).collect();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.answers.insert(path.to_owned(), answers);
    }

    pub fn messages(&self) -> Vec<Message> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.messages.clone()
    }

    /// Of a path.
    pub fn at(&self, path: &str) -> Vec<Message> {
        let mut all = self.messages();
        all.retain(|one| one.path == path);
        all
    }

    /// Those of a path, once there are so many.
    pub async fn arrived(&self, path: &str, count: usize) -> Vec<Message> {
        let what = format!("{count} messages at {path}");
        wait::until(&what, SENT_WITHIN, || async {
            let found = self.at(path);
            if found.len() < count {
                return Err(format!("{found:#?}"));
            }
            Ok(found)
        })
        .await
    }

    /// Of a path and event.
    pub fn of(&self, path: &str, event: &str) -> Vec<Message> {
        let mut all = self.messages();
        all.retain(|one| one.path == path && one.document()["type"] == event);
        all
    }

    /// The first of a path and event, once it is there.
    pub async fn first(&self, path: &str, event: &str) -> Message {
        let what = format!("{event} at {path}");
        wait::until(&what, SENT_WITHIN, || async {
            let found = self.of(path, event).into_iter().next();
            found.ok_or_else(|| format!("{:#?}", self.messages()))
        })
        .await
    }
}

/// Whether all of these were signed with this secret, by the public package `standardwebhooks`; else its words.
pub fn verified(secret: &str, messages: &[Message]) -> Result<(), String> {
    let all: Vec<Value> = messages
        .iter()
        .map(|one| json!({"body": one.body, "headers": one.headers}))
        .collect();
    let mut child = Command::new(python())
        .args(["-c", VERIFY])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python starts");
    let asked = json!({"secret": secret, "messages": all}).to_string();
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(asked.as_bytes()).expect("it reads");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        return Ok(());
    }
    assert!(
        !words.contains("ModuleNotFound"),
        "{words}; run the tests with tests/run"
    );
    Err(words)
}

/// That of the tools which `tests/run` installs: it is beside the `nats-server` of the PATH.
fn python() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .filter(|folder| folder.join("nats-server").is_file())
        .map(|folder| folder.join("python"))
        .find(|python| python.is_file());
    found.expect("the tools' Python is not there: run the tests with tests/run, which installs it")
}

async fn answer(mut stream: TcpStream, kept: Arc<Mutex<Kept>>) {
    let Some(message) = read(&mut stream).await else {
        return;
    };
    let words = {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let answers = kept.answers.entry(message.path.clone()).or_default();
        let words = match answers.len() {
            0 => "204 No Content".to_owned(),
            1 => answers[0].clone(),
            _ => answers.remove(0),
        };
        kept.messages.push(message);
        words
    };
    if words == "never" {
        return std::future::pending().await;
    }
    let text = format!("HTTP/1.1 {words}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.ok();
}

async fn read(stream: &mut TcpStream) -> Option<Message> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length")?.parse().ok()?;
    while bytes.len() < end + 4 + length {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(Message {
        path,
        headers,
        body: String::from_utf8_lossy(&bytes[end + 4..]).into_owned(),
    })
}
