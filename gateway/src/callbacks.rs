//! Callbacks of executions: once one has ended whose caller wants to be told, its status document becomes a delivery, which monitor sends.
//!
//! The row owes a callback from its acceptance on, and any gateway may pay it, in one transaction: so whoever dies when, there is one
//! delivery. Nothing depends on being nudged.

use crate::{
    api::executions::{document::ExecutionStatus, repeat::lines, version_name},
    app::App,
    error::Answer,
};
use domain::{
    Error, Result,
    id::{AccountId, DeliveryId},
};
use proto::v1::{DeliveryDue, event::Event};
use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};
use store::{
    deliveries::{New, Owed},
    executions::{Execution, Key},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const EVERY: Duration = Duration::from_secs(1);
/// Looked for at a time.
const SOME: u32 = 100;
/// One that cannot be kept is tried again after so long: as something was away, or as its row cannot be read.
const SOON: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_secs(60);
/// Of those, so many are remembered.
const MOST: usize = 10_000;
/// So many times something was away: the others can wait.
const ENOUGH: usize = 10;

pub async fn run(app: App, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut passed_over = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = app.owed.notified() => {}
            _ = tick.tick() => {}
        }
        passed_over.retain(|_, until| *until > Instant::now());
        if let Err(error) = pay(&app, &mut passed_over).await {
            tracing::warn!(error = ?error, "callbacks could not be kept; it is tried again");
        }
    }
}

/// Everything that is owed by now, past those that cannot be kept.
async fn pay(app: &App, passed_over: &mut HashMap<Key, Instant>) -> Result<()> {
    let (mut after, mut failures) = (None, 0);
    loop {
        let owed = app.store.owed_callbacks(after.as_ref(), SOME).await?;
        let mut accounts = BTreeSet::new();
        for Owed { key, .. } in &owed {
            if passed_over.contains_key(key) {
                continue;
            }
            match keep(app, key).await {
                Ok(true) => {
                    accounts.insert(key.account.clone());
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(execution.id = %key.id, agent.id = %key.agent_id, error = ?error, "a callback could not be kept; it is tried again");
                    let passing = error.kind.is_passing();
                    let again = if passing { SOON } else { LATER };
                    if passed_over.len() < MOST {
                        passed_over.insert(key.clone(), Instant::now() + again);
                    }
                    failures += usize::from(passing);
                    if failures >= ENOUGH {
                        return Err(error);
                    }
                }
            }
        }
        for account in accounts {
            due(app, &account).await;
        }
        if owed.len() < SOME as usize {
            return Ok(());
        }
        after = owed.last().cloned();
    }
}

async fn keep(app: &App, key: &Key) -> Result<bool> {
    let Some(row) = app.store.execution(key).await? else {
        return Ok(false);
    };
    let new = callback(app, &row).await?;
    app.store.keep_callback(key, new.as_ref()).await
}

/// `None`: nobody can sign it, its agent is no more in the rows.
async fn callback(app: &App, row: &Execution) -> Result<Option<New>> {
    let Some(url) = row.options.callback_url.clone() else {
        return Ok(None);
    };
    let key = &row.key;
    let Some(version) = app.store.version(&key.account, &row.version_id).await? else {
        return Ok(None);
    };
    Ok(Some(New {
        id: DeliveryId::from_uuid(uuid::Uuid::now_v7()),
        account: key.account.clone(),
        // An id may be used again, once its execution is not kept any more.
        subject: format!(
            "{}/{}/{}/{}",
            key.account, key.agent_id, key.id, row.accepted_at.0
        ),
        callback: Some((key.agent_id.clone(), key.id.to_string())),
        event: format!("execution.{}", row.status),
        level: 0,
        round: 0,
        url,
        body: body(app, row).await.map_err(|refusal| {
            Error::new(refusal.kind(), "the status document could not be made")
        })?,
        secret: Vec::new(),
        sealed_for: version.incarnation,
        created_at: app.store.now(),
    }))
}

/// What `GET /agents/{id}/executions/{eid}` answers.
async fn body(app: &App, row: &Execution) -> Answer<String> {
    let version = version_name(app, &row.key.account, &row.version_id).await?;
    let logs = lines(app, &row.key).await?;
    let document = ExecutionStatus::of(row, version.as_deref(), logs.iter());
    let text = serde_json::to_string(&document);
    Ok(text.map_err(|error| Error::internal("a document cannot be written").because(error))?)
}

/// Says to monitors that there is something to send.
pub async fn due(app: &App, account: &AccountId) {
    let due = DeliveryDue {
        account: account.to_string(),
    };
    if let Err(error) = app.bus.tell(account, Event::DeliveryDue(due)).await {
        tracing::debug!(error = ?error, "monitors were not told of a webhook; they find its row");
    }
}
