//! Deployments from accepted to their end, with a fake executor behind real gRPC, and deployers that die on the way.

mod crashes;
mod fake;
mod keep;
mod road;
mod world;
