//! Keys of an account: made, shown, replaced and revoked by those that may manage keys.

pub mod change;
pub mod create;
pub mod list;
pub mod revoke;
pub mod rotate;

use crate::{api::limits::LimitsDocument, app::App, door::Who, error::Answer, key, openapi};
use domain::{
    Error, Timestamp,
    agent::Environment,
    id::{AgentId, KeyId},
    key::{GRACE, Permission, ROTATED_AFTER},
    limit::Limits,
};
use serde::Serialize;
use std::collections::BTreeSet;
use store::keys::{Kept, New};
use utoipa::ToSchema;

/// A key, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub struct KeyDocument {
    #[schema(value_type = String)]
    key_id: KeyId,
    name: String,
    #[schema(value_type = Vec<String>)]
    permissions: BTreeSet<Permission>,
    /// The only agents that it reaches; null: all of the account.
    #[schema(value_type = Option<Vec<String>>)]
    agents: Option<BTreeSet<AgentId>>,
    /// The only environments whose agents it reaches; null: all.
    #[schema(value_type = Option<Vec<String>>)]
    environments: Option<BTreeSet<Environment>>,
    limits: LimitsDocument,
    /// Whether it is to be replaced every 90 days.
    auto_rotation: bool,
    #[schema(schema_with = openapi::time)]
    created_at: Timestamp,
    /// From then on its answers carry `Deprecation`: rotate it.
    #[schema(schema_with = openapi::maybe_time)]
    rotate_at: Option<Timestamp>,
    #[schema(schema_with = openapi::maybe_time)]
    expires_at: Option<Timestamp>,
    /// To about ten seconds.
    #[schema(schema_with = openapi::maybe_time)]
    last_used_at: Option<Timestamp>,
    #[schema(value_type = Option<String>)]
    replaced_by: Option<KeyId>,
    #[schema(schema_with = openapi::maybe_time)]
    revoked_at: Option<Timestamp>,
}

impl From<Kept> for KeyDocument {
    fn from(kept: Kept) -> Self {
        Self {
            key_id: kept.id,
            name: kept.name,
            permissions: kept.permissions,
            agents: kept.agents,
            environments: kept.environments,
            limits: kept.limits.into(),
            auto_rotation: kept.auto_rotation,
            created_at: kept.created_at,
            rotate_at: kept.rotate_at,
            expires_at: kept.expires_at,
            last_used_at: kept.last_used_at,
            replaced_by: kept.replaced_by,
            revoked_at: kept.revoked_at,
        }
    }
}

/// A key that was just made. Its secret is shown here and never again.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewKeyDocument {
    api_key: String,
    #[serde(flatten)]
    key: KeyDocument,
}

/// A new key of the caller's account, and its secret.
struct Made {
    secret: String,
    new: New,
}

/// What a key is for.
struct Wanted {
    name: String,
    permissions: BTreeSet<Permission>,
    agents: Option<BTreeSet<AgentId>>,
    environments: Option<BTreeSet<Environment>>,
    limits: Limits,
    auto_rotation: bool,
}

fn made(app: &App, who: &Who, wanted: Wanted) -> Made {
    let now = app.store.now();
    let secret = key::mint(&app.config.region, &who.key.account);
    let rotate_at = wanted.auto_rotation.then(|| now + ROTATED_AFTER);
    let new = New {
        id: KeyId::from_uuid(uuid::Uuid::now_v7()),
        account: who.key.account.clone(),
        hash: app.store.hash_key(&secret),
        name: wanted.name,
        permissions: wanted.permissions,
        agents: wanted.agents,
        environments: wanted.environments,
        limits: wanted.limits,
        created_at: now,
        expires_at: rotate_at.map(|due| due + GRACE),
        rotate_at,
        auto_rotation: wanted.auto_rotation,
    };
    Made { secret, new }
}

impl From<Made> for NewKeyDocument {
    fn from(Made { secret, new }: Made) -> Self {
        Self {
            api_key: secret,
            key: KeyDocument::from(Kept {
                id: new.id,
                name: new.name,
                permissions: new.permissions,
                agents: new.agents,
                environments: new.environments,
                limits: new.limits,
                created_at: new.created_at,
                auto_rotation: new.auto_rotation,
                rotate_at: new.rotate_at,
                expires_at: new.expires_at,
                last_used_at: None,
                replaced_by: None,
                revoked_at: None,
            }),
        }
    }
}

/// The key that a path names, if it is the caller's account's.
async fn named(app: &App, who: &Who, id: &str) -> Answer<Kept> {
    let unknown = || Error::not_found(format!("key {}", domain::text::quote(id)));
    let parsed: KeyId = id.parse().map_err(|_| unknown())?;
    let kept = app.store.key_named(&who.key.account, &parsed).await?;
    Ok(kept.ok_or_else(unknown)?)
}

/// Every gateway reads the account's keys anew.
pub async fn changed(app: &App, account: &domain::id::AccountId) {
    app.keys.forget_account(account);
    let changed = proto::v1::KeysChanged {
        account: account.to_string(),
    };
    let event = proto::v1::event::Event::KeysChanged(changed);
    if let Err(error) = app.bus.tell(account, event).await {
        tracing::debug!(error = ?error, "nobody was told; what others remember ages by itself");
    }
}
