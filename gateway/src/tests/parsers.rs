//! Every parser of bytes that anybody may send: whatever comes, it is read or refused, never a panic, and what is refused is named.

use crate::{door, json, key, params::Params, sse};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderValue, Request},
};
use domain::{
    Timestamp,
    id::{AccountId, AgentId, AlertId, DeploymentId, ExecutionId, KeyId},
};
use proptest::prelude::*;

/// More of them, once in a while: `PHALANX_TEST_CASES=1000000`.
fn cases() -> ProptestConfig {
    let told = std::env::var("PHALANX_TEST_CASES").ok();
    let cases = told.and_then(|cases| cases.parse().ok()).unwrap_or(256);
    ProptestConfig::with_cases(cases)
}

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

proptest! {
    #![proptest_config(cases())]

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
