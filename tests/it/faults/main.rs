//! The bad day.

mod chance;
mod kill9;
mod leaving;
mod rolling;
mod storm;
