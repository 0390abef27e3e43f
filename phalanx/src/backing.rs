//! What a single role stands on: Postgres, NATS, the other roles by gRPC, and the one key that all of them share.

use crate::settings::{Bus as BusSettings, Grpc, Settings};
use anyhow::{Context, Result, bail};
use bus::{Bus, nats};
use proto::{
    door::Tls,
    peer::{Listen, Peers},
};
use std::{fs, path::PathBuf};
use store::{
    Blobs, Secrets, Store,
    schema::{Given, User},
};

/// The file's words without the line's end.
pub fn secret(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?;
    Ok(text.trim().to_owned())
}

/// The URL of Postgres.
fn rows(settings: &Settings) -> Result<String> {
    let told = &settings.store;
    let url = one_of("store", &told.url, &told.url_file)?;
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        bail!(
            "a single role needs Postgres: set store.url or store.url_file to postgres://user:password@host/database (SQLite serves one process: `phalanx up`)"
        );
    }
    Ok(url)
}

/// `phalanx migrate`: the schema, and what each role's user may. `told`: files of URLs, by role.
pub async fn migrate(
    settings: &Settings,
    told: &[(String, PathBuf)],
    only_say: bool,
) -> Result<Given> {
    if let Some((other, _)) = told
        .iter()
        .find(|(role, _)| !store::ROLES.contains(&role.as_str()))
    {
        bail!(
            "--user names {other:?}; allowed are {}",
            store::ROLES.join(", ")
        );
    }
    let users = store::ROLES.map(|role| match told.iter().find(|(of, _)| of == role) {
        Some((_, file)) => Ok(User::of_url(role, &secret(&file.to_string_lossy())?)?),
        None => Ok(User {
            role,
            name: format!("{}{role}", settings.store.users),
            password: None,
        }),
    });
    let users: Result<Vec<User>> = users.into_iter().collect();
    Ok(store::schema::migrate(&rows(settings)?, &users?, only_say).await?)
}

pub async fn store(settings: &Settings, secrets: Secrets) -> Result<Store> {
    let told = &settings.store;
    let url = rows(settings)?;
    let config = store::Config::Postgres {
        url: url.into(),
        connections: told.connections.max(2),
    };
    let store = Store::open(&config, secrets).await?;
    Ok(store.with_blobs(Blobs::open(&settings.blobs.with_variables()).await?))
}

pub async fn bus(settings: &Settings, role: &str) -> Result<Bus> {
    let told = &settings.bus;
    let url = one_of("bus", &told.url, &told.url_file)?;
    if url.is_empty() {
        bail!(
            "a single role needs NATS: set bus.url or bus.url_file to nats://host:4222 (the memory bus serves one process: `phalanx up`)"
        );
    }
    Ok(Bus::nats(nats_config(told, &url, role)?).await?)
}

fn nats_config(told: &BusSettings, url: &str, role: &str) -> Result<nats::Config> {
    let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let mut config = nats::Config::new(url.split(',').map(str::trim).filter(|one| !one.is_empty()));
    config.name = format!("phalanx-{role}");
    config.credentials = path(&told.credentials);
    config.root_certificates = path(&told.root_certificates);
    config.client_certificate = match (path(&told.client_certificate), path(&told.client_key)) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => bail!("bus.client_certificate and bus.client_key belong together; set both or none"),
    };
    config.require_tls = told.require_tls;
    config.replicas = told.replicas.max(1);
    Ok(config)
}

pub fn peers(settings: &Settings) -> Result<Peers> {
    let told = &settings.grpc;
    let advertise = match (told.advertise.as_str(), told.listen.ip().is_unspecified()) {
        ("", false) => None,
        ("", true) if told.listen.port() == 0 => {
            bail!("grpc.listen on every address needs a port, or grpc.advertise")
        }
        ("", true) => Some(format!("{}:{}", host_name()?, told.listen.port())),
        (advertise, _) => Some(advertise.to_owned()),
    };
    let listen = Listen {
        address: told.listen,
        advertise,
    };
    Ok(Peers::over_tcp(listen, tls(told)?))
}

fn tls(told: &Grpc) -> Result<Option<Tls>> {
    let paths = [&told.ca, &told.certificate, &told.key];
    if paths.iter().all(|path| path.is_empty()) {
        return Ok(None);
    }
    if paths.iter().any(|path| path.is_empty()) {
        bail!("grpc.ca, grpc.certificate and grpc.key belong together; set all or none");
    }
    let read =
        |path: &str| fs::read_to_string(path).with_context(|| format!("{path} cannot be read"));
    Ok(Some(Tls {
        ca: read(&told.ca)?,
        certificate: read(&told.certificate)?,
        key: read(&told.key)?,
        name: (!told.server_name.is_empty()).then(|| told.server_name.clone()),
    }))
}

fn host_name() -> Result<String> {
    let name = nix::unistd::gethostname().context("the host has no name; set grpc.advertise")?;
    Ok(name.to_string_lossy().into_owned())
}

/// A setting that may stand in a file instead, as secrets do.
fn one_of(section: &str, plain: &str, file: &str) -> Result<String> {
    match (plain, file) {
        (plain, "") => Ok(plain.trim().to_owned()),
        ("", file) => secret(file),
        _ => bail!("{section}.url and {section}.url_file are both set; set one"),
    }
}
