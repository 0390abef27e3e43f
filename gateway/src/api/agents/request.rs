//! What `POST /agents/deploy` takes: its schema, and the walk that turns it into a checked [`Spec`] or every fault at once.

use super::egress::{self, EgressConfig};
use crate::{
    fields::{Faults, Fields},
    json, openapi,
};
use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use domain::{
    Error, Result,
    agent::{
        self, Configuration, Entrypoint, Environment, HealthCheck, MAX_CUSTOM_METRICS,
        MAX_REQUIREMENTS, MAX_SYSTEM_PACKAGES, MAX_TAGS, MAX_WARM_UP_BYTES, Placement, Requirement,
        Scaling, Spec, Warm,
    },
    artifact::{self, Limits},
    log::Level,
    text,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A checked request.
#[derive(Debug)]
pub struct Wanted {
    pub spec: Spec,
    pub code: Vec<u8>,
    /// Of the code.
    pub artifact: String,
    /// Of everything that was sent, whatever the order of its members.
    pub digest: String,
    pub variables: BTreeMap<String, String>,
}

#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "the schema of what the walk below reads; a test holds them together"
)]
pub struct DeployRequest {
    agent_metadata: AgentMetadata,
    agent_code: AgentCode,
    #[schema(required = false)]
    deployment_config: DeploymentConfig,
    #[schema(required = false)]
    monitoring: MonitoringConfig,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct AgentMetadata {
    #[schema(pattern = "^[a-z][a-z0-9-]{1,62}$")]
    agent_id: String,
    #[schema(min_length = 1, max_length = 128)]
    name: String,
    /// SemVer 2.
    #[schema(example = "1.0.0")]
    version: String,
    #[schema(required = false, max_length = 2000)]
    description: String,
    #[schema(required = false, max_items = 50)]
    tags: Vec<String>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
pub(super) struct AgentCode {
    /// Base64 (standard or URL-safe, white space allowed) of one Python file or of a zip.
    #[schema(content_encoding = "base64", min_length = 1)]
    source_code: String,
    #[schema(required = false)]
    dependencies: Dependencies,
    /// `function`, `module:attribute`, `package.module:object.method` or `file.py`.
    #[schema(min_length = 1)]
    entrypoint: String,
    #[schema(required = false)]
    configuration: AgentConfiguration,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct Dependencies {
    /// PEP 508 requirements on packages of the index.
    #[schema(required = false, max_items = 500)]
    python: Vec<String>,
    /// Debian packages, `NAME` or `NAME=VERSION`, without what they only recommend. Installed for the agent alone, and read-only; a host that
    /// cannot (`GET /system/health`: `system_packages`) is not chosen.
    #[schema(required = false, max_items = 100)]
    system: Vec<String>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct AgentConfiguration {
    /// MB.
    #[schema(required = false, minimum = 64, maximum = 65536, default = 128)]
    memory_limit: u32,
    /// Seconds.
    #[schema(required = false, minimum = 1, maximum = 28800, default = 30)]
    timeout: u32,
    #[schema(required = false, minimum = 1, maximum = 1000, default = 10)]
    concurrent_executions: u32,
    /// Further instances are forked from one that has imported the agent, where that is safe; false: each is started anew.
    #[schema(required = false, default = true)]
    warm_start: bool,
    /// An input that the one they are forked from handles once before, so that what it loads is loaded. At most 64 KiB.
    #[schema(required = false)]
    warm_up: Value,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct DeploymentConfig {
    /// By default dev.
    #[schema(required = false, schema_with = openapi::environment)]
    environment: Environment,
    #[schema(required = false)]
    auto_scaling: AutoScaling,
    #[schema(required = false)]
    security: SecurityConfig,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct AutoScaling {
    #[schema(required = false, default = true)]
    enabled: bool,
    /// 0: scale to zero.
    #[schema(required = false, minimum = 0, maximum = 1000, default = 1)]
    min_instances: u32,
    #[schema(required = false, minimum = 1, maximum = 10000, default = 100)]
    max_instances: u32,
    #[schema(required = false, exclusive_minimum = 0, maximum = 1, default = 0.7)]
    target_utilization: f64,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct SecurityConfig {
    #[schema(required = false)]
    vpc_config: VpcConfig,
    #[schema(required = false)]
    iam_role_arn: String,
    /// Whether an instance is shared by all of the agent's callers, or each session has one of its own.
    #[schema(required = false, default = "agent", schema_with = openapi::isolation)]
    isolation: String,
    #[schema(required = false)]
    egress: EgressConfig,
    /// Sealed at rest, given to the agent when it starts, never returned.
    #[schema(required = false)]
    environment_variables: BTreeMap<String, String>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct VpcConfig {
    #[schema(required = false)]
    subnet_ids: Vec<String>,
    #[schema(required = false)]
    security_group_ids: Vec<String>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct MonitoringConfig {
    #[schema(required = false)]
    health_check: HealthCheckConfig,
    #[schema(required = false)]
    metrics: MetricsConfig,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct HealthCheckConfig {
    #[schema(required = false, default = true)]
    enabled: bool,
    #[schema(required = false, default = "/health")]
    path: String,
    /// Seconds.
    #[schema(required = false, minimum = 1, maximum = 86400, default = 30)]
    interval: u32,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "see DeployRequest")]
struct MetricsConfig {
    #[schema(required = false, max_items = 50)]
    custom_metrics: Vec<String>,
    #[schema(required = false, schema_with = openapi::level, default = "INFO")]
    log_level: Level,
}

/// Reads the whole request. Large code takes its time: call it where blocking is allowed.
pub fn read(body: &[u8], limits: Limits) -> Result<Wanted> {
    let (mut sent, _) = json::read(body, &[])?;
    let faults = Faults::default();
    let walked = walk(&sent, limits, &faults);
    faults.check()?;
    let (spec, variables, code) =
        walked.ok_or_else(|| Error::internal("a good request has no content"))?;
    let artifact = artifact::digest(&code);
    if let Some(place) = sent.pointer_mut("/agent_code/source_code") {
        *place = Value::String(artifact.clone());
    }
    let digest = canonical(&mut sent);
    Ok(Wanted {
        spec,
        code,
        artifact,
        digest,
        variables,
    })
}

fn walk(
    sent: &Value,
    limits: Limits,
    faults: &Faults,
) -> Option<(Spec, BTreeMap<String, String>, Vec<u8>)> {
    let root = Fields::of(sent, faults);

    let metadata = root.needed_object("agent_metadata");
    let agent_id = metadata.needed_parsed("agent_id");
    let name = metadata
        .needed_text("name")
        .filter(|name| checked(&metadata, "name", agent::name(name)));
    let version = metadata.needed_text("version").and_then(|version| {
        agent::version(version)
            .map_err(|what| metadata.fault("version", what))
            .ok()
    });
    let description = metadata
        .text_that("description", agent::description)
        .unwrap_or_default();
    let tags = metadata.texts("tags", MAX_TAGS, |tag| {
        agent::tag(tag).map(|()| tag.to_owned())
    });

    let code = code(&root.needed_object("agent_code"), limits);

    let config = root.object("deployment_config");
    let environment = config
        .parsed::<Environment>("environment")
        .unwrap_or(Environment::Dev);
    let scaling = scaling(&config.object("auto_scaling"));
    let security = config.object("security");
    let vpc = security.object("vpc_config");
    let word = |text: &str| text::line(text, 256).map(|()| text.to_owned());
    let placement = Placement {
        subnet_ids: vpc.texts("subnet_ids", 50, word),
        security_group_ids: vpc.texts("security_group_ids", 50, word),
        iam_role_arn: security
            .text_that("iam_role_arn", |text| text::line(text, 2048))
            .map(str::to_owned),
    };
    let isolation = security.parsed("isolation").unwrap_or_default();
    let egress = egress::read(&security.object("egress"));
    let variables = security.text_map("environment_variables", |name, value| {
        agent::environment_name(name)?;
        if value.contains('\0') {
            return Err("holds the character U+0000; allowed is any other text".to_owned());
        }
        Ok(())
    });
    checked(
        &security,
        "environment_variables",
        agent::environment_size(&variables),
    );

    let monitoring = root.object("monitoring");
    let health_check = health_check(&monitoring.object("health_check"));
    let metrics = monitoring.object("metrics");
    let custom_metrics = metrics.texts("custom_metrics", MAX_CUSTOM_METRICS, |name| {
        agent::metric_name(name).map(|()| name.to_owned())
    });
    let log_level = metrics.parsed("log_level").unwrap_or(Level::Info);

    let code = code?;
    let spec = Spec {
        agent_id: agent_id?,
        name: name?.to_owned(),
        version: version?,
        description: description.to_owned(),
        tags,
        entrypoint: code.entrypoint,
        python: code.python,
        system: code.system,
        configuration: code.configuration,
        environment,
        scaling,
        placement,
        health_check,
        custom_metrics,
        log_level,
        isolation,
        egress,
        warm: code.warm,
    };
    Some((spec, variables, code.bytes))
}

/// What runs, and within which limits.
#[derive(Debug)]
pub struct Code {
    pub bytes: Vec<u8>,
    pub entrypoint: Entrypoint,
    pub python: Vec<Requirement>,
    pub system: Vec<String>,
    pub configuration: Configuration,
    pub warm: Warm,
}

pub fn code(source: &Fields<'_>, limits: Limits) -> Option<Code> {
    let code = source.needed_text("source_code").and_then(|text| {
        decode(text)
            .map_err(|what| source.fault("source_code", what))
            .ok()
    });
    let found = code
        .as_deref()
        .and_then(|code| match artifact::inspect(code, limits) {
            Ok(artifact) => Some(artifact.requirements),
            Err(all) => {
                all.iter()
                    .for_each(|what| source.fault("source_code", what));
                None
            }
        });
    let dependencies = source.object("dependencies");
    let named: Vec<Requirement> = dependencies.texts("python", MAX_REQUIREMENTS, str::parse);
    let system = dependencies.texts("system", MAX_SYSTEM_PACKAGES, |name| {
        agent::system_package(name).map(|()| name.to_owned())
    });
    let entrypoint = source.needed_parsed("entrypoint");
    let fields = source.object("configuration");
    let (configuration, warm) = (configuration(&fields), warm(&fields));

    Some(Code {
        bytes: code?,
        entrypoint: entrypoint?,
        python: if named.is_empty() { found? } else { named },
        system,
        configuration,
        warm,
    })
}

fn checked(fields: &Fields<'_>, name: &str, result: Result<(), String>) -> bool {
    result.map_err(|what| fields.fault(name, what)).is_ok()
}

fn configuration(fields: &Fields<'_>) -> Configuration {
    let default = Configuration::default();
    Configuration {
        memory_limit_mb: fields
            .integer("memory_limit", 64..=65536)
            .unwrap_or(default.memory_limit_mb),
        timeout_s: fields
            .integer("timeout", 1..=28800)
            .unwrap_or(default.timeout_s),
        concurrent_executions: fields
            .integer("concurrent_executions", 1..=1000)
            .unwrap_or(default.concurrent_executions),
    }
}

fn warm(fields: &Fields<'_>) -> Warm {
    let default = Warm::default();
    let up = fields.value("warm_up").cloned();
    let size = up.as_ref().map_or(0, |input| input.to_string().len());
    if size > MAX_WARM_UP_BYTES {
        fields.fault(
            "warm_up",
            format_args!("is {size} bytes of JSON; allowed are at most {MAX_WARM_UP_BYTES}"),
        );
    }
    Warm {
        start: fields.flag("warm_start").unwrap_or(default.start),
        up,
    }
}

fn scaling(fields: &Fields<'_>) -> Scaling {
    let default = Scaling::default();
    let share = |n: f64| n > 0.0 && n <= 1.0;
    let scaling = Scaling {
        enabled: fields.flag("enabled").unwrap_or(default.enabled),
        min_instances: fields
            .integer("min_instances", 0..=1000)
            .unwrap_or(default.min_instances),
        max_instances: fields
            .integer("max_instances", 1..=10_000)
            .unwrap_or(default.max_instances),
        target_utilization: fields
            .number("target_utilization", "a number over 0 up to 1", share)
            .unwrap_or(default.target_utilization),
    };
    if scaling.max_instances < scaling.min_instances {
        let (max, min) = (scaling.max_instances, scaling.min_instances);
        fields.fault(
            "max_instances",
            format_args!("is {max}; allowed is at least min_instances, {min}"),
        );
    }
    scaling
}

fn health_check(fields: &Fields<'_>) -> HealthCheck {
    let default = HealthCheck::default();
    let path = |path: &str| {
        text::line(path, 256)?;
        if path.starts_with('/') {
            return Ok(());
        }
        Err(format!(
            "{} does not begin with /; allowed is a path, as /health",
            text::quote(path)
        ))
    };
    HealthCheck {
        enabled: fields.flag("enabled").unwrap_or(default.enabled),
        path: fields
            .text_that("path", path)
            .map_or(default.path, str::to_owned),
        interval_s: fields
            .integer("interval", 1..=86400)
            .unwrap_or(default.interval_s),
    }
}

/// Base64 of RFC 4648, either alphabet, with or without padding, with any white space.
fn decode(text: &str) -> Result<Vec<u8>, String> {
    let plain = |byte: u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    let packed: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(plain)
        .collect();
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&alphabet::STANDARD, config)
        .decode(packed)
        .map_err(|error| {
            format!("is not base64 ({error}); allowed is the base64 of one Python file or of a zip")
        })
}

/// SHA-256 over the document with its members in order and without those that are null.
fn canonical(sent: &mut Value) -> String {
    fn prune(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.retain(|_, value| !value.is_null());
                members.values_mut().for_each(prune);
            }
            Value::Array(items) => items.iter_mut().for_each(prune),
            _ => {}
        }
    }
    prune(sent);
    hex::encode(Sha256::digest(sent.to_string()))
}

#[cfg(test)]
mod tests;
