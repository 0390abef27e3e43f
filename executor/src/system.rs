//! Packages of the system for a version: names become a lock, a lock becomes one layer, a folder that sandboxes lay over the host's /usr.
//!
//! In: Debian package names, or the lock that another executor resolved. Out: the lock, and where the layer lies. A layer is made once
//! per lock in a sandbox of its own (`build`), renamed into place when it is finished, and only ever shown read-only. The host's own
//! packages, their list and apt's folders are read and never written.

mod apt;
mod base;
mod build;
mod lock;
mod seal;

use crate::{
    confine::Level,
    environment::{Origin, Say},
    files,
    folders::Folders,
    shelf::Shelf,
};
use apt::Apt;
use base::Base;
use domain::{Error, Result};
use lock::Lock;
use std::path::{Path, PathBuf};

pub struct System {
    dir: PathBuf,
    apt: Apt,
    level: Level,
    /// Why this host cannot.
    refusal: Option<String>,
    folders: Folders,
}

/// A lock and the layer made from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laid {
    pub lock: String,
    /// Empty where the host has everything.
    pub digest: String,
    pub origin: Origin,
}

impl System {
    /// Finds out whether this host can make and show layers, by making one with nothing in it.
    pub async fn find(data_dir: &Path, cache: Option<PathBuf>, level: &Level) -> Self {
        let dir = data_dir.join("layers");
        let refusal = if level.is_confined() {
            let probe = files::aside_name(&dir);
            let tried = build::probe(&probe, level).await;
            tokio::task::spawn_blocking(move || files::remove_tree(&probe))
                .await
                .ok();
            tried.err().map(|error| error.message)
        } else {
            Some("agents are not confined, so they share the host's file system".to_owned())
        };
        Self {
            apt: Apt::new(cache.unwrap_or_else(|| data_dir.join("cache").join("apt"))),
            dir,
            level: level.clone(),
            refusal,
            folders: Folders::new("layer"),
        }
    }

    /// With a place where nodes share what they have made.
    pub fn shared(mut self, shelf: Option<Shelf>) -> Self {
        self.folders.share(shelf);
        self
    }

    /// `None`: versions with system packages can run here.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// `overlay`, or `none` and why.
    pub fn words(&self) -> String {
        match &self.refusal {
            None => "overlay".to_owned(),
            Some(why) => format!("none ({why})"),
        }
    }

    /// What the layer of a lock is called; `None` where the lock has no packages.
    pub fn digest(&self, lock: &str) -> Result<Option<String>> {
        let folder = self.folder(lock)?;
        let name = folder.as_deref().and_then(Path::file_name);
        Ok(name.map(|name| name.to_string_lossy().into_owned()))
    }

    /// The layer of a lock; `None` where the lock has no packages.
    pub fn folder(&self, lock: &str) -> Result<Option<PathBuf>> {
        if lock.is_empty() {
            return Ok(None);
        }
        let lock = Lock::parse(lock)?;
        let any = lock.packages().next().is_some();
        Ok(any.then(|| self.dir.join(lock.digest())))
    }

    /// Resolves (unless `lock` is known) and makes the layer (unless it is made).
    pub async fn package(
        &self,
        wanted: &[String],
        lock: Option<String>,
        say: Say<'_>,
    ) -> Result<Laid> {
        if wanted.is_empty() {
            return Ok(Laid {
                lock: String::new(),
                digest: String::new(),
                origin: Origin::There,
            });
        }
        if let Some(why) = &self.refusal {
            return Err(Error::conflict(format!(
                "system packages ({}) cannot be installed on this executor: {why}",
                wanted.join(", ")
            )));
        }
        let base = Base::of_host()?;
        let lock = if let Some(lock) = lock.filter(|lock| !lock.is_empty()) {
            Lock::parse(&lock)?
        } else {
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            wanted.dedup();
            self.apt.resolve(&wanted, &base, say).await?
        };
        if lock.base != base.name {
            return Err(Error::conflict(format!(
                "the system packages were resolved for {}; this executor is {}",
                lock.base, base.name
            )));
        }
        let text = lock.text();
        let Some(folder) = self.folder(&text)? else {
            say("every host has these system packages".to_owned());
            return Ok(Laid {
                lock: text,
                digest: String::new(),
                origin: Origin::There,
            });
        };
        let digest = lock.digest();
        let make = self.make(&lock, &base, &folder, say);
        let origin = self.folders.have(&digest, &folder, say, make).await?;
        Ok(Laid {
            lock: text,
            digest,
            origin,
        })
    }

    /// Fetched, made aside, then renamed: what a killed process leaves is never taken for a layer.
    async fn make(&self, lock: &Lock, base: &Base, folder: &Path, say: Say<'_>) -> Result<()> {
        self.apt.fetch(lock, base, say).await?;
        let aside = files::aside_name(&self.dir);
        let built = build::build(&aside, lock, base, &self.apt, &self.level, say).await;
        let placed = match built {
            Ok(()) => tokio::fs::rename(&aside, folder).await.map_err(|error| {
                Error::unavailable(format!("{} cannot be written: {error}", folder.display()))
            }),
            Err(error) => Err(error),
        };
        if placed.is_err() {
            tokio::task::spawn_blocking(move || files::remove_tree(&aside))
                .await
                .ok();
        }
        placed
    }
}

#[cfg(test)]
mod tests;
