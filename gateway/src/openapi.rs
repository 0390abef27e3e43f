//! The OpenAPI 3.1 document: the handlers' own words, and for every line of the table what its door may answer.

mod parameters;

use crate::{
    error::{ErrorBody, ErrorDetails, ErrorEnvelope},
    router::{Access, ENDPOINTS, Endpoint, Handlers},
    sse::ServerSentEvent,
};
use std::{collections::BTreeSet, sync::LazyLock};
use utoipa::{
    OpenApi as _, ToSchema,
    openapi::{
        Components, Content, Info, LicenseBuilder, OpenApi, Ref, RefOr, ResponseBuilder,
        header::HeaderBuilder,
        path::{Operation, Paths},
        schema::{
            AdditionalProperties, AnyOfBuilder, ArrayBuilder, KnownFormat, ObjectBuilder, Schema,
            SchemaFormat, Type,
        },
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};

static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(build);

pub fn document() -> &'static OpenApi {
    &DOCUMENT
}

fn build() -> OpenApi {
    let mut document = Handlers::openapi();
    document.info = Info::new("Phalanx", env!("CARGO_PKG_VERSION"));
    document.info.description = Some(
        "Deploys, runs and watches AI agents written in Python. Times are RFC 3339 UTC with milliseconds; durations are milliseconds. \
         Every failure has the same envelope with a stable code. `x-request-id` and `traceparent` are accepted; `x-request-id` is always returned."
            .to_owned(),
    );
    document.info.license = Some(
        LicenseBuilder::new()
            .name("Apache-2.0")
            .identifier(Some("Apache-2.0"))
            .build(),
    );
    document.servers = None;
    let components = document.components.get_or_insert_with(Components::new);
    components
        .schemas
        .insert("ServerSentEvent".to_owned(), schema::<ServerSentEvent>());
    components
        .schemas
        .insert("ErrorEnvelope".to_owned(), schema::<ErrorEnvelope>());
    components
        .schemas
        .insert("ErrorBody".to_owned(), schema::<ErrorBody>());
    components
        .schemas
        .insert("ErrorDetails".to_owned(), schema::<ErrorDetails>());
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("akc_ + base64")
        .description(Some("A key as it was shown once when it was made."))
        .build();
    components.add_security_scheme("key", SecurityScheme::Http(bearer));
    let mut read = bodies(&document.paths);
    read.push("ServerSentEvent".to_owned());
    let requests = reached(components, read);
    for (name, schema) in &mut components.schemas {
        if requests.contains(name) {
            bound(schema);
        } else if name != "Series" {
            // A series that was not asked for is left out; in every other answer every field is there.
            require_all(schema);
        }
    }
    for endpoint in ENDPOINTS {
        if let Some(operation) = operation(&mut document, endpoint) {
            complete(operation, endpoint);
        }
    }
    document
}

fn schema<T: ToSchema>() -> RefOr<Schema> {
    T::schema()
}

/// What requests are described by.
fn bodies(paths: &Paths) -> Vec<String> {
    let operations = paths.paths.values().flat_map(|item| {
        [&item.get, &item.post, &item.put, &item.patch, &item.delete]
            .into_iter()
            .flatten()
    });
    let bodies = operations.filter_map(|operation| operation.request_body.as_ref());
    let texts = bodies.filter_map(|body| serde_json::to_string(body).ok());
    texts.flat_map(|text| named(&text)).collect()
}

/// The schemas that a piece of the document refers to.
fn named(text: &str) -> Vec<String> {
    let references = text.split("#/components/schemas/").skip(1);
    let names = references.filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

/// The schemas that these lead to, themselves included.
fn reached(components: &Components, mut next: Vec<String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    while let Some(name) = next.pop() {
        let text = components
            .schemas
            .get(&name)
            .and_then(|schema| serde_json::to_string(schema).ok())
            .unwrap_or_default();
        if found.insert(name) {
            next.extend(named(&text));
        }
    }
    found
}

/// A request's object has no other members than these, and what may be left out may be null.
fn bound(schema: &mut RefOr<Schema>) {
    let RefOr::T(Schema::Object(object)) = schema else {
        return;
    };
    if object.properties.is_empty() {
        return;
    }
    object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    for (name, property) in &mut object.properties {
        if !object.required.contains(name) {
            let null = ObjectBuilder::new().schema_type(Type::Null);
            let either = AnyOfBuilder::new().item(property.clone()).item(null);
            *property = RefOr::T(Schema::AnyOf(either.build()));
        }
    }
}

fn require_all(schema: &mut RefOr<Schema>) {
    match schema {
        RefOr::T(Schema::Object(object)) => {
            object.required = object.properties.keys().cloned().collect();
        }
        RefOr::T(Schema::AllOf(all)) => all.items.iter_mut().for_each(require_all),
        RefOr::T(_) | RefOr::Ref(_) => {}
    }
}

/// The document's operation of an endpoint.
pub fn operation<'a>(document: &'a mut OpenApi, endpoint: &Endpoint) -> Option<&'a mut Operation> {
    let item = document.paths.paths.get_mut(endpoint.path)?;
    match endpoint.method {
        "GET" => item.get.as_mut(),
        "POST" => item.post.as_mut(),
        "PUT" => item.put.as_mut(),
        "PATCH" => item.patch.as_mut(),
        "DELETE" => item.delete.as_mut(),
        _ => None,
    }
}

/// What every endpoint of its kind may answer; a handler's own words about a status stay.
fn complete(operation: &mut Operation, endpoint: &Endpoint) {
    let mut may = vec![
        (500, "A fault of ours (`INTERNAL`)"),
        (414, "The URL is longer than 8 KiB (`URI_TOO_LONG`)"),
        (
            431,
            "More than 100 header fields, or 64 KiB of them (`HEADERS_TOO_LARGE`)",
        ),
    ];
    match endpoint.access {
        Access::Open => {}
        Access::Key(any) | Access::KeyItself(any) | Access::KeyUnlessOpened(any) => {
            let words: Vec<&str> = any.iter().map(|one| one.as_str()).collect();
            let needs = format!("Needs a key with `{}`.", words.join("` or `"));
            let said = operation.description.take().unwrap_or_default();
            operation.description = Some(format!("{said}\n\n{needs}").trim().to_owned());
            operation.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
                "key",
                [],
            )]);
            may.push((401, "No valid key was sent (`UNAUTHENTICATED`)"));
            may.push((403, "The key lacks a permission (`FORBIDDEN`)"));
            may.push((429, "A limit of the key (`RATE_LIMITED`, with `Retry-After`, `RateLimit-Policy` and `RateLimit`)"));
            may.push((504, "It took too long (`TIMEOUT`)"));
            may.push((503, "A part of the installation is not there right now (`UNAVAILABLE`, with `Retry-After`)"));
        }
    }
    for parameter in operation.parameters.iter_mut().flatten() {
        if let RefOr::T(parameter) = parameter {
            parameters::say(endpoint.path, parameter);
        }
    }
    if endpoint.path.contains('{') {
        may.push((
            404,
            "There is no such thing in reach of this key (`NOT_FOUND`)",
        ));
    }
    if operation.request_body.is_some() {
        may.push((413, "The body is too large (`PAYLOAD_TOO_LARGE`)"));
        may.push((
            415,
            "The body is not declared as JSON (`UNSUPPORTED_MEDIA_TYPE`)",
        ));
    }
    let has_query = operation.parameters.iter().flatten().any(|one| matches!(one, RefOr::T(one) if one.parameter_in == utoipa::openapi::path::ParameterIn::Query));
    if has_query || operation.request_body.is_some() {
        may.push((
            400,
            "The request has faults, all of them listed (`VALIDATION_FAILED`)",
        ));
    }
    for (status, words) in may {
        operation
            .responses
            .responses
            .entry(status.to_string())
            .or_insert_with(|| RefOr::T(ResponseBuilder::new().description(words).build()));
    }
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else {
            continue;
        };
        let id = HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build();
        response
            .headers
            .insert("x-request-id".to_owned(), id.into());
        let failed = status.parse::<u16>().is_ok_and(|status| status >= 400);
        if failed {
            let envelope = Content::new(Some(Ref::from_schema_name("ErrorEnvelope")));
            response
                .content
                .insert("application/json".to_owned(), envelope.into());
        }
    }
}

/// A moment: RFC 3339 UTC with milliseconds.
pub fn time() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)))
}

pub fn maybe_time() -> ObjectBuilder {
    time().schema_type(utoipa::openapi::schema::SchemaType::from_iter([
        Type::String,
        Type::Null,
    ]))
}

/// Any JSON.
pub fn any() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
}

pub fn of_words(words: &'static [&'static str]) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words.iter().copied()))
}

/// One of these words, or null.
fn or_null(words: &'static [&'static str]) -> ObjectBuilder {
    use serde_json::Value;
    let words = words.iter().map(|word| Value::from(*word));
    ObjectBuilder::new()
        .schema_type(utoipa::openapi::schema::SchemaType::from_iter([
            Type::String,
            Type::Null,
        ]))
        .enum_values(Some(words.chain([Value::Null])))
}

pub fn maybe_phase() -> ObjectBuilder {
    or_null(domain::deployment::Phase::WORDS)
}

pub fn maybe_instance_start() -> ObjectBuilder {
    or_null(domain::waterfall::How::WORDS)
}

pub fn maybe_failure_code() -> ObjectBuilder {
    or_null(domain::execution::FailureCode::WORDS)
}

/// A list of at least one of these words.
fn list_of(words: &'static [&'static str]) -> ArrayBuilder {
    ArrayBuilder::new()
        .items(of_words(words))
        .min_items(Some(1))
        .max_items(Some(words.len()))
}

pub fn agent_ids() -> ArrayBuilder {
    ArrayBuilder::new()
        .items(parameters::agent_id())
        .min_items(Some(1))
        .max_items(Some(1000))
}

pub fn environments() -> ArrayBuilder {
    list_of(domain::agent::Environment::WORDS)
}

pub fn permissions() -> ArrayBuilder {
    list_of(domain::key::Permission::WORDS)
}

macro_rules! words {
    ($($name:ident: $of:ty;)*) => {$(
        pub fn $name() -> ObjectBuilder {
            of_words(<$of>::WORDS)
        }
    )*};
}

words! {
    environment: domain::agent::Environment;
    agent_status: domain::agent::Status;
    deployment_status: domain::deployment::Status;
    deployment_kind: domain::deployment::Kind;
    phase: domain::deployment::Phase;
    strategy: domain::rollout::Strategy;
    order: domain::rollout::Order;
    outcome: domain::verdict::Outcome;
    phase_status: domain::deployment::PhaseStatus;
    execution_status: domain::execution::Status;
    execution_mode: domain::execution::Mode;
    priority: domain::execution::Priority;
    failure_code: domain::execution::FailureCode;
    failure_phase: domain::execution::FailurePhase;
    health: domain::health::Health;
    isolation: domain::agent::Isolation;
    egress_policy: domain::egress::Policy;
    level: domain::log::Level;
    instance_state: domain::instance::State;
    granularity: domain::metrics::Granularity;
    alert_rule: domain::alert::Rule;
    alert_status: domain::alert::Status;
    webhook_status: domain::webhook::Status;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_and_the_document_agree() {
        let table: BTreeSet<String> = ENDPOINTS
            .iter()
            .map(|e| format!("{} {}", e.method, e.path))
            .collect();
        let json = serde_json::to_value(document()).expect("a document");
        let mut documented = BTreeSet::new();
        for (path, item) in json["paths"].as_object().expect("paths") {
            for method in item.as_object().expect("an item").keys() {
                documented.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        assert_eq!(table, documented);
        assert!(
            json["openapi"]
                .as_str()
                .is_some_and(|version| version.starts_with("3.1")),
            "{}",
            json["openapi"]
        );
    }

    #[test]
    fn every_operation_says_what_it_is_and_how_it_fails() {
        let mut document = document().clone();
        for endpoint in ENDPOINTS {
            let operation = operation(&mut document, endpoint).expect("documented");
            assert!(
                operation
                    .summary
                    .as_ref()
                    .is_some_and(|words| words.len() > 5),
                "{}",
                endpoint.path
            );
            let statuses: Vec<&String> = operation.responses.responses.keys().collect();
            assert!(
                statuses
                    .iter()
                    .any(|status| status.starts_with('2') || *status == "307"),
                "{} {statuses:?}",
                endpoint.path
            );
            if endpoint.access != Access::Open {
                for must in ["401", "403"] {
                    assert!(
                        operation.responses.responses.contains_key(must),
                        "{} {must}",
                        endpoint.path
                    );
                }
            }
        }
    }

    #[test]
    fn operation_ids_are_unique_and_references_lead_somewhere() {
        let json = serde_json::to_string(document()).expect("a document");
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        let schemas = value["components"]["schemas"].as_object().expect("schemas");
        for part in json.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a name");
            assert!(schemas.contains_key(name), "{name}");
        }
        let mut ids = BTreeSet::new();
        for item in value["paths"].as_object().expect("paths").values() {
            for operation in item.as_object().expect("an item").values() {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(ids.insert(id.to_owned()), "{id} twice");
            }
        }
    }
}
