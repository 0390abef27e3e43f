//! Trace context in the headers of messages, and the spans of sending and of taking.

use crate::{Bus, Headers, Message};
use domain::trace::Context;
use proto::trace::{TARGET, context, follow};
use tracing::Span;

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

impl Headers {
    /// The span that sent this, where there was one.
    pub fn trace(&self) -> Option<Context> {
        Context::read(self.get(PARENT), self.get(STATE))
    }
}

impl Message {
    /// Tells the taker which span sends it.
    pub(crate) fn sent_by(mut self, span: &Span) -> Self {
        if let Some(context) = context(span) {
            self.headers.set(PARENT, context.parent.to_string());
            if let Some(state) = context.state {
                self.headers.set(STATE, state);
            }
        }
        self
    }
}

impl Bus {
    fn system(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Nats(_) => "nats",
        }
    }

    /// Around the sending of a message to subjects of one kind. `operation` is this bus's word for it.
    pub(crate) fn sending(&self, operation: &'static str, destination: &'static str) -> Span {
        tracing::info_span!(target: TARGET, "send", otel.name = format!("{operation} {destination}"), otel.kind = "producer",
            messaging.system = self.system(), messaging.operation.name = operation, messaging.operation.type = "send",
            messaging.destination.name = destination)
    }

    /// Around the work that a message asks for; follows the span that `headers` name, else `known`.
    pub fn taking(
        &self,
        destination: &'static str,
        headers: &Headers,
        known: Option<Context>,
    ) -> Span {
        let span = tracing::info_span!(target: TARGET, parent: None, "process", otel.name = format!("process {destination}"),
            otel.kind = "consumer", messaging.system = self.system(), messaging.operation.name = "process",
            messaging.operation.type = "process", messaging.destination.name = destination);
        if !span.is_disabled() {
            follow(&span, headers.trace().or(known).as_ref());
        }
        span
    }
}
