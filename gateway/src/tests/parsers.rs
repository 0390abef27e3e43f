//! Every parser of bytes that anybody may send: whatever comes, it is read or refused, never a panic, and what is refused is named.

use super::world::somebody;
use crate::{
    api::{agents, alerts, executions},
    door, json, key,
    mutate::{cases, changed},
    params::Params,
    sse,
};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Request},
};
use domain::{
    Error, Timestamp,
    artifact::Limits,
    id::{AccountId, AgentId, AlertId, DeploymentId, ExecutionId, KeyId},
};
use proptest::prelude::*;
use serde::{Serialize, de::DeserializeOwned};

/// Bytes that may stand in a header.
fn value() -> impl Strategy<Value = HeaderValue> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        "(Bearer|bearer|Basic|) ?(akc_)?[A-Za-z0-9+/=_-]{0,80}".prop_map(String::into_bytes),
        "[0-9+-]{0,25}".prop_map(String::into_bytes),
        "00-[0-9a-f]{30,34}-[0-9a-f]{14,18}-0[0-9]".prop_map(String::into_bytes),
    ];
    bytes.prop_filter_map("no header", |bytes| HeaderValue::from_bytes(&bytes).ok())
}

/// What may stand behind the question mark: names that we know and others, with anything as their value.
fn query() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        "(page|limit|from|follow|status|sort|order|tag|granularity)",
        "[a-z%=&+]{0,12}",
        "(%[0-9a-f]{2}){1,6}",
    ];
    let value = prop_oneof![
        "-?[0-9]{0,24}",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{0,12}(Z|[+-][0-9]{2}:[0-9]{2})?",
        "(true|false|asc|desc|created_at|failed|queued|1m|5m)",
        "[ -~]{0,30}",
        "(%[0-9A-Fa-f]{2}){0,20}",
    ];
    let pairs = prop::collection::vec((name, value), 0..8);
    pairs.prop_map(|pairs| {
        let pairs: Vec<String> = pairs
            .into_iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    })
}

async fn params(query: &str) -> Option<Params> {
    let request = Request::get(format!("/?{query}")).body(()).ok()?;
    let mut parts = request.into_parts().0;
    Params::from_request_parts(&mut parts, &()).await.ok()
}

/// Good documents of every kind, which the strategies below touch.
fn good() -> [serde_json::Value; 4] {
    use serde_json::json;
    [
        json!({
            "agent_metadata": {"agent_id": "mine", "name": "Mine", "version": "1.0.0", "description": "d", "tags": ["a", "b"]},
            "agent_code": {"source_code": "ZGVmIGhhbmRsZXIoKTogcGFzcwo=", "entrypoint": "handler",
                "dependencies": {"python": ["requests>=2"], "system": ["graphviz"]},
                "configuration": {"memory_limit": 128, "timeout": 5, "concurrent_executions": 2, "warm_start": true, "warm_up": {"a": [1]}}},
            "deployment_config": {"environment": "dev", "auto_scaling": {"enabled": true, "min_instances": 0, "max_instances": 3, "target_utilization": 0.7},
                "security": {"environment_variables": {"A": "b"}, "egress": {"policy": "allowlist", "allow": ["a.example.org:443"]}}},
            "monitoring": {"metrics": {"log_level": "INFO", "custom_metrics": ["x.y"]}, "health_check": {"enabled": true, "path": "/health", "interval": 30}}
        }),
        json!({
            "execution_id": "mine-1",
            "input_data": {"parameters": {"a": [1, {"b": null}]}, "context": {"user_id": "u", "session_id": "s", "metadata": {"k": "v"}}},
            "execution_options": {"timeout": 5, "priority": "high", "async": true, "callback_url": "https://hooks.example.org/"}
        }),
        json!({"deployment_strategy": "canary", "canary_config": {"traffic_percentage": 10, "duration": 60}, "rollback_config": {"auto_rollback": true}}),
        json!({"rules": {"latency": {"enabled": true, "threshold": 100, "for_minutes": 5}}, "escalation": {"level_1": {"after_minutes": 0, "webhook_url": "https://hooks.example.org/"}}}),
    ]
}

/// What belongs nowhere.
fn odd() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::{Value, json};
    prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        "\\PC{0,80}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (1usize..120).prop_map(|deep| (0..deep).fold(json!({}), |below, _| json!([below]))),
        (0usize..600).prop_map(|many| json!(vec!["a"; many])),
        "\\PC{0,9}".prop_map(|name| json!({name: 1})),
    ]
}

/// A good document, in which members have become others, or bytes.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let swaps = prop::collection::vec((any::<prop::sample::Index>(), odd()), 0..3);
    let document = (0usize..4, swaps).prop_map(|(which, swaps)| {
        let mut document = good()[which].clone();
        for (at, odd) in swaps {
            let mut all = Vec::new();
            pointers(&document, "", &mut all);
            let at = &all[at.index(all.len())];
            if let Some(place) = document.pointer_mut(at) {
                *place = odd;
            }
        }
        document.to_string().into_bytes()
    });
    changed(document)
}

fn pointers(value: &serde_json::Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    if let Some(members) = value.as_object() {
        for (name, value) in members {
            let name = name.replace('~', "~0").replace('/', "~1");
            pointers(value, &format!("{at}/{name}"), all);
        }
    }
}

/// A row gives back what was put into it.
fn kept_as_it_is<T: Serialize + DeserializeOwned>(what: &T) -> Result<(), TestCaseError> {
    let text = serde_json::to_string(what).expect("JSON");
    let read: T = serde_json::from_str(&text)
        .map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
    let (one, other) = (serde_json::to_value(what), serde_json::to_value(&read));
    let same = same(&one.expect("JSON"), &other.expect("JSON"));
    prop_assert!(same, "{}", text);
    Ok(())
}

/// Numbers are read to within the last of their digits.
fn same(one: &serde_json::Value, other: &serde_json::Value) -> bool {
    use serde_json::Value;
    match (one, other) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || {
                let (a, b) = (a.as_f64().unwrap_or(0.0), b.as_f64().unwrap_or(1.0));
                (a - b).abs() <= a.abs() * 1e-14
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// Every fault of a request has its place, and words that say what is allowed, of a bounded length.
fn named(error: &Error) -> Result<(), TestCaseError> {
    prop_assert_eq!(error.kind, domain::Kind::Invalid);
    prop_assert!((1..=51).contains(&error.faults.len()), "{:?}", error.faults);
    for fault in &error.faults {
        let (place, what) = fault.split_once(": ").unwrap_or(("", fault));
        let more = fault.starts_with("and ") && fault.ends_with(" more");
        prop_assert!(
            more || (!place.is_empty() && place.len() < 600 && what.contains("allowed")),
            "{}",
            fault
        );
        prop_assert!(
            fault.len() < 2500 && !fault.contains(char::is_control),
            "{:?}",
            fault
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases())]

    /// What is read of a body can be kept and is read from there as the same; what is refused is named.
    #[test]
    fn bodies(body in body()) {
        match agents::request::read(&body, Limits::default()) {
            Ok(wanted) => {
                kept_as_it_is(&wanted.spec)?;
                prop_assert!(wanted.code.len() <= body.len() && wanted.variables.len() <= 200);
            }
            Err(error) => named(&error)?,
        }
        let openness = domain::webhook::Openness::default();
        match executions::request::read(&body, &somebody(), &openness) {
            Ok(asked) => {
                // As it was written: nothing of ours reads into it, so 1e9991 is no fault here; Python makes of it what it does.
                prop_assert!(serde_json::from_str::<std::collections::BTreeMap<String, &serde_json::value::RawValue>>(asked.input.get()).is_ok(), "{}", asked.input);
                prop_assert!(asked.timeout_s.is_none_or(|s| (1..=28800).contains(&s)));
                prop_assert!(asked.callback_url.is_none_or(|url| domain::webhook::target(&url, &openness).is_ok()));
                kept_as_it_is(&asked.caller)?;
            }
            Err(error) => named(&error)?,
        }
        if let Err(error) = agents::update_request::read(&body, Limits::default()) {
            named(&error)?;
        }
        match alerts::replace_policy::read(&body, &openness) {
            Ok(policy) => prop_assert!(policy.levels.windows(2).all(|two| two[0].after_minutes <= two[1].after_minutes)),
            Err(error) => named(&error)?,
        }
    }

    #[test]
    fn queries(query in query()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        if let Some(params) = runtime.block_on(params(&query)) {
            let page = params.page();
            prop_assert!(page.page >= 1 && (1..=200).contains(&page.limit) && page.offset() <= 10_000_000);
            params.flag("follow");
            let from = params.time("from");
            params.parsed::<domain::agent::Status>("status");
            params.parsed::<domain::execution::Status>("order");
            params.parsed::<domain::metrics::Granularity>("granularity");
            for text in params.many("tag") {
                prop_assert!(text.len() <= query.len() * 3);
            }
            params.one("sort");
            if params.check().is_ok() && from.is_some() {
                prop_assert!(query.contains("from="), "{query}");
            }
        }
    }

    #[test]
    fn headers(values in prop::collection::vec(value(), 0..3), name in "(authorization|last-event-id|x-request-id|traceparent|tracestate)") {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(axum::http::HeaderName::from_bytes(name.as_bytes()).expect("a name"), value);
        }
        let id = door::request_id(&headers);
        prop_assert!((1..=128).contains(&id.len()) && id.is_ascii(), "{id}");
        if let Ok(Some(id)) = sse::last_event_id(&headers) {
            let sent = headers["last-event-id"].to_str().expect("digits");
            prop_assert_eq!(sent.trim_start_matches(['+', '0']).parse().unwrap_or(0), id);
        }
        if let Ok(secret) = crate::keys::bearer(&headers) {
            prop_assert!(key::has_form(secret) && secret.starts_with("akc_") && secret.len() <= 512);
        }
        if let Some(context) = proto::trace::from_headers(&headers) {
            prop_assert!(context.parent.to_string().len() == 55);
        }
    }

    #[test]
    fn documents(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        "[\\[\\]{}:,\"0-9a-z\\\\u ]{0,200}".prop_map(String::into_bytes),
    ]) {
        match json::read(&bytes, &["input_data", "parameters"]) {
            Ok((value, _)) => prop_assert!(serde_json::to_vec(&value).is_ok()),
            Err(error) => {
                prop_assert_eq!(error.kind, domain::Kind::Invalid);
                let said = error.to_string();
                prop_assert!(said.len() < 1000 && !said.contains('\0'), "{}", said);
            }
        }
    }

    /// What an id is read as is printed as it was sent: one thing has one name.
    #[test]
    fn ids(text in prop_oneof![
        ".{0,80}",
        "(dep|key|alert|exec)_[0-9a-fA-F-]{28,40}",
        "[a-z][a-z0-9-]{0,70}",
    ]) {
        macro_rules! same {
            ($($kind:ty),*) => {$(
                if let Ok(id) = text.parse::<$kind>() {
                    prop_assert_eq!(id.to_string(), text.as_str());
                }
            )*};
        }
        same!(AgentId, AccountId, DeploymentId, ExecutionId, KeyId, AlertId);
        if let Ok(at) = Timestamp::parse(&text) {
            prop_assert!(Timestamp::parse(&at.to_string()) == Ok(at));
        }
    }

    #[test]
    fn secrets(text in prop_oneof![".{0,80}", "akc_[A-Za-z0-9+/=_-]{0,600}"]) {
        if key::has_form(&text) {
            prop_assert!(text.is_ascii() && (32..=512).contains(&text.len()), "{}", text);
        }
    }
}
