//! The spans of a deployment and its phases. None is made where nothing is exported.

use crate::drive::Driver;
use domain::{
    Error,
    deployment::{Phase, State},
    id::DeploymentId,
    trace::Context,
};
use proto::trace::{TARGET, follow};
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};
use store::deployments::Deployment;
use tracing::{Span, field::Empty};

/// Which trace a nudge belonged to, while the nudge is in hand: as many as deliveries may be. A deployment that a sweep took
/// up begins a trace of its own.
#[derive(Default)]
pub(crate) struct Traces(Mutex<HashMap<DeploymentId, Context>>);

impl Traces {
    fn known(&self) -> MutexGuard<'_, HashMap<DeploymentId, Context>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn note(&self, id: &DeploymentId, trace: Context) {
        self.known().insert(id.clone(), trace);
    }
}

/// Forgets when the nudge has been dealt with.
pub(crate) struct Traced(pub Driver, pub DeploymentId);

impl Drop for Traced {
    fn drop(&mut self) {
        self.0.traces().known().remove(&self.1);
    }
}

pub(crate) fn deployment(traces: &Traces, row: &Deployment) -> Span {
    let span = tracing::info_span!(target: TARGET, parent: None, "deploy", otel.name = format!("deploy {}", row.agent_id),
        otel.kind = "consumer", otel.status_code = Empty, otel.status_description = Empty,
        messaging.operation.type = "process", messaging.operation.name = "process", messaging.destination.name = "deploy",
        phalanx.deployment.id = row.id.as_str(), phalanx.deployment.status = Empty, gen_ai.agent.id = row.agent_id.as_str());
    if !span.is_disabled() {
        follow(&span, traces.known().get(&row.id));
    }
    span
}

pub(crate) fn deployed(span: &Span, state: &State) {
    if span.is_disabled() {
        return;
    }
    span.record("phalanx.deployment.status", state.status.as_str());
    if let Some(reason) = state.reason.as_deref() {
        span.record("otel.status_code", "ERROR");
        span.record("otel.status_description", reason);
    }
}

pub(crate) fn phase(phase: Phase) -> Span {
    tracing::info_span!(target: TARGET, "phase", otel.name = phase.as_str(), otel.status_code = Empty,
        otel.status_description = Empty, phalanx.deployment.phase = phase.as_str())
}

pub(crate) fn failed(span: &Span, error: &Error) {
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", error.message.as_str());
}
