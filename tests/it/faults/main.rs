//! The bad day.

mod chance;
mod health;
mod kill9;
mod leaving;
mod lost_node;
mod rolling;
mod rollouts;
mod spoilt;
mod storm;
mod webhooks;
