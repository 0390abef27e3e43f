//! What the bus counts of itself, for Prometheus.

use crate::{Bus, Error, Result};
use prometheus_client::{
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// All clones count together.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    sent: Family<[(&'static str, &'static str); 1], Counter>,
    errors: Family<[(&'static str, &'static str); 2], Counter>,
    pub(crate) reconnections: Counter,
}

impl Meter {
    /// Counts what came of sending.
    pub(crate) fn sent<T>(&self, verb: &'static str, sent: Result<T>) -> Result<T> {
        self.sent.get_or_create(&[("verb", verb)]).inc();
        if let Err(error) = &sent {
            let labels = [("verb", verb), ("kind", kind(error))];
            self.errors.get_or_create(&labels).inc();
        }
        sent
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "phalanx_bus_messages_sent",
            "Requests, events and durable messages that were handed to the bus",
            self.sent.clone(),
        );
        registry.register(
            "phalanx_bus_errors",
            "Those of them that were not taken, stored or answered",
            self.errors.clone(),
        );
        registry.register(
            "phalanx_bus_reconnections",
            "Connections to the bus that were made anew",
            self.reconnections.clone(),
        );
    }
}

impl Bus {
    /// What this bus counts of itself.
    pub fn meter(&self) -> Meter {
        self.counts().clone()
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::NoResponders => "no_responders",
        Error::Timeout => "timeout",
        Error::Busy => "busy",
        Error::Unanswered => "unanswered",
        Error::Full => "full",
        Error::TooLarge { .. } => "too_large",
        Error::Closed => "closed",
        Error::Setup(_) => "setup",
        Error::Unavailable(_) => "unavailable",
    }
}
