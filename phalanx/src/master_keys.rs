//! The master keys, from a file or from the environment. A file is read anew when it has changed: keys are exchanged while all runs.

use crate::{data_dir::DataDir, settings::Settings};
use anyhow::{Context, Result, bail};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use store::{MasterKeyId, MasterKeys, Opened, Ring, Secrets};
use zeroize::Zeroizing;

/// What a role or `phalanx up` seals and opens with. Without a setting it is `master.key` of the data directory, if there is one.
pub fn secrets(settings: &Settings, dir: Option<&DataDir>) -> Result<Secrets> {
    if !settings.master_key.is_empty() {
        if !settings.master_key_file.is_empty() {
            bail!("master_key and master_key_file are both set; set one");
        }
        let lines = Zeroizing::new(settings.master_key.replace(',', "\n"));
        let ring = Ring::read(&lines).context("master_key cannot be used")?;
        let pepper = ring.first_pepper();
        return Ok(Secrets::of(Arc::new(ring), pepper));
    }
    let path = match (settings.master_key_file.as_str(), dir) {
        ("", Some(dir)) => dir.master_key()?,
        ("", None) => bail!(
            "a single role needs the cluster's key: set master_key_file to a file that every process has (`phalanx master-key` prints a new one)"
        ),
        (path, _) => PathBuf::from(path),
    };
    let file = KeyFile::open(&path)?;
    let pepper = file.loaded().ring.first_pepper();
    Ok(Secrets::of(Arc::new(file), pepper))
}

/// The file that commands change.
pub fn file(settings: &Settings) -> Result<PathBuf> {
    if !settings.master_key.is_empty() {
        bail!("master_key is set: only the keys of a file are exchanged by commands");
    }
    Ok(match settings.master_key_file.as_str() {
        "" => settings.data_dir.join("master.key"),
        path => PathBuf::from(path),
    })
}

pub fn read(path: &Path) -> Result<Ring> {
    let text = fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("{} cannot be read", path.display()))?;
    Ring::read(&text).with_context(|| {
        format!(
            "{} does not hold master keys; restore it, as what they sealed cannot be read without them",
            path.display()
        )
    })
}

/// Whole or not at all; who may read it stays.
pub fn write(path: &Path, text: &str) -> Result<()> {
    let mode = fs::metadata(path).map_or(0o600, |found| found.permissions().mode() & 0o777);
    let temporary = path.with_added_extension("new");
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}

/// A file of keys, as it was when it was last looked at.
struct KeyFile {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    ring: Ring,
    state: State,
}

/// By which a changed file is told: when, how long, which.
type State = (i64, i64, u64, u64);

impl KeyFile {
    fn open(path: &Path) -> Result<Self> {
        let state = state(path);
        let ring = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            loaded: Mutex::new(Loaded {
                ring,
                state: state.unwrap_or_default(),
            }),
        })
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the file is now. One that cannot be read, or is being replaced, changes nothing.
    fn current(&self) -> MutexGuard<'_, Loaded> {
        let now = state(&self.path);
        let mut loaded = self.loaded();
        let Some(now) = now.filter(|now| *now != loaded.state) else {
            return loaded;
        };
        loaded.state = now;
        match read(&self.path) {
            Ok(ring) => {
                tracing::info!(keys = ?ring.ids(), "the master keys were read anew");
                loaded.ring = ring;
            }
            Err(error) => {
                tracing::error!("the master keys stay as they were: {error:#}");
            }
        }
        loaded
    }
}

fn state(path: &Path) -> Option<State> {
    let found = fs::metadata(path).ok()?;
    Some((found.mtime(), found.mtime_nsec(), found.size(), found.ino()))
}

impl MasterKeys for KeyFile {
    fn wrap(&self, place: &str, data_key: &[u8; 32]) -> domain::Result<(MasterKeyId, Vec<u8>)> {
        self.current().ring.wrap(place, data_key)
    }

    fn unwrap(
        &self,
        by: Option<MasterKeyId>,
        place: &str,
        wrapped: &[u8],
    ) -> domain::Result<Opened> {
        let known = by.is_none_or(|by| self.loaded().ring.holds(by));
        let keys = if known { self.loaded() } else { self.current() };
        keys.ring.unwrap(by, place, wrapped)
    }

    fn active(&self) -> domain::Result<MasterKeyId> {
        self.current().ring.active()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::MasterKeys;

    #[test]
    fn a_changed_file_is_read_anew() {
        let dir = std::env::temp_dir().join(format!("phalanx-keys-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&dir).expect("a new directory");
        let path = dir.join("master.key");
        let (old, new) = ("11".repeat(32), "22".repeat(32));
        fs::write(&path, &old).expect("written");
        let keys = KeyFile::open(&path).expect("one key");
        let (first, wrapped) = keys.wrap("p", &[9; 32]).expect("wrapped");
        write(&path, &format!("{new}\n{old}\n")).expect("written");
        let (second, _) = keys.wrap("p", &[9; 32]).expect("wrapped");
        assert_ne!(first, second);
        assert_eq!(
            &keys.unwrap(Some(first), "p", &wrapped).expect("old")[..],
            [9; 32]
        );
        // A file that is spoilt changes nothing, one that is gone neither.
        write(&path, "spoilt, and of another length").expect("written");
        assert_eq!(keys.active().expect("as before"), second);
        fs::remove_file(&path).expect("gone");
        assert_eq!(keys.active().expect("as before"), second);
        // What others sealed by a key that was added meanwhile is opened.
        let third = Ring::read(&"33".repeat(32)).expect("a key");
        let (id, wrapped) = third.wrap("p", &[8; 32]).expect("wrapped");
        assert!(keys.unwrap(Some(id), "p", &wrapped).is_err());
        write(&path, &format!("{new}\n{}\n{old}\n", "33".repeat(32))).expect("written");
        assert_eq!(
            &keys.unwrap(Some(id), "p", &wrapped).expect("known now")[..],
            [8; 32]
        );
        fs::remove_dir_all(dir).expect("removed");
    }
}
