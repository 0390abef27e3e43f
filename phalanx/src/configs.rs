//! The settings of each service, from what Phalanx was told.

use crate::{
    data_dir::DataDir,
    settings::{Isolation, Settings},
};
use anyhow::{Result, bail};
use executor::confine;
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

pub fn gateway(settings: &Settings) -> Result<gateway::Config> {
    let told = &settings.gateway;
    for (name, most) in [
        ("connections", told.connections),
        ("connections_per_address", told.connections_per_address),
    ] {
        if most == 0 {
            bail!("gateway.{name} is 0; allowed is at least 1");
        }
    }
    for (name, seconds) in [
        ("idle_s", told.idle_s),
        ("stall_s", told.stall_s),
        ("request_timeout_s", told.request_timeout_s),
    ] {
        if !(1..=3600).contains(&seconds) {
            bail!("gateway.{name} is {seconds}; allowed are 1 to 3600 seconds");
        }
    }
    Ok(gateway::Config {
        listen: settings.listen,
        public_url: (!settings.public_url.is_empty())
            .then(|| settings.public_url.trim_end_matches('/').to_owned()),
        dashboard_url: (!told.dashboard_url.is_empty()).then(|| told.dashboard_url.clone()),
        region: settings.region.clone(),
        max_deploy_body_bytes: settings.gateway.deploy_body_bytes,
        max_execute_body_bytes: settings.gateway.execute_body_bytes,
        drain: Duration::from_secs(settings.gateway.drain_s),
        open_metrics: settings.gateway.open_metrics,
        connections: told.connections,
        connections_per_address: told.connections_per_address,
        request: Duration::from_secs(told.request_timeout_s),
        idle: Duration::from_secs(told.idle_s),
        stall: Duration::from_secs(told.stall_s),
        tls: tls(&told.tls_certificate, &told.tls_key)?,
        cors_origins: gateway::origins(&told.cors_origins)?,
        webhooks: webhooks(settings)?,
        ..gateway::Config::default()
    })
}

fn tls(certificate: &str, key: &str) -> Result<Option<gateway::tls::Files>> {
    match (certificate.is_empty(), key.is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(gateway::tls::Files {
            certificate: certificate.into(),
            key: key.into(),
        })),
        _ => bail!("gateway.tls_certificate and gateway.tls_key go together: name both or neither"),
    }
}

pub fn executor(
    settings: &Settings,
    dir: &DataDir,
    node_id: domain::id::NodeId,
) -> Result<executor::Config> {
    let told = &settings.executor;
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let mut config = executor::Config::new(dir.path.clone(), node_id);
    config.python.clone_from(&told.python);
    config.uv = path(&told.uv);
    config.uv_cache = path(&told.uv_cache);
    config.apt_cache = path(&told.apt_cache);
    config.confine.isolation = match told.isolation {
        Isolation::Namespaces => confine::Isolation::Namespaces,
        Isolation::None => confine::Isolation::None,
    };
    config.result_bytes = told.result_bytes;
    config.queue = told.queue;
    config.idle = Duration::from_secs(told.idle_s);
    config.sessions = domain::session::Limits {
        idle: Duration::from_secs(told.session_idle_s),
        life: Duration::from_secs(told.session_life_s),
    };
    config.starts = told.starts;
    config.start_within = Duration::from_secs(told.start_s);
    config.drain_within = Duration::from_secs(told.drain_s);
    config.tmp_mb = told.tmp_mb;
    config.labels = labels(&told.labels)?;
    config.cpus = cores(told.cpus)?;
    config.templates = told.templates;
    config.template_idle = Duration::from_secs(told.template_idle_s);
    config.spares = told.spares;
    config.unused = Duration::from_secs(told.unused_s);
    config.egress_private = networks("executor.egress_private", &told.egress_private)?;
    Ok(config)
}

pub fn deployer(settings: &Settings, monitors: Vec<String>) -> deployer::Config {
    deployer::Config {
        monitors,
        watch: Duration::from_secs(settings.deployer.watch_s),
        ..deployer::Config::default()
    }
}

/// Addresses with commas between them.
pub fn addresses(text: &str) -> Vec<String> {
    let each = text.split(',').map(|one| one.trim().to_owned());
    each.filter(|one| !one.is_empty()).collect()
}

pub fn monitor(settings: &Settings) -> Result<monitor::Config> {
    let days = |days: u32| Duration::from_secs(u64::from(days) * 86_400);
    let told = &settings.monitor;
    let webhook_bytes = settings.webhooks.in_flight_bytes;
    if webhook_bytes < 1 << 20 {
        bail!("webhooks.in_flight_bytes is {webhook_bytes}; allowed is at least 1048576");
    }
    Ok(monitor::Config {
        webhooks: webhooks(settings)?,
        webhook_bytes,
        retention: days(told.retention_days),
        minutes: days(told.minutes_days),
        hours: days(told.hours_days),
        days: days(told.days_days),
        ..monitor::Config::default()
    })
}

fn webhooks(settings: &Settings) -> Result<domain::webhook::Openness> {
    let private = networks("webhooks.private", &settings.webhooks.private)?;
    Ok(domain::webhook::Openness {
        private: private.into(),
    })
}

/// `name=value`, several with commas.
fn labels(text: &str) -> Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
        match one.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() && !value.trim().is_empty() => {
                labels.insert(name.trim().to_owned(), value.trim().to_owned());
            }
            _ => bail!("executor.labels holds {one:?}; allowed is name=value, several with commas"),
        }
    }
    Ok(labels)
}

/// 0: without a bound of its own.
fn cores(told: f64) -> Result<Option<f64>> {
    match told {
        0.0 => Ok(None),
        told if (0.01..=1024.0).contains(&told) => Ok(Some(told)),
        _ => bail!("executor.cpus is {told}; allowed are 0 and 0.01 to 1024"),
    }
}

/// Networks with ports, and commas between them.
fn networks(setting: &str, text: &str) -> Result<Vec<domain::egress::Rule>> {
    let mut rules = Vec::new();
    for one in addresses(text) {
        match one.parse::<domain::egress::Rule>() {
            Ok(rule) if rule.is_network() => rules.push(rule),
            _ => bail!(
                "{setting} holds {one:?}; allowed is an address or a network with its ports, as 10.1.0.0/16:5432, several with commas"
            ),
        }
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    #[test]
    fn labels_are_names_and_values() {
        let read = labels(" environment=prod, zone = a ,").expect("labels");
        assert_eq!(
            (
                read["environment"].as_str(),
                read["zone"].as_str(),
                read.len()
            ),
            ("prod", "a", 2)
        );
        assert!(labels("").expect("none").is_empty());
        for bad in ["prod", "=prod", "environment=", "a=b,c"] {
            assert!(labels(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn bodies_on_their_way_have_a_budget() {
        let mut settings = settings::load(settings::Overrides::default()).expect("the defaults");
        let config = monitor(&settings).expect("the default");
        assert_eq!(config.webhook_bytes, 64 << 20);
        settings.webhooks.in_flight_bytes = 1000;
        let refused = monitor(&settings).expect_err("too few").to_string();
        assert!(
            refused.contains("webhooks.in_flight_bytes is 1000; allowed is at least"),
            "{refused}"
        );
    }

    #[test]
    fn cores_are_some_or_any() {
        assert_eq!(cores(0.0).expect("any"), None);
        assert_eq!(cores(0.5).expect("half"), Some(0.5));
        for bad in [-1.0, 0.001, 2000.0, f64::NAN] {
            assert!(cores(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn private_networks_are_addresses() {
        assert!(networks("x", "").expect("none").is_empty());
        assert_eq!(
            networks("x", "10.1.0.0/16:5432, [fd00::]/8:*")
                .expect("two")
                .len(),
            2
        );
        for bad in ["db.internal:5432", "*", "10.1.2.3/8", "10.0.0.0/8:x"] {
            assert!(networks("x", bad).is_err(), "{bad}");
        }
    }
}
