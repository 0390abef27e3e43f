//! The bad day.

mod kill9;
mod leaving;
