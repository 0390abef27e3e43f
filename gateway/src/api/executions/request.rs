//! What `POST /agents/{id}/execute` takes: its schema, and the walk over everything but the parameters, which stay as
//! they were sent.

use crate::{
    door::Who,
    fields::{Faults, Fields, describe, member},
    json, openapi,
};
use domain::{
    Result,
    agent::{MAX_CUSTOM_METRICS, metric_name},
    execution::{Caller, Priority},
    id::ExecutionId,
    retry::{MOST_RETRIES, Policy},
    text,
    webhook::{self, Openness},
};
use serde_json::{Map, Value, value::RawValue};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A checked request.
#[derive(Debug)]
pub struct Asked {
    /// The caller's own id and the digest of what it sent with it.
    pub known_as: Option<(ExecutionId, String)>,
    pub input: Box<RawValue>,
    pub caller: Caller,
    /// `None`: the agent's.
    pub timeout_s: Option<u32>,
    pub priority: Priority,
    pub in_background: bool,
    pub retry: Policy,
    pub retry_explicit: bool,
    pub trace: bool,
    pub callback_url: Option<String>,
}

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "the schema of what the walk below reads; a test holds them together"
)]
pub struct ExecuteRequest {
    /// Makes the call idempotent within its agent; made where it is left out.
    #[schema(required = false, pattern = "^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
    execution_id: String,
    #[schema(required = false)]
    input_data: InputData,
    #[schema(required = false)]
    execution_options: ExecutionOptions,
    #[schema(required = false)]
    monitoring: ExecutionMonitoring,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see ExecuteRequest")]
struct InputData {
    /// The handler's input.
    #[schema(required = false)]
    parameters: BTreeMap<String, Value>,
    #[schema(required = false)]
    context: ExecutionContext,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see ExecuteRequest")]
struct ExecutionContext {
    #[schema(required = false, max_length = 256)]
    user_id: String,
    /// Keeps its version during a rollout.
    #[schema(required = false, max_length = 256)]
    session_id: String,
    #[schema(required = false, max_length = 256)]
    request_id: String,
    /// At most 64 KiB.
    #[schema(required = false)]
    metadata: BTreeMap<String, Value>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see ExecuteRequest")]
struct ExecutionOptions {
    /// Seconds; the agent's by default.
    #[schema(required = false, minimum = 1, maximum = 28800)]
    timeout: u32,
    #[schema(required = false, schema_with = openapi::priority, default = "normal")]
    priority: Priority,
    #[schema(required = false, default = false)]
    r#async: bool,
    /// Is sent the execution's status document when it has ended: `POST`, signed by Standard Webhooks with the agent's `webhook_secret`, and again
    /// for about three days until it is answered with 2xx. https to a public host.
    #[schema(required = false, max_length = 2048)]
    callback_url: String,
    #[schema(required = false)]
    retry_config: RetryConfig,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see ExecuteRequest")]
struct RetryConfig {
    #[schema(required = false, minimum = 0, maximum = 10, default = 3)]
    max_retries: u32,
    /// Seconds.
    #[schema(required = false, minimum = 0, maximum = 3600, default = 1)]
    retry_delay: u32,
    #[schema(required = false, minimum = 1, maximum = 10, default = 2.0)]
    backoff_multiplier: f64,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see ExecuteRequest")]
struct ExecutionMonitoring {
    #[schema(required = false, default = true)]
    trace_enabled: bool,
    /// Figures by name; the handler finds them in `context.metadata["custom_metrics"]`.
    #[schema(required = false)]
    custom_metrics: BTreeMap<String, f64>,
}

const MOST_METADATA_BYTES: usize = 64 * 1024;
const MOST_ID_CHARACTERS: usize = 256;

pub fn read(body: &[u8], who: &Who, openness: &Openness) -> Result<Asked> {
    let (sent, parameters) = json::read(body, &["input_data", "parameters"])?;
    let faults = Faults::default();
    let asked = walk(&sent, parameters, (who, openness), &faults);
    faults.check()?;
    Ok(asked)
}

fn walk(
    sent: &Value,
    parameters: Option<&RawValue>,
    (who, openness): (&Who, &Openness),
    faults: &Faults,
) -> Asked {
    let root = Fields::of(sent, faults);
    let id: Option<ExecutionId> = root.parsed("execution_id");

    let data = root.object("input_data");
    // Its value was kept beside the document.
    data.value("parameters");
    let parameters = parameters.filter(|raw| raw.get() != "null");
    if let Some(raw) = parameters.filter(|raw| !raw.get().starts_with('{')) {
        data.fault(
            "parameters",
            format_args!("{}; allowed is an object", kind_of(raw)),
        );
    }
    let context = data.object("context");
    let mut caller = caller(&context, who);

    let options = root.object("execution_options");
    let timeout_s = options.integer("timeout", 1..=28800);
    let priority = options.parsed("priority").unwrap_or(Priority::Normal);
    let in_background = options.flag("async").unwrap_or(false);
    let allowed = |url: &str| webhook::target(url, openness).map(|_| ());
    let callback_url = options
        .text_that("callback_url", allowed)
        .map(str::to_owned);
    let config = options.object("retry_config");
    let retry_explicit = sent
        .pointer("/execution_options/retry_config")
        .is_some_and(Value::is_object);
    let retry = retry(&config);

    let monitoring = root.object("monitoring");
    let trace = monitoring.flag("trace_enabled").unwrap_or(true);
    let figures = figures(&monitoring);
    if !figures.is_empty()
        && caller
            .metadata
            .insert("custom_metrics".to_owned(), Value::Object(figures))
            .is_some()
    {
        context.fault(
            "metadata.custom_metrics",
            "stands where monitoring.custom_metrics goes; give only one of them",
        );
    }

    let known_as = id.map(|id| (id, digest(sent, parameters)));
    Asked {
        known_as,
        input: parameters.map_or_else(empty, ToOwned::to_owned),
        caller,
        timeout_s,
        priority,
        in_background,
        retry,
        retry_explicit,
        trace,
        callback_url,
    }
}

fn empty() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn caller(context: &Fields<'_>, who: &Who) -> Caller {
    let word = |text: &str| text::line(text, MOST_ID_CHARACTERS);
    let id = |name| context.text_that(name, word).map(str::to_owned);
    let metadata = context.map("metadata").cloned().unwrap_or_default();
    let bytes = if metadata.is_empty() {
        0
    } else {
        serde_json::to_string(&metadata).map_or(usize::MAX, |text| text.len())
    };
    if bytes > MOST_METADATA_BYTES {
        context.fault(
            "metadata",
            format_args!("has {bytes} bytes; allowed are at most {MOST_METADATA_BYTES}"),
        );
    }
    Caller {
        user_id: id("user_id"),
        session_id: id("session_id"),
        request_id: Some(id("request_id").unwrap_or_else(|| who.request_id.clone())),
        metadata,
        traceparent: who.trace.as_ref().map(|trace| trace.parent),
        tracestate: who.trace.as_ref().and_then(|trace| trace.state.clone()),
    }
}

fn retry(config: &Fields<'_>) -> Policy {
    let default = Policy::default();
    let factor = |n: f64| (1.0..=10.0).contains(&n);
    Policy {
        max_retries: config
            .integer("max_retries", 0..=MOST_RETRIES)
            .unwrap_or(default.max_retries),
        delay_ms: config
            .integer("retry_delay", 0..=3600)
            .map_or(default.delay_ms, |seconds| u64::from(seconds) * 1000),
        multiplier: config
            .number("backoff_multiplier", "a number from 1 to 10", factor)
            .unwrap_or(default.multiplier),
    }
}

fn figures(monitoring: &Fields<'_>) -> Map<String, Value> {
    let Some(given) = monitoring.map("custom_metrics") else {
        return Map::new();
    };
    if given.len() > MAX_CUSTOM_METRICS {
        monitoring.fault(
            "custom_metrics",
            format_args!(
                "has {} figures; allowed are at most {MAX_CUSTOM_METRICS}",
                given.len()
            ),
        );
    }
    for (name, value) in given {
        let path = || format!("custom_metrics.{}", member(name));
        if let Err(what) = metric_name(name) {
            monitoring.fault(&path(), what);
        } else if !value.is_number() {
            monitoring.fault(
                &path(),
                format_args!("{}; allowed is a number", describe(value)),
            );
        }
    }
    given.clone()
}

fn kind_of(raw: &RawValue) -> &'static str {
    match raw.get().bytes().next() {
        Some(b'"') => "is a string",
        Some(b'[') => "is a list",
        Some(b't' | b'f') => "is a boolean",
        _ => "is a number",
    }
}

/// SHA-256 over what was sent, whatever the order of members outside the parameters and the white space within them.
fn digest(sent: &Value, parameters: Option<&RawValue>) -> String {
    let mut hash = Sha256::new();
    hash.update(sent.to_string());
    hash.update(b"\n");
    hash.update(parameters.map_or_else(String::new, |raw| json::compact(raw.get())));
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::somebody;
    use serde_json::json;

    fn faults_of(sent: &Value) -> Vec<String> {
        match read(
            sent.to_string().as_bytes(),
            &somebody(),
            &Openness::default(),
        ) {
            Ok(_) => Vec::new(),
            Err(error) => error.faults,
        }
    }

    #[test]
    fn the_least_gets_the_defaults() {
        let asked = read(b"{}", &somebody(), &Openness::default()).expect("good");
        assert_eq!(
            (asked.input.get(), asked.retry, asked.retry_explicit),
            ("{}", Policy::default(), false)
        );
        assert!(
            asked.known_as.is_none()
                && asked.trace
                && !asked.in_background
                && asked.timeout_s.is_none()
        );
        assert!(asked.caller.request_id.is_some());
    }

    #[test]
    fn parameters_stay_as_they_were_sent() {
        let asked = read(
            br#"{"input_data":{"parameters":{"n":1.10,"big":123456789012345678901234567890}}}"#,
            &somebody(),
            &Openness::default(),
        )
        .expect("good");
        assert_eq!(
            asked.input.get(),
            r#"{"n":1.10,"big":123456789012345678901234567890}"#
        );
    }

    #[test]
    fn every_fault_at_once() {
        let sent = json!({
            "execution_id": "a/b", "inputs": 1,
            "input_data": {"parameters": [1], "context": {"user_id": "x".repeat(257), "session_id": "a\nb", "metadata": {"k": "x".repeat(70_000)}}},
            "execution_options": {
                "timeout": 28801, "priority": "urgent", "async": "yes", "callback_url": "http://127.0.0.1/",
                "retry_config": {"max_retries": 11, "retry_delay": -1, "backoff_multiplier": 0.5}
            },
            "monitoring": {"trace_enabled": 1, "custom_metrics": {"ok": "x", "1": 2}}
        });
        let faults = faults_of(&sent);
        for path in [
            "execution_id",
            "inputs",
            "input_data.parameters",
            "input_data.context.user_id",
            "input_data.context.session_id",
            "input_data.context.metadata",
            "execution_options.timeout",
            "execution_options.priority",
            "execution_options.async",
            "execution_options.callback_url",
            "execution_options.retry_config.max_retries",
            "execution_options.retry_config.retry_delay",
            "execution_options.retry_config.backoff_multiplier",
            "monitoring.trace_enabled",
            "monitoring.custom_metrics.ok",
            "monitoring.custom_metrics.1",
        ] {
            assert_eq!(
                faults
                    .iter()
                    .filter(|fault| fault.starts_with(&format!("{path}: ")))
                    .count(),
                1,
                "{path} in {faults:#?}"
            );
        }
        assert_eq!(faults.len(), 16, "{faults:#?}");
    }

    #[test]
    fn figures_of_the_caller_reach_the_handler() {
        let asked = read(
            br#"{"monitoring":{"custom_metrics":{"cost":1.5}}}"#,
            &somebody(),
            &Openness::default(),
        )
        .expect("good");
        assert_eq!(asked.caller.metadata["custom_metrics"]["cost"], 1.5);
        let both = json!({"input_data": {"context": {"metadata": {"custom_metrics": 1}}}, "monitoring": {"custom_metrics": {"cost": 1}}});
        assert_eq!(faults_of(&both).len(), 1);
    }

    #[test]
    fn the_digest_is_of_what_was_sent_not_of_how() {
        let digest = |sent: &str| {
            read(sent.as_bytes(), &somebody(), &Openness::default())
                .expect("good")
                .known_as
                .expect("an id")
                .1
        };
        let one = r#"{"execution_id":"x","input_data":{"parameters":{"a":1}}}"#;
        assert_eq!(
            digest(one),
            digest(r#"{ "input_data": {"parameters": { "a": 1 } }, "execution_id": "x"}"#)
        );
        assert_ne!(
            digest(one),
            digest(r#"{"execution_id":"x","input_data":{"parameters":{"a":2}}}"#)
        );
        assert_ne!(
            digest(one),
            digest(
                r#"{"execution_id":"x","input_data":{"parameters":{"a":1}},"execution_options":{"timeout":5}}"#
            )
        );
    }
}
