//! `phalanx master-key …` and `phalanx reseal`: master keys are exchanged while everything runs.
//!
//! `add` and `rotate` change the file only. `reseal` seals every value anew by the key that seals; it may be killed and begun again.
//! `retire` takes a key out of the file that no value depends on.

use crate::{backing, data_dir, master_keys, settings::Settings};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};
use store::{MasterKeyId, Ring, Store, reseal::Walk};

/// A walk over everything finds what was written behind the walk before; more than this many, and somebody still seals by an old key.
const WALKS: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

#[derive(Args)]
pub struct MasterKey {
    #[command(subcommand)]
    command: Option<KeyCommand>,
    /// A TOML file over the built-in defaults.
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Show the keys of the file, the first of which seals, and how many values each has sealed
    List,
    /// Add a key that opens and does not seal yet: give the file to all processes, then rotate
    Add,
    /// Let a new key seal from now on, or one that was added
    Rotate {
        #[arg(value_name = "ID")]
        to: Option<MasterKeyId>,
    },
    /// Take a key out of the file, to FILE.retired, once no value depends on it
    Retire {
        #[arg(value_name = "ID")]
        id: MasterKeyId,
    },
}

#[derive(Args)]
pub struct Reseal {
    /// A TOML file over the built-in defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Values that are read at a time
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    batch: u32,
    /// Values in a second at most, to leave the database to others [default: no limit]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    per_second: Option<u32>,
}

pub async fn master_key(told: MasterKey, settings: &Settings) -> Result<ExitCode> {
    let Some(command) = told.command else {
        return say(&data_dir::new_master_key()?);
    };
    let path = master_keys::file(settings)?;
    let mut ring = master_keys::read(&path)?;
    match command {
        KeyCommand::List => {
            let store = open(settings).await?;
            let values = store.sealed_values().await?;
            for (at, id) in ring.ids().into_iter().enumerate() {
                let seals = if at == 0 { ", seals" } else { "" };
                say(&format!("{id}  {} values{seals}", count(&values, Some(id))))?;
            }
            missing(&values, &ring)?;
        }
        KeyCommand::Add => {
            let id = ring.add(&data_dir::random()?[..])?;
            master_keys::write(&path, &ring.text())?;
            say(&format!("{id} opens from now on, and does not seal yet"))?;
        }
        KeyCommand::Rotate { to } => {
            let id = match to {
                Some(id) => id,
                None => ring.add(&data_dir::random()?[..])?,
            };
            ring.activate(id)?;
            master_keys::write(&path, &ring.text())?;
            say(&format!(
                "{id} seals from now on; `phalanx reseal` takes what is sealed already over to it"
            ))?;
        }
        KeyCommand::Retire { id } => {
            let store = open(settings).await?;
            retire(&store, &path, ring, id).await?;
            say(&format!(
                "{id} is in {} now; delete it there once no backup of the database is older than this",
                retired(&path).display()
            ))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn retire(store: &Store, path: &Path, mut ring: Ring, id: MasterKeyId) -> Result<()> {
    let line = ring.remove(id)?;
    // Key hashes depend on the oldest key until their pepper has a row.
    store.take_up_pepper().await?;
    let values = store.sealed_values().await?;
    let (named, unnamed) = (count(&values, Some(id)), count(&values, None));
    if named + unnamed > 0 {
        bail!(
            "{id} has sealed {named} values, and {unnamed} are from before keys had names; run `phalanx reseal` first"
        );
    }
    let kept = retired(path);
    let keep = || {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&kept)?;
        file.write_all(line.as_bytes())?;
        file.sync_all()
    };
    keep().with_context(|| format!("{} cannot be written", kept.display()))?;
    master_keys::write(path, &ring.text())
}

fn retired(path: &Path) -> PathBuf {
    path.with_added_extension("retired")
}

pub async fn reseal(told: Reseal, settings: &Settings) -> Result<ExitCode> {
    let store = open(settings).await?;
    store.take_up_pepper().await?;
    let active = store.active_master_key()?;
    let mut all = 0;
    for _ in 0..WALKS {
        let walk = walk(&store, &told, all).await?;
        all += walk.resealed;
        let values = store.sealed_values().await?;
        let left: u64 = values
            .iter()
            .filter(|(by, _)| **by != Some(active))
            .map(|(_, count)| count)
            .sum();
        if left == 0 {
            say(&format!(
                "done: {all} resealed, all {} values are sealed by {active}",
                count(&values, Some(active))
            ))?;
            return Ok(ExitCode::SUCCESS);
        }
        if walk.resealed == 0
            && let Some(why) = walk.why
        {
            for (by, count) in values.iter().filter(|(by, _)| **by != Some(active)) {
                say(&format!("{}  {count} values", name(*by)))?;
            }
            bail!(
                "{} values could not be opened and stay as they are: {}",
                walk.refused,
                why.message
            );
        }
    }
    bail!(
        "values are still being sealed by other keys than {active}: let every process have this file of keys, then run `phalanx reseal` again"
    )
}

/// Once over everything; tells how far it is.
async fn walk(store: &Store, told: &Reseal, before: u64) -> Result<Walk> {
    let batch = told
        .per_second
        .map_or(told.batch, |most| most.min(told.batch));
    let mut walk = Walk::default();
    let mut told_of = 0;
    loop {
        let begun = Instant::now();
        if !store.reseal_some(&mut walk, batch).await? {
            return Ok(walk);
        }
        if walk.resealed == told_of {
            continue;
        }
        say(&format!("{} resealed", before + walk.resealed))?;
        if let Some(most) = told.per_second {
            let done = u32::try_from(walk.resealed - told_of).unwrap_or(u32::MAX);
            let least = SECOND * done / most;
            tokio::time::sleep(least.saturating_sub(begun.elapsed())).await;
        }
        told_of = walk.resealed;
    }
}

/// Says which keys values depend on and the file does not have.
fn missing(values: &BTreeMap<Option<MasterKeyId>, u64>, ring: &Ring) -> Result<()> {
    for (by, count) in values {
        if by.is_none_or(|by| !ring.holds(by)) {
            let lost = if by.is_some() {
                ", not in the file"
            } else {
                ""
            };
            say(&format!("{}  {count} values{lost}", name(*by)))?;
        }
    }
    Ok(())
}

fn name(by: Option<MasterKeyId>) -> String {
    by.map_or_else(|| "without a name      ".to_owned(), |by| by.to_string())
}

fn count(values: &BTreeMap<Option<MasterKeyId>, u64>, by: Option<MasterKeyId>) -> u64 {
    values.get(&by).copied().unwrap_or(0)
}

/// The rows of the cluster, or those of the data directory; whoever uses them goes on.
async fn open(settings: &Settings) -> Result<Store> {
    if !settings.store.url.is_empty() || !settings.store.url_file.is_empty() {
        return backing::store(settings, master_keys::secrets(settings, None)?).await;
    }
    let path = settings.data_dir.join("phalanx.db");
    if !path.is_file() {
        bail!(
            "{} is not there; name the data directory with --data-dir, or the cluster's database with store.url_file",
            path.display()
        );
    }
    let secrets = master_keys::secrets(
        &Settings {
            master_key_file: master_keys::file(settings)?.display().to_string(),
            ..settings.clone()
        },
        None,
    )?;
    Ok(Store::open(&store::Config::Sqlite { path }, secrets).await?)
}

fn say(line: &str) -> Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}")
        .and_then(|()| stdout.flush())
        .context("nobody reads what was asked for")?;
    Ok(ExitCode::SUCCESS)
}
