//! What Phalanx is told: `default.toml`, a file over it, the environment over that, the command line over all.

use anyhow::{Context, Result, bail};
use domain::Secret;
use serde::Deserialize;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

const DEFAULTS: &str = include_str!("../default.toml");

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub listen: SocketAddr,
    pub data_dir: PathBuf,
    pub master_key: Secret,
    pub master_key_file: String,
    pub region: String,
    pub public_url: String,
    pub log: Log,
    pub telemetry: Telemetry,
    pub store: Store,
    pub bus: Bus,
    pub grpc: Grpc,
    pub ops: Ops,
    pub gateway: Gateway,
    pub deployer: Deployer,
    pub executor: Executor,
    pub blobs: Blobs,
    pub monitor: Monitor,
    pub webhooks: Webhooks,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Store {
    pub url: Secret,
    pub url_file: String,
    pub users: String,
    pub connections: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    pub url: Secret,
    pub url_file: String,
    pub credentials: String,
    pub root_certificates: String,
    pub client_certificate: String,
    pub client_key: String,
    pub require_tls: bool,
    pub replicas: usize,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grpc {
    pub listen: SocketAddr,
    pub advertise: String,
    pub ca: String,
    pub certificate: String,
    pub key: String,
    pub server_name: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ops {
    pub listen: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    pub otlp_endpoint: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    pub deploy_body_bytes: usize,
    pub execute_body_bytes: usize,
    pub drain_s: u64,
    pub monitors: String,
    pub admin_key_file: String,
    pub open_metrics: bool,
    pub connections: usize,
    pub connections_per_address: usize,
    pub request_timeout_s: u64,
    pub idle_s: u64,
    pub stall_s: u64,
    pub tls_certificate: String,
    pub tls_key: String,
    pub cors_origins: String,
    pub dashboard_url: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deployer {
    pub monitors: String,
    pub watch_s: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Executor {
    pub labels: String,
    pub python: String,
    pub uv: String,
    pub uv_cache: String,
    pub apt_cache: String,
    pub isolation: Isolation,
    pub result_bytes: usize,
    pub queue: usize,
    pub idle_s: u64,
    pub session_idle_s: u64,
    pub session_life_s: u64,
    pub starts: usize,
    pub start_s: u64,
    pub drain_s: u64,
    pub tmp_mb: u64,
    pub egress_private: String,
    pub cpus: f64,
    pub templates: bool,
    pub template_idle_s: u64,
    pub spares: usize,
    pub unused_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    Namespaces,
    None,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blobs {
    pub url: String,
    pub endpoint: String,
    pub region: String,
    pub allow_http: bool,
}

impl Blobs {
    /// With the keys and roles that the environment holds.
    pub fn with_variables(&self) -> store::blobs::Settings {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty());
        store::blobs::Settings {
            url: self.url.clone(),
            endpoint: self.endpoint.clone(),
            region: self.region.clone(),
            allow_http: self.allow_http,
            variables: variables.collect(),
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    pub retention_days: u32,
    pub minutes_days: u32,
    pub hours_days: u32,
    pub days_days: u32,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhooks {
    pub private: String,
    pub in_flight_bytes: u64,
}

/// What the command line overrides.
#[derive(Debug, Default)]
pub struct Overrides {
    pub config: Option<PathBuf>,
    pub listen: Option<SocketAddr>,
    pub data_dir: Option<PathBuf>,
}

pub fn load(overrides: Overrides) -> Result<Settings> {
    let mut builder = config::Config::builder()
        .add_source(config::File::from_str(DEFAULTS, config::FileFormat::Toml));
    if let Some(path) = &overrides.config {
        if !path.is_file() {
            bail!(
                "{} is not a file; name a TOML file with --config",
                path.display()
            );
        }
        builder =
            builder.add_source(config::File::from(path.as_path()).format(config::FileFormat::Toml));
    }
    builder = builder.add_source(
        config::Environment::with_prefix("PHALANX")
            .prefix_separator("__")
            .separator("__")
            .try_parsing(true),
    );
    if let Some(listen) = overrides.listen {
        builder = builder.set_override("listen", listen.to_string())?;
    }
    if let Some(dir) = overrides.data_dir {
        builder = builder.set_override("data_dir", dir.to_string_lossy().into_owned())?;
    }
    let mut settings: Settings = builder
        .build()
        .and_then(config::Config::try_deserialize)
        .context("the settings cannot be used")?;
    settings.data_dir = at_home(&settings.data_dir);
    Ok(settings)
}

/// The data directory of a client, that is told nothing: the default's, or the environment's.
pub fn default_data_dir() -> PathBuf {
    load(Overrides::default()).map_or_else(
        |_| at_home(Path::new("~/.phalanx")),
        |settings| settings.data_dir,
    )
}

fn at_home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_complete() {
        let settings = load(Overrides::default()).expect("the embedded file is complete");
        assert_eq!(settings.listen.port(), 8080);
    }

    #[test]
    fn no_secret_is_printed() {
        let mut settings = load(Overrides::default()).expect("the defaults");
        settings.master_key = "planted".into();
        settings.store.url = "postgres://me:planted@host/rows".into();
        settings.bus.url = "nats://me:planted@host:4222".into();
        let rows = store::Config::Postgres {
            url: settings.store.url.clone(),
            connections: 2,
        };
        let bus = bus::nats::Config::new([settings.bus.url.to_string()]);
        for printed in [
            format!("{settings:?}"),
            format!("{settings:#?}"),
            format!("{rows:?}"),
            format!("{bus:?}"),
        ] {
            assert!(!printed.contains("planted"), "{printed}");
        }
    }

    #[test]
    fn the_command_line_has_the_last_word() {
        let settings = load(Overrides {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 1))),
            ..Overrides::default()
        })
        .expect("an address");
        assert_eq!(settings.listen.port(), 1);
    }
}
