//! What Phalanx tells of itself: one trace from the caller to the handler, and figures.

mod metrics;
mod traces;
