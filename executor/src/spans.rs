//! The spans of an execution: what its message asked for, and each attempt in OpenTelemetry's words for agents. None is made
//! where nothing is exported, nor for a caller that wants no trace.

use crate::{call::Attempted, version::Version};
use bus::{Bus, Headers};
use domain::execution::{Failure, Status};
use proto::{convert::Execute, trace::TARGET};
use tracing::{Span, field::Empty};

/// Around an execution as its message brought it. What the sender said of its own span is what the execution follows now.
pub fn taken(
    bus: &Bus,
    destination: &'static str,
    headers: &Headers,
    execute: &mut Execute,
) -> Span {
    if let Some(sender) = headers.trace() {
        execute.caller.follow(sender);
    }
    if !execute.options.trace {
        return Span::none();
    }
    bus.taking(destination, headers, execute.caller.trace())
}

/// Around one attempt.
pub fn attempt(version: &Version, execute: &Execute, attempt: u32) -> Span {
    if !execute.options.trace {
        return Span::none();
    }
    let spec = &version.spec;
    tracing::info_span!(target: TARGET, "invoke_agent", otel.name = format!("invoke_agent {}", spec.name),
        otel.kind = "client", otel.status_code = Empty, otel.status_description = Empty, error.type = Empty,
        gen_ai.operation.name = "invoke_agent", gen_ai.provider.name = "phalanx", gen_ai.agent.id = spec.agent_id.as_str(),
        gen_ai.agent.name = spec.name, gen_ai.agent.version = %spec.version,
        gen_ai.conversation.id = execute.caller.session_id.as_deref(), gen_ai.usage.input_tokens = Empty,
        gen_ai.usage.output_tokens = Empty, gen_ai.usage.total_tokens = Empty,
        phalanx.execution.id = execute.execution_id.as_str(), phalanx.execution.attempt = attempt,
        phalanx.execution.mode = execute.options.mode.as_str(), phalanx.execution.status = Empty,
        phalanx.instance.id = Empty, phalanx.version.id = version.id.as_str())
}

pub fn attempted(span: &Span, attempted: &Attempted) {
    if span.is_disabled() {
        return;
    }
    let failure = match &attempted.ending {
        domain::execution::Ending::Failed(failure) => Some(failure),
        domain::execution::Ending::Completed(_) => None,
    };
    ended(span, attempted.ending.status(), failure);
    if let Some(instance) = &attempted.instance_id {
        span.record("phalanx.instance.id", instance.as_str());
    }
    let usage = &attempted.usage;
    if let Some(tokens) = usage.tokens {
        span.record("gen_ai.usage.total_tokens", tokens);
    }
    for (metric, field) in [
        ("input_tokens", "gen_ai.usage.input_tokens"),
        ("output_tokens", "gen_ai.usage.output_tokens"),
    ] {
        if let Some(tokens) = usage.metrics.get(metric) {
            span.record(field, *tokens as i64);
        }
    }
}

fn ended(span: &Span, status: Status, failure: Option<&Failure>) {
    span.record("phalanx.execution.status", status.as_str());
    let Some(failure) = failure else { return };
    span.record("otel.status_code", "ERROR");
    span.record("otel.status_description", failure.message.as_str());
    let kind = failure.exception_type.as_deref();
    span.record("error.type", kind.unwrap_or(failure.code.as_str()));
}
