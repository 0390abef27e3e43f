//! Folders that are made once per digest: there already, fetched from where nodes share them, or made here and shared.

use crate::{
    environment::{Origin, Say},
    files,
    shelf::{Found, Shelf},
};
use domain::Result;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::OwnedMutexGuard;

pub struct Folders {
    /// What one is called in a deployment's log.
    name: &'static str,
    shelf: Option<Shelf>,
    making: Turns,
}

impl Folders {
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            shelf: None,
            making: Turns::default(),
        }
    }

    /// With a place where nodes share what they have made.
    pub fn share(&mut self, shelf: Option<Shelf>) {
        self.shelf = shelf;
    }

    /// Has the folder of a digest in its place, where `make` puts it if nobody else has it.
    pub async fn have(
        &self,
        digest: &str,
        folder: &Path,
        say: Say<'_>,
        make: impl Future<Output = Result<()>>,
    ) -> Result<Origin> {
        let name = format!("{} {}", self.name, &digest[..12]);
        let _turn = self.making.take(digest).await;
        if files::claim(folder) {
            say(format!("{name} is there already"));
            return Ok(Origin::There);
        }
        let found = match &self.shelf {
            Some(shelf) => shelf.fetch(digest, folder, say).await,
            None => Found::Absent,
        };
        if found == Found::Fetched {
            say(format!("{name} is fetched"));
            return Ok(Origin::Fetched);
        }
        make.await?;
        say(format!("{name} is built"));
        let spoilt = match &found {
            Found::Fetched | Found::Unanswered => return Ok(Origin::Built),
            Found::Absent => None,
            Found::Spoilt(archive) => Some(archive.as_str()),
        };
        if let Some(shelf) = &self.shelf {
            shelf.keep(digest, folder, spoilt, say).await;
        }
        Ok(Origin::Built)
    }
}

/// One at a time by name: who wants the same waits for it.
#[derive(Default)]
struct Turns(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Turns {
    async fn take(&self, name: &str) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(name.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}
