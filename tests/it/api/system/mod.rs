//! /system, /audit, and what needs no version prefix
mod audit;
mod docs;
mod health;
mod probes;
