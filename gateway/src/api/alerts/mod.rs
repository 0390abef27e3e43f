//! Alerts, who answered, and who is told: monitor raises them, callers say by what and take them.

pub mod acknowledge;
pub mod delete_policy;
pub mod list;
pub mod policy;
pub mod replace_policy;

use crate::{api::callbacks::AttemptDocument, app::App, error::Answer, openapi};
use domain::{Timestamp, alert, webhook};
use serde::Serialize;
use store::{
    alerts::{Kept, KeptPolicy},
    deliveries::{Attempt, Delivery},
};
use utoipa::ToSchema;

/// What an agent's figures raised.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlertDocument {
    alert_id: String,
    agent_id: String,
    #[schema(schema_with = openapi::alert_rule)]
    rule: alert::Rule,
    /// firing: nobody was told yet. escalated: the levels up to `level` were.
    #[schema(schema_with = openapi::alert_status)]
    status: alert::Status,
    /// The highest level that was told; 0: none.
    level: u8,
    /// That raised it.
    figures: FiguresDocument,
    #[schema(schema_with = openapi::time)]
    opened_at: Timestamp,
    #[schema(schema_with = openapi::maybe_time)]
    acknowledged_at: Option<Timestamp>,
    /// The key that did.
    acknowledged_by: Option<String>,
    note: Option<String>,
    #[schema(schema_with = openapi::maybe_time)]
    resolved_at: Option<Timestamp>,
    /// How often it came back soon after it was over.
    returns: u32,
    notifications: Vec<NotificationDocument>,
}

#[derive(Debug, Serialize, ToSchema)]
struct FiguresDocument {
    /// A share from 0 to 1; of latency the 95th percentile in milliseconds.
    value: f64,
    threshold: f64,
    /// Executions.
    samples: u64,
    /// Bad since then without a break, to the minute.
    #[schema(schema_with = openapi::time)]
    since: Timestamp,
}

/// A webhook to one receiver.
#[derive(Debug, Serialize, ToSchema)]
struct NotificationDocument {
    /// Its `webhook-id`, the same with every attempt.
    id: String,
    event: String,
    level: u8,
    url: String,
    /// disabled: the receiver answered 410, and is sent nothing until the policy is put again.
    #[schema(schema_with = openapi::webhook_status)]
    status: webhook::Status,
    #[schema(schema_with = openapi::maybe_time)]
    next_attempt_at: Option<Timestamp>,
    attempts: Vec<AttemptDocument>,
}

fn notification((of, attempts): (Delivery, Vec<Attempt>)) -> NotificationDocument {
    NotificationDocument {
        id: of.id.to_string(),
        event: of.event,
        level: of.level,
        url: of.url,
        status: of.status,
        next_attempt_at: of.due_at,
        attempts: attempts.into_iter().map(AttemptDocument::from).collect(),
    }
}

/// With what was sent of each. All are of one account.
async fn documents(app: &App, all: Vec<Kept>) -> Answer<Vec<AlertDocument>> {
    let Some(account) = all.first().map(|one| one.account.clone()) else {
        return Ok(Vec::new());
    };
    let ids: Vec<&str> = all.iter().map(|one| one.id.as_str()).collect();
    let mut sent = app.store.deliveries_of(&account, &ids).await?;
    let document = |one: Kept| AlertDocument {
        status: one.alert.status(),
        level: one.alert.level,
        figures: FiguresDocument {
            value: one.alert.figures.value,
            threshold: one.alert.figures.threshold,
            samples: one.alert.figures.samples,
            since: one.alert.figures.since,
        },
        opened_at: one.alert.opened_at,
        acknowledged_at: one.alert.acknowledged_at,
        acknowledged_by: one.acknowledged_by,
        note: one.note,
        resolved_at: one.alert.resolved_at,
        returns: one.alert.returns,
        notifications: sent
            .remove(one.id.as_str())
            .into_iter()
            .flatten()
            .map(notification)
            .collect(),
        alert_id: one.id.to_string(),
        agent_id: one.agent_id.to_string(),
        rule: one.rule,
    };
    Ok(all.into_iter().map(document).collect())
}

/// By what agents are judged, and who is told.
#[derive(Debug, Serialize, ToSchema)]
pub struct AlertPolicyDocument {
    /// Null: of every agent of the account that has none of its own.
    agent_id: Option<String>,
    /// Whose this is: the agent's own, the account's, or the default.
    #[schema(schema_with = source)]
    source: &'static str,
    rules: RulesDocument,
    escalation: EscalationDocument,
    /// Good for so long, an alert is over; bad again within twice that, it is the same one.
    resolve_after_minutes: f64,
    /// Signs what the receivers are sent, by Standard Webhooks. Shown once, when the policy is first put; else null.
    webhook_secret: Option<String>,
    #[schema(schema_with = openapi::maybe_time)]
    updated_at: Option<Timestamp>,
    updated_by: Option<String>,
}

fn source() -> utoipa::openapi::schema::ObjectBuilder {
    openapi::of_words(&["agent", "account", "default"])
}

#[derive(Debug, Serialize, ToSchema)]
struct RulesDocument {
    error_rate: RuleDocument,
    latency: RuleDocument,
    availability: RuleDocument,
    resource: RuleDocument,
}

#[derive(Debug, Serialize, ToSchema)]
struct RuleDocument {
    enabled: bool,
    threshold: f64,
    for_minutes: f64,
    minimum_samples: u64,
}

#[derive(Debug, Serialize, ToSchema)]
struct EscalationDocument {
    level_1: LevelDocument,
    level_2: LevelDocument,
    level_3: LevelDocument,
}

#[derive(Debug, Serialize, ToSchema)]
struct LevelDocument {
    after_minutes: f64,
    webhooks: Vec<String>,
}

fn policy_document(
    agent_id: Option<String>,
    kept: Option<KeptPolicy>,
    webhook_secret: Option<String>,
) -> AlertPolicyDocument {
    let rule = |limit: alert::Limit| RuleDocument {
        enabled: limit.enabled,
        threshold: limit.threshold,
        for_minutes: limit.for_minutes,
        minimum_samples: limit.minimum_samples,
    };
    let level = |level: alert::Level| LevelDocument {
        after_minutes: level.after_minutes,
        webhooks: level.webhooks,
    };
    let source = match &kept {
        None => "default",
        Some(kept) if kept.agent_id.is_some() => "agent",
        Some(_) => "account",
    };
    let (updated_at, updated_by) = match &kept {
        Some(kept) => (Some(kept.updated_at), Some(kept.updated_by.clone())),
        None => (None, None),
    };
    let policy = kept.map(|kept| kept.policy).unwrap_or_default();
    let [level_1, level_2, level_3] = policy.levels.map(level);
    AlertPolicyDocument {
        agent_id,
        source,
        rules: RulesDocument {
            error_rate: rule(policy.error_rate),
            latency: rule(policy.latency),
            availability: rule(policy.availability),
            resource: rule(policy.resource),
        },
        escalation: EscalationDocument {
            level_1,
            level_2,
            level_3,
        },
        resolve_after_minutes: policy.resolve_after_minutes,
        webhook_secret,
        updated_at,
        updated_by,
    }
}
