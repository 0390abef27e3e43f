//! A client of the REST API that is in the way of nothing: JSON in, JSON out, statuses kept.

use crate::{Value, fixtures, json, sse, wait};
use reqwest::{Method, header::HeaderMap};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

pub const DEPLOYED_WITHIN: Duration = Duration::from_secs(180);
pub const ENDED_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    pub base: String,
    pub key: String,
    /// Gateways that are called in turn.
    bases: Arc<Vec<String>>,
    turn: Arc<AtomicUsize>,
    /// The place of one that is not called now, plus one.
    left_out: Arc<AtomicUsize>,
}

/// What came back, whatever it was.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn body(&self) -> Value {
        serde_json::from_str(&self.text)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {} {}", self.status, self.text))
    }

    /// The document of a call that must succeed.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.body()
    }

    /// The error of a call that must be refused so: status, stable code, the whole envelope.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        let error = self.body()["error"].clone();
        assert_eq!(error["code"], code, "{}", self.text);
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|message| !message.is_empty()),
            "{}",
            self.text
        );
        assert!(
            error["details"]["validation_errors"].is_array(),
            "{}",
            self.text
        );
        assert!(
            error["details"]["deployment_logs"].is_array(),
            "{}",
            self.text
        );
        error
    }

    /// The faults of a body or query that must be refused.
    #[track_caller]
    pub fn faults(&self) -> Vec<String> {
        let error = self.refused(400, "VALIDATION_FAILED");
        let faults = error["details"]["validation_errors"]
            .as_array()
            .expect("a list");
        assert!(!faults.is_empty(), "{}", self.text);
        faults
            .iter()
            .map(|fault| fault.as_str().expect("text").to_owned())
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    pub fn new(base: &str, key: &str) -> Self {
        // One a process; a test may make many clients.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(120))
            .build()
            .expect("a client");
        Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            key: key.to_owned(),
            bases: Arc::new(vec![base.trim_end_matches('/').to_owned()]),
            turn: Arc::default(),
            left_out: Arc::default(),
        }
    }

    /// One that calls several gateways in turn, as a proxy in front of them would.
    pub(crate) fn of_many(bases: &[String], key: &str) -> Self {
        Self {
            bases: Arc::new(bases.to_vec()),
            ..Self::new(&bases[0], key)
        }
    }

    pub(crate) fn nowhere() -> Self {
        Self::new("http://127.0.0.1:1", "")
    }

    pub fn with_key(&self, key: &str) -> Self {
        Self {
            key: key.to_owned(),
            ..self.clone()
        }
    }

    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let url = if path.starts_with("http") {
            path.to_owned()
        } else {
            format!("{}{path}", self.next_base())
        };
        let request = self.http.request(method, url);
        if self.key.is_empty() {
            request
        } else {
            request.bearer_auth(&self.key)
        }
    }

    /// One of the gateways.
    pub fn base(&self) -> &str {
        &self.bases[0]
    }

    fn next_base(&self) -> &str {
        let place = self.turn.fetch_add(1, Ordering::Relaxed) % self.bases.len();
        if place + 1 == self.left_out.load(Ordering::Relaxed) {
            &self.bases[(place + 1) % self.bases.len()]
        } else {
            &self.bases[place]
        }
    }

    /// From now on the gateway at this place is not called, as a proxy does it with one that leaves.
    pub fn leave_out(&self, place: Option<usize>) {
        let left_out = place.map_or(0, |place| place + 1);
        self.left_out.store(left_out, Ordering::Relaxed);
    }

    pub async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, String> {
        let words = |error: reqwest::Error| format!("{error:?}");
        let response = request.send().await.map_err(words)?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer {
            status,
            headers,
            text: response.text().await.map_err(words)?,
        })
    }

    pub async fn try_get(&self, path: &str) -> Result<Answer, String> {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn try_post(&self, path: &str, body: &Value) -> Result<Answer, String> {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path)
            .await
            .unwrap_or_else(|error| panic!("GET {path}: {error}"))
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.try_post(path, body)
            .await
            .unwrap_or_else(|error| panic!("POST {path}: {error}"))
    }

    /// `PUT` or `PATCH`.
    pub async fn change(&self, method: Method, path: &str, body: &Value) -> Answer {
        let request = self.request(method, path).json(body);
        self.send(request)
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn delete(&self, path: &str) -> Answer {
        let request = self.request(Method::DELETE, path);
        self.send(request)
            .await
            .unwrap_or_else(|error| panic!("DELETE {path}: {error}"))
    }

    pub async fn deploy(&self, body: &Value) -> Answer {
        self.post("/api/v1/agents/deploy", body).await
    }

    /// Deploys and waits until it serves; gives the answer to the deploy.
    pub async fn deployed(&self, body: &Value) -> Value {
        let accepted = self.deploy(body).await.ok();
        let end = self.deployment_end(&accepted).await;
        assert_eq!(end["status"], "deployed", "{end:#}");
        accepted
    }

    /// A deployment that must fail; gives its last document.
    pub async fn deploy_fails(&self, body: &Value) -> Value {
        let accepted = self.deploy(body).await.ok();
        let end = self.deployment_end(&accepted).await;
        assert_eq!(end["status"], "failed", "{end:#}");
        end
    }

    /// The agent `id` of one file, with what `changes` says over the defaults of [`fixtures::agent`].
    pub async fn deploy_source(&self, id: &str, source: &str, changes: Value) -> Value {
        self.deployed(&fixtures::with(fixtures::agent(id, source), changes))
            .await
    }

    pub async fn deployment_end(&self, accepted: &Value) -> Value {
        let text = |name: &str| {
            accepted[name]
                .as_str()
                .unwrap_or_else(|| panic!("no {name}: {accepted}"))
                .to_owned()
        };
        let path = format!(
            "/api/v1/agents/{}/deployments/{}",
            text("agent_id"),
            text("deployment_id")
        );
        wait::until("the deployment ends", DEPLOYED_WITHIN, || async {
            let document = self.get(&path).await.ok();
            if document["status"] == "deploying" {
                Err(document.to_string())
            } else {
                Ok(document)
            }
        })
        .await
    }

    /// A sync execution with these parameters; the document, however the execution ended.
    pub async fn execute(&self, id: &str, parameters: Value) -> Value {
        self.execute_with(id, &fixtures::call(parameters))
            .await
            .ok()
    }

    pub async fn execute_with(&self, id: &str, body: &Value) -> Answer {
        self.post(&format!("/api/v1/agents/{id}/execute"), body)
            .await
    }

    /// The output of an execution that must complete.
    pub async fn output(&self, id: &str, parameters: Value) -> Value {
        let document = self.execute(id, parameters).await;
        assert_eq!(document["status"], "completed", "{document:#}");
        document["result"]["output"].clone()
    }

    /// The error of an execution that must fail.
    pub async fn failure(&self, id: &str, parameters: Value) -> Value {
        let document = self.execute(id, parameters).await;
        assert_ne!(document["status"], "completed", "{document:#}");
        document["result"]["error"].clone()
    }

    /// Accepts an async execution; gives its id.
    pub async fn execute_async(&self, id: &str, parameters: Value) -> String {
        let body = fixtures::with(
            fixtures::call(parameters),
            json!({"execution_options": {"async": true}}),
        );
        let accepted = self.execute_with(id, &body).await.ok();
        accepted["execution_id"]
            .as_str()
            .unwrap_or_else(|| panic!("no id: {accepted}"))
            .to_owned()
    }

    pub async fn execution(&self, id: &str, execution: &str) -> Value {
        self.get(&format!("/api/v1/agents/{id}/executions/{execution}"))
            .await
            .ok()
    }

    /// Waits until an execution has ended; gives its document.
    pub async fn execution_end(&self, id: &str, execution: &str) -> Value {
        wait::until("the execution ends", ENDED_WITHIN, || async {
            let document = self.execution(id, execution).await;
            let going = document["status"] == "queued" || document["status"] == "running";
            if going {
                Err(document.to_string())
            } else {
                Ok(document)
            }
        })
        .await
    }

    pub async fn execution_status(&self, id: &str, execution: &str, wanted: &str) -> Value {
        wait::until(
            &format!("the execution is {wanted}"),
            ENDED_WITHIN,
            || async {
                let document = self.execution(id, execution).await;
                if document["status"] == wanted {
                    Ok(document)
                } else {
                    Err(document.to_string())
                }
            },
        )
        .await
    }

    /// A streamed execution, open.
    pub async fn stream(&self, id: &str, body: &Value, last_event_id: Option<&str>) -> sse::Events {
        let path = format!("/api/v1/agents/{id}/execute");
        let request = self.request(Method::POST, &path).json(body);
        self.events(request, last_event_id).await
    }

    pub async fn events(
        &self,
        request: reqwest::RequestBuilder,
        last_event_id: Option<&str>,
    ) -> sse::Events {
        let mut request = request.header("accept", "text/event-stream");
        if let Some(last) = last_event_id {
            request = request.header("last-event-id", last);
        }
        sse::Events::new(request.send().await.expect("an answer")).await
    }
}
