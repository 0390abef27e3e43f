//! PUT /alerts/policy.

use super::{AlertPolicyDocument, policy::whose, policy_document};
use crate::{
    app::App,
    body,
    door::Who,
    error::Answer,
    fields::{Faults, Fields},
    json, key,
    params::Params,
    respond,
};
use axum::{
    extract::{Request, State},
    response::Response,
};
use domain::{
    Result,
    alert::{Level, Limit, MOST_MINUTES, Policy},
    webhook::{self, Openness},
};
use store::{Place, alerts::KeptPolicy};
use utoipa::ToSchema;

const MOST_BYTES: usize = 256 * 1024;
const MOST_WEBHOOKS: usize = 10;
/// A day.
const LONGEST: f64 = 1440.0;

/// What is left out is as by default. Minutes are numbers: 0.5 is half a minute.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
pub struct AlertPolicyRequest {
    #[schema(required = false)]
    rules: RulesRequest,
    #[schema(required = false)]
    escalation: EscalationRequest,
    /// 0 to 60, 5 by default.
    #[schema(required = false)]
    resolve_after_minutes: f64,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
struct RulesRequest {
    /// Failed and timed out of all: over 0.01 for 5 minutes.
    #[schema(required = false)]
    error_rate: RuleRequest,
    /// 95th percentile in milliseconds: over 2000 for 3 minutes.
    #[schema(required = false)]
    latency: RuleRequest,
    /// Minutes in which an execution was completed, of those in which any ended: under 0.99 of the last 60.
    #[schema(required = false)]
    availability: RuleRequest,
    /// The largest peak of memory as a share of the limit: over 0.8 for 3 minutes.
    #[schema(required = false)]
    resource: RuleRequest,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
struct RuleRequest {
    #[schema(required = false)]
    enabled: bool,
    #[schema(required = false)]
    threshold: f64,
    /// Without a break, 0 to 60; of availability: counted over so long.
    #[schema(required = false)]
    for_minutes: f64,
    /// Of fewer executions nothing is said: 10 by default, of resource 1.
    #[schema(required = false)]
    minimum_samples: u32,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
struct EscalationRequest {
    #[schema(required = false)]
    level_1: LevelRequest,
    #[schema(required = false)]
    level_2: LevelRequest,
    #[schema(required = false)]
    level_3: LevelRequest,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema; the body is read by its fields")]
struct LevelRequest {
    /// Unacknowledged for so long: 5, 15 and 30 by default, 0 to 1440, none before the level below it.
    #[schema(required = false)]
    after_minutes: f64,
    /// https, 10 at most.
    #[schema(required = false)]
    webhooks: Vec<String>,
}

/// Replace an alert policy
///
/// Without `agent_id` that of every agent of the account that has none of its own. Each level is told once, when nobody has
/// acknowledged for so long, and once more when it is over: `POST` to each of its webhooks, signed by Standard Webhooks, sent again
/// for about three days until it is taken. The signing secret is shown by the first `PUT` and stays.
#[utoipa::path(put, path = "/api/v1/alerts/policy", operation_id = "replace_alert_policy", tag = "alerts",
    params(("agent_id" = Option<String>, Query)), request_body = AlertPolicyRequest,
    responses((status = 200, body = AlertPolicyDocument),
        (status = 404, description = "There is no such agent in reach of this key (`NOT_FOUND`)")))]
pub async fn replace_policy(
    State(app): State<App>,
    who: Who,
    params: Params,
    request: Request,
) -> Answer<Response> {
    let named = params.one("agent_id").map(str::to_owned);
    params.check()?;
    let agent_id = whose(&app, &who, named).await?;
    let bytes = body::read(request, MOST_BYTES).await?;
    let policy = read(&bytes, &app.config.webhooks)?;
    let (id, secret) = (
        format!("alert_policy_{}", uuid::Uuid::now_v7().as_simple()),
        key::webhook_secret(),
    );
    let kept = KeptPolicy {
        account: who.key.account.clone(),
        agent_id,
        secret: app.store.seal(
            &Place::alert_policy(&who.key.account, &id),
            secret.as_bytes(),
        )?,
        id,
        policy,
        updated_at: app.store.now(),
        updated_by: who.key.id.to_string(),
    };
    let new = app.store.keep_alert_policy(&kept).await?;
    let agent_id = kept.agent_id.as_ref().map(ToString::to_string);
    Ok(respond::ok(&policy_document(
        agent_id,
        Some(kept),
        new.then_some(secret),
    )))
}

pub fn read(bytes: &[u8], openness: &Openness) -> Result<Policy> {
    let (document, _) = json::read(bytes, &[])?;
    let (faults, mut policy) = (Faults::default(), Policy::default());
    {
        let fields = Fields::of(&document, &faults);
        let rules = fields.object("rules");
        let share = ("a number from 0 to 1", 1.0);
        limit(&rules.object("error_rate"), &mut policy.error_rate, share);
        let ms = ("a number of milliseconds from 0 to 86400000", 86_400_000.0);
        limit(&rules.object("latency"), &mut policy.latency, ms);
        limit(
            &rules.object("availability"),
            &mut policy.availability,
            share,
        );
        limit(&rules.object("resource"), &mut policy.resource, share);
        let escalation = fields.object("escalation");
        let mut before = 0.0;
        for (name, of) in ["level_1", "level_2", "level_3"]
            .into_iter()
            .zip(&mut policy.levels)
        {
            let fields = escalation.object(name);
            level(&fields, of, openness);
            if of.after_minutes < before {
                let what = format!(
                    "is {}; allowed is {before}, the time of the level below, or more",
                    of.after_minutes
                );
                fields.fault("after_minutes", what);
            }
            before = of.after_minutes;
        }
        if let Some(minutes) = minutes(&fields, "resolve_after_minutes", MOST_MINUTES) {
            policy.resolve_after_minutes = minutes;
        }
    }
    faults.check()?;
    Ok(policy)
}

fn minutes(fields: &Fields<'_>, name: &'static str, most: f64) -> Option<f64> {
    let allowed = format!("a number of minutes from 0 to {most}");
    fields.number(name, &allowed, |n| (0.0..=most).contains(&n))
}

fn limit(fields: &Fields<'_>, limit: &mut Limit, (allowed, most): (&str, f64)) {
    if let Some(enabled) = fields.flag("enabled") {
        limit.enabled = enabled;
    }
    if let Some(threshold) = fields.number("threshold", allowed, |n| (0.0..=most).contains(&n)) {
        limit.threshold = threshold;
    }
    if let Some(minutes) = minutes(fields, "for_minutes", MOST_MINUTES) {
        limit.for_minutes = minutes;
    }
    if let Some(samples) = fields.integer("minimum_samples", 1..=1_000_000) {
        limit.minimum_samples = samples.into();
    }
}

fn level(fields: &Fields<'_>, level: &mut Level, openness: &Openness) {
    if let Some(minutes) = minutes(fields, "after_minutes", LONGEST) {
        level.after_minutes = minutes;
    }
    let mut webhooks = fields.texts("webhooks", MOST_WEBHOOKS, |url| {
        webhook::target(url, openness).map(|_| url.to_owned())
    });
    webhooks.sort();
    webhooks.dedup();
    level.webhooks = webhooks;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn walked(sent: &Value) -> Result<Policy> {
        read(sent.to_string().as_bytes(), &Openness::default())
    }

    #[test]
    fn what_is_left_out_is_as_by_default() {
        assert_eq!(walked(&json!({})).expect("a policy"), Policy::default());
        let sent = json!({"rules": {"latency": {"threshold": 500, "for_minutes": 0.5}, "resource": {"enabled": false}},
            "escalation": {"level_2": {"after_minutes": 10, "webhooks": ["https://b.example/", "https://a.example/", "https://b.example/"]}}});
        let mut expected = Policy::default();
        (expected.latency.threshold, expected.latency.for_minutes) = (500.0, 0.5);
        expected.resource.enabled = false;
        expected.levels[1].after_minutes = 10.0;
        expected.levels[1].webhooks = ["https://a.example/", "https://b.example/"]
            .map(String::from)
            .into();
        assert_eq!(walked(&sent).expect("a policy"), expected);
    }

    #[test]
    fn every_fault_is_named() {
        let sent = json!({"rules": {"error_rate": {"threshold": 2, "minimum_samples": 0}, "latency": {"for_minutes": 61}, "cpu": {}},
            "escalation": {"level_1": {"webhooks": ["http://a.example/", "https://127.0.0.1/"]}, "level_2": {"after_minutes": 1}},
            "resolve_after_minutes": -1});
        let faults = walked(&sent).expect_err("faults").faults;
        for path in [
            "rules.error_rate.threshold: ",
            "rules.error_rate.minimum_samples: ",
            "rules.latency.for_minutes: ",
            "rules.cpu: ",
            "escalation.level_1.webhooks[0]: ",
            "escalation.level_1.webhooks[1]: ",
            "escalation.level_2.after_minutes: ",
            "resolve_after_minutes: ",
        ] {
            assert!(
                faults.iter().any(|fault| fault.starts_with(path)),
                "{path} in {faults:#?}"
            );
        }
        assert_eq!(faults.len(), 8, "{faults:#?}");
    }
}
