//! GET /agents/{id}/deployments/{deployment_id} as events. The row is where they come from, whichever process drives the deployment
//! and whichever gateway is asked: each event's id is its place in what the row tells, so a reader that comes back misses nothing and
//! hears nothing twice. Rollouts are shown as they stand: without an id, whenever they have changed.

use super::rollout::RolloutDocument;
use crate::{app::App, openapi, sse};
use axum::response::Response;
use bytes::Bytes;
use domain::{
    Result, Timestamp,
    deployment::{Phase, PhaseRecord, PhaseStatus, Status},
    rollout::Rollout,
};
use serde::Serialize;
use std::{collections::VecDeque, time::Duration};
use store::deployments::Deployment;
use utoipa::ToSchema;

/// Between two looks at the row: deployer writes what a phase says as often.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a database that is away is waited for.
const AWAY: Duration = Duration::from_secs(30);
/// Places of one phase.
const OF_PHASE: u64 = 1 << 32;

/// A phase begins or ends.
#[derive(Debug, Serialize, ToSchema)]
struct PhaseEvent {
    #[schema(schema_with = openapi::phase)]
    name: Phase,
    #[schema(schema_with = openapi::phase_status)]
    status: PhaseStatus,
    #[schema(schema_with = openapi::maybe_time)]
    started_at: Option<Timestamp>,
    #[schema(schema_with = openapi::maybe_time)]
    completed_at: Option<Timestamp>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PhaseLog<'a> {
    #[schema(schema_with = openapi::phase)]
    phase: Phase,
    message: &'a str,
}

#[derive(Debug, Serialize, ToSchema)]
struct EndEvent<'a> {
    #[schema(schema_with = openapi::deployment_status)]
    status: Status,
    reason: Option<&'a str>,
}

pub fn follow(app: App, row: Deployment, after: Option<u64>) -> Response {
    let mut follow = Follow {
        app,
        place: after,
        rollout: None,
        ready: VecDeque::new(),
        over: false,
        row,
    };
    follow.tell();
    sse::response(follow)
}

/// Holds at most what one row tells, and no task: whoever goes away leaves nothing.
struct Follow {
    app: App,
    row: Deployment,
    /// Of the last event that was made.
    place: Option<u64>,
    /// As it was told last.
    rollout: Option<Rollout>,
    ready: VecDeque<Bytes>,
    over: bool,
}

impl Follow {
    /// Everything that the row tells and that has not been told.
    fn tell(&mut self) {
        let state = self.row.state.clone();
        for (at, phase) in (0..).zip(&state.phases) {
            self.phase(at * OF_PHASE, phase);
        }
        if self.rollout.as_ref() != Some(&state.rollout) {
            let document = RolloutDocument::from(state.rollout.clone());
            self.ready.push_back(sse::event("rollout", None, &document));
            self.rollout = Some(state.rollout);
        }
        if state.status.is_terminal() {
            let end = EndEvent {
                status: state.status,
                reason: state.reason.as_deref(),
            };
            self.once(state.phases.len() as u64 * OF_PHASE, "end", &end);
            self.over = true;
        }
    }

    fn phase(&mut self, first: u64, phase: &PhaseRecord) {
        if phase.status == PhaseStatus::Pending {
            return;
        }
        let event = |status, completed_at| PhaseEvent {
            name: phase.name,
            status,
            started_at: phase.started_at,
            completed_at,
        };
        self.once(first, "phase", &event(PhaseStatus::Running, None));
        for (place, message) in phase.lines() {
            let place = first + place;
            self.lost(first, place);
            let line = PhaseLog {
                phase: phase.name,
                message,
            };
            self.once(place, "log", &line);
        }
        if phase.status != PhaseStatus::Running {
            let end = event(phase.status, phase.completed_at);
            self.once(first + OF_PHASE - 1, "phase", &end);
        }
    }

    fn once<T: Serialize>(&mut self, place: u64, name: &str, data: &T) {
        if self.place.is_none_or(|last| last < place) {
            self.place = Some(place);
            let id = place.to_string();
            self.ready.push_back(sse::event(name, Some(&id), data));
        }
    }

    /// Lines that the row has dropped before they were told.
    fn lost(&mut self, first: u64, place: u64) {
        let next = self.place.map_or(0, |last| last + 1).max(first);
        if place > next {
            let lost = serde_json::json!({"events": place - next});
            self.ready.push_back(sse::event("lost", None, &lost));
        }
    }

    /// The row once it has changed, or the reason why that is not known.
    async fn changed(&self) -> Result<Deployment> {
        let mut away = Duration::ZERO;
        loop {
            tokio::time::sleep(PAUSE).await;
            let (row, store) = (&self.row, &self.app.store);
            match store.deployment_after(&row.account, &row.id, row.rev).await {
                Ok(Some(row)) => return Ok(row),
                Ok(None) => away = Duration::ZERO,
                Err(error) if error.kind.is_passing() && away < AWAY => away += PAUSE,
                Err(error) => return Err(error),
            }
        }
    }
}

impl sse::Source for Follow {
    async fn next(&mut self) -> Option<Bytes> {
        let closing = self.app.closing.clone();
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            tokio::select! {
                row = self.changed() => self.row = row.ok()?,
                () = closing.cancelled() => return None,
            }
            self.tell();
        }
    }
}
