//! What was deployed, as whoever reads it is shown it: all that a deploy says, in its words, but the code and what is secret.

use crate::openapi;
use domain::{
    agent::{Isolation, Spec},
    egress::{Policy, Rule},
    log::Level,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

#[derive(Debug, Serialize, ToSchema)]
pub struct DeployedConfiguration {
    /// MB.
    memory_limit: u32,
    /// Seconds.
    timeout: u32,
    concurrent_executions: u32,
    /// Whether further instances may be forked from one that has imported the agent.
    warm_start: bool,
    /// What that one handles once before; null: nothing.
    #[schema(schema_with = openapi::any)]
    warm_up: Option<Value>,
}

impl From<&Spec> for DeployedConfiguration {
    fn from(spec: &Spec) -> Self {
        Self {
            memory_limit: spec.configuration.memory_limit_mb,
            timeout: spec.configuration.timeout_s,
            concurrent_executions: spec.configuration.concurrent_executions,
            warm_start: spec.warm.start,
            warm_up: spec.warm.up.clone(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeployedPackages {
    /// Those that the deploy named, else those of the code's own files.
    python: Vec<String>,
    system: Vec<String>,
}

impl From<&Spec> for DeployedPackages {
    fn from(spec: &Spec) -> Self {
        Self {
            python: spec.python.iter().cloned().map(String::from).collect(),
            system: spec.system.clone(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeployedScaling {
    enabled: bool,
    min_instances: u32,
    max_instances: u32,
    target_utilization: f64,
}

impl From<&Spec> for DeployedScaling {
    fn from(spec: &Spec) -> Self {
        Self {
            enabled: spec.scaling.enabled,
            min_instances: spec.scaling.min_instances,
            max_instances: spec.scaling.max_instances,
            target_utilization: spec.scaling.target_utilization,
        }
    }
}

/// Environment variables are never shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeployedSecurity {
    vpc_config: DeployedVpc,
    iam_role_arn: Option<String>,
    #[schema(schema_with = openapi::isolation)]
    isolation: Isolation,
    egress: DeployedEgress,
}

impl From<&Spec> for DeployedSecurity {
    fn from(spec: &Spec) -> Self {
        Self {
            vpc_config: DeployedVpc {
                subnet_ids: spec.placement.subnet_ids.clone(),
                security_group_ids: spec.placement.security_group_ids.clone(),
            },
            iam_role_arn: spec.placement.iam_role_arn.clone(),
            isolation: spec.isolation,
            egress: spec.into(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct DeployedVpc {
    subnet_ids: Vec<String>,
    security_group_ids: Vec<String>,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeployedEgress {
    #[schema(schema_with = openapi::egress_policy)]
    policy: Policy,
    /// Empty but with allowlist.
    allow: Vec<String>,
}

impl From<&Spec> for DeployedEgress {
    fn from(spec: &Spec) -> Self {
        Self {
            policy: spec.egress.policy,
            allow: spec.egress.allow.iter().map(Rule::to_string).collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct DeployedMonitoring {
    health_check: DeployedHealthCheck,
    metrics: DeployedMetrics,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeployedHealthCheck {
    enabled: bool,
    path: String,
    /// Seconds.
    interval: u32,
}

#[derive(Debug, Serialize, ToSchema)]
struct DeployedMetrics {
    custom_metrics: Vec<String>,
    #[schema(schema_with = openapi::level)]
    log_level: Level,
}

impl From<&Spec> for DeployedMonitoring {
    fn from(spec: &Spec) -> Self {
        Self {
            health_check: DeployedHealthCheck {
                enabled: spec.health_check.enabled,
                path: spec.health_check.path.clone(),
                interval: spec.health_check.interval_s,
            },
            metrics: DeployedMetrics {
                custom_metrics: spec.custom_metrics.clone(),
                log_level: spec.log_level,
            },
        }
    }
}
