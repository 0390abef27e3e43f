//! What tests of rollouts begin with: versions that tell themselves apart, and callers that never stop.

use crate::{Client, Value, fixtures, json, wait};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::Method;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// Answers with `name`; `body` comes before.
pub fn source(name: &str, body: &str) -> String {
    format!("import time\ndef handler(input):\n    {body}\n    return {{'v': '{name}'}}\n")
}

/// What `PUT` takes for a new version of this source.
pub fn update(strategy: &str, source: &str, changes: Value) -> Value {
    let body = json!({
        "deployment_strategy": strategy,
        "agent_code": {"source_code": STANDARD.encode(source), "entrypoint": "handler"},
    });
    fixtures::with(body, changes)
}

impl Client {
    pub async fn put(&self, path: &str, body: &Value) -> crate::client::Answer {
        let request = self.request(Method::PUT, path).json(body);
        self.send(request)
            .await
            .unwrap_or_else(|error| panic!("PUT {path}: {error}"))
    }

    /// Begins to update the agent `id`; gives the path of the deployment.
    pub async fn update(&self, id: &str, version: &str, body: &Value) -> String {
        let path = format!("/api/v1/agents/{id}/versions/{version}");
        let accepted = self.put(&path, body).await.ok();
        let deployment = accepted["deployment_id"].as_str().expect("an id");
        format!("/api/v1/agents/{id}/deployments/{deployment}")
    }

    /// Deploys `mine`, whose version 1.0.0 answers "1", and begins to give half of its callers to 2.0.0, which answers "2"; the
    /// path of that deployment.
    pub async fn half_a_canary(&self, minutes: u32) -> String {
        self.deploy_source("mine", &source("1", "pass"), json!({}))
            .await;
        let canary = json!({"canary_config": {"traffic_percentage": 50, "duration": minutes}});
        let body = update("canary", &source("2", "pass"), canary);
        self.update("mine", "2.0.0", &body).await
    }

    /// Waits until a deployment's document is as `wanted` says.
    pub async fn deployment_until(
        &self,
        path: &str,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        wait::until(what, Duration::from_secs(90), || async {
            let document = self.get(path).await.ok();
            if wanted(&document) {
                Ok(document)
            } else {
                Err(format!("{document:#}"))
            }
        })
        .await
    }

    pub async fn deployment_status(&self, path: &str, status: &str) -> Value {
        self.deployment_until(path, &format!("the deployment is {status}"), |document| {
            assert!(
                document["status"] == status || document["status"] == "deploying",
                "{document:#}"
            );
            document["status"] == status
        })
        .await
    }

    /// Until a version has this share of the callers.
    pub async fn share(&self, path: &str, percent: f64) -> Value {
        self.deployment_until(path, &format!("{percent} % have moved"), |document| {
            document["rollout"]["traffic_percentage"].as_f64() == Some(percent)
        })
        .await
    }

    pub async fn order(&self, path: &str, order: &str) -> crate::client::Answer {
        self.post(&format!("{path}/{order}"), &json!({})).await
    }
}

/// Callers with sessions, each with one request after the other at a steady pace.
pub struct Load {
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
    seen: Arc<Mutex<Seen>>,
}

/// What callers saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub answers: HashMap<String, u32>,
    /// Outcomes that were not `completed`.
    pub failed: u32,
    /// Answers that were no outcome.
    pub refused: Vec<String>,
    /// Sessions that came back to a version which they had left, but for rollbacks that the test made.
    pub came_back: Vec<String>,
    /// When the last request began that a version answered.
    pub last: HashMap<String, Instant>,
}

impl Load {
    /// `sessions` callers that make `per_second` requests together. Which versions a caller may go back to, the test says by
    /// growing `epoch`: then all may begin anew.
    pub fn start(
        client: &Client,
        id: &str,
        (sessions, per_second): (u32, u32),
        epoch: &Arc<AtomicU32>,
    ) -> Self {
        let (stop, seen) = (
            Arc::new(AtomicBool::new(false)),
            Arc::<Mutex<Seen>>::default(),
        );
        let pace = Duration::from_secs(1) * sessions / per_second;
        let mut callers = JoinSet::new();
        for session in 0..sessions {
            let caller = Caller {
                client: client.clone(),
                id: id.to_owned(),
                session: format!("session-{session}"),
                stop: Arc::clone(&stop),
                seen: Arc::clone(&seen),
                epoch: Arc::clone(epoch),
            };
            callers.spawn(caller.call(pace, pace * session / sessions));
        }
        Self {
            callers,
            stop,
            seen,
        }
    }

    /// When the last request so far began that this version answered.
    pub fn last(&self, version: &str) -> Option<Instant> {
        let seen = self.seen.lock().expect("not poisoned");
        seen.last.get(version).copied()
    }

    pub async fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("a caller ends");
        }
        std::mem::take(&mut self.seen.lock().expect("not poisoned"))
    }
}

struct Caller {
    client: Client,
    id: String,
    session: String,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    epoch: Arc<AtomicU32>,
}

impl Caller {
    async fn call(self, pace: Duration, first: Duration) {
        tokio::time::sleep(first).await;
        let path = format!("/api/v1/agents/{}/execute", self.id);
        let body =
            json!({"input_data": {"parameters": {}, "context": {"session_id": self.session}}});
        let mut left: Vec<String> = Vec::new();
        let mut last = (String::new(), 0);
        let mut next = Instant::now();
        while !self.stop.load(Ordering::SeqCst) {
            let epoch = self.epoch.load(Ordering::SeqCst);
            let begun = Instant::now();
            let answer = self.client.try_post(&path, &body).await;
            let settled = self.epoch.load(Ordering::SeqCst) == epoch;
            let version = self.note(answer, begun);
            if let Some(version) = version.filter(|_| settled) {
                if epoch != last.1 {
                    left.clear();
                } else if version != last.0 {
                    left.push(std::mem::take(&mut last.0));
                }
                if left.contains(&version) {
                    let words = format!("{}: {version} after {left:?}", self.session);
                    self.seen
                        .lock()
                        .expect("not poisoned")
                        .came_back
                        .push(words);
                }
                last = (version, epoch);
            }
            next += pace;
            tokio::time::sleep_until(next.into()).await;
        }
    }

    fn note(
        &self,
        answer: Result<crate::client::Answer, String>,
        begun: Instant,
    ) -> Option<String> {
        let mut seen = self.seen.lock().expect("not poisoned");
        let answer = match answer {
            Ok(answer) if answer.status == 200 => answer.ok(),
            Ok(answer) => {
                seen.refused
                    .push(format!("{} {}", answer.status, answer.text));
                return None;
            }
            Err(error) => {
                seen.refused.push(error);
                return None;
            }
        };
        if answer["status"] != "completed" {
            seen.failed += 1;
            return None;
        }
        let version = answer["result"]["output"]["v"].as_str().expect("a version");
        *seen.answers.entry(version.to_owned()).or_default() += 1;
        let last = seen.last.entry(version.to_owned()).or_insert(begun);
        *last = begun.max(*last);
        Some(version.to_owned())
    }
}
