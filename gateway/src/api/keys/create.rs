//! POST /keys.

use super::{NewKeyDocument, Wanted, made};
use crate::{
    api::limits::{self, LimitsRequest},
    app::App,
    audit::Subject,
    body,
    door::Who,
    error::Answer,
    fields::{Faults, Fields},
    json, openapi, respond,
};
use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use domain::{
    Result,
    agent::Environment,
    key::{Grant, Permission},
    text::{self, quote},
};
use utoipa::ToSchema;

/// A key is a few lines.
const MOST_BYTES: usize = 256 * 1024;
const MOST_AGENTS: usize = 1000;

/// A key to be made.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
pub struct CreateKeyRequest {
    /// 1 to 100 characters, for the reader of the list.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// At least one of `agent:deploy`, `agent:update`, `agent:delete`, `agent:execute`, `agent:monitor`, `system:health`, `key:manage`; only those
    /// that the calling key has itself.
    #[schema(schema_with = openapi::permissions)]
    permissions: Vec<Permission>,
    /// The only agents that it shall reach; left out: all of the account.
    #[schema(required = false, schema_with = openapi::agent_ids)]
    agents: Vec<String>,
    /// The only environments whose agents it shall reach; left out: all.
    #[schema(required = false, schema_with = openapi::environments)]
    environments: Vec<Environment>,
    /// How often it may ask; left out: as often as it likes.
    #[schema(required = false)]
    limits: LimitsRequest,
    /// True: due after 90 days, when it may replace itself (its answers carry `Deprecation`, `Sunset` and a `Link` to do so), and over 30
    /// days later. False: it lasts until it is revoked.
    #[schema(required = false, default = true)]
    auto_rotation: bool,
}

/// Create a key
///
/// The secret is in this answer and nowhere else. A key can give only what it has itself.
#[utoipa::path(post, path = "/api/v1/keys", operation_id = "create_key", tag = "keys",
    request_body = CreateKeyRequest, responses((status = 201, body = NewKeyDocument)))]
pub async fn create(State(app): State<App>, who: Who, request: Request) -> Answer<Response> {
    let bytes = body::read(request, MOST_BYTES).await?;
    let wanted = read(&bytes)?;
    who.key.may_grant(Grant {
        permissions: &wanted.permissions,
        agents: wanted.agents.as_ref(),
        environments: wanted.environments.as_ref(),
        limits: &wanted.limits,
    })?;
    let made = made(&app, &who, wanted);
    app.store.insert_key(&made.new).await?;
    let subject = Subject(format!("keys/{}", made.new.id));
    let mut response = respond::json(StatusCode::CREATED, &NewKeyDocument::from(made));
    response.extensions_mut().insert(subject);
    Ok(response)
}

fn read(bytes: &[u8]) -> Result<Wanted> {
    let (document, _) = json::read(bytes, &[])?;
    let faults = Faults::default();
    let fields = Fields::of(&document, &faults);
    let name = fields.needed_text("name").and_then(|name| {
        let line = text::line(name, 100);
        line.map_err(|what| fields.fault("name", what)).ok()?;
        Some(name.to_owned())
    });
    let permission = |word: &str| word.parse::<Permission>();
    let permissions = fields.texts("permissions", Permission::ALL.len(), permission);
    if permissions.is_empty() {
        let allowed = Permission::WORDS.join(", ");
        fields.fault(
            "permissions",
            format_args!("names none; allowed are {allowed}"),
        );
    }
    let agents = fields.value("agents").map(|_| {
        let agents = fields.texts("agents", MOST_AGENTS, |id| {
            id.parse()
                .map_err(|what: String| format!("{} {what}", quote(id)))
        });
        if agents.is_empty() {
            fields.fault(
                "agents",
                "names none; allowed is at least one, or leave it out",
            );
        }
        agents.into_iter().collect()
    });
    let environments = fields.value("environments").map(|_| {
        let all = fields.texts("environments", Environment::ALL.len(), str::parse);
        if all.is_empty() {
            let allowed = Environment::WORDS.join(", ");
            fields.fault(
                "environments",
                format_args!("names none; allowed is at least one of {allowed}, or leave it out"),
            );
        }
        all.into_iter().collect()
    });
    let limits = limits::read(&fields.object("limits"));
    let auto_rotation = fields.flag("auto_rotation").unwrap_or(true);
    drop(fields);
    faults.check()?;
    Ok(Wanted {
        name: name.unwrap_or_default(),
        permissions: permissions.into_iter().collect(),
        agents,
        environments,
        limits,
        auto_rotation,
    })
}
