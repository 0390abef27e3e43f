//! The data directory: made private, checked for room, held by one process, with the keys and names that survive restarts.

use anyhow::{Context, Result, bail};
use domain::id::NodeId;
use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// Less room than this, and the first deployments would fill the disk.
const LEAST_FREE_MB: u64 = 64;

pub struct DataDir {
    pub path: PathBuf,
    /// Released when the process ends, however it ends.
    _lock: Flock<File>,
}

impl DataDir {
    /// Fails with one line that says what to do.
    pub fn open(path: &Path) -> Result<Self> {
        let advice = "name another directory with --data-dir";
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("{} cannot be made; {advice}", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("{} cannot be reached; {advice}", path.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| {
                format!(
                    "{} cannot be written; make it writable, or {advice}",
                    path.display()
                )
            })?;
        let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
            bail!(
                "{} is in use by another Phalanx; stop that one, or {advice}",
                path.display()
            );
        };
        let free = free_mb(&path)?;
        if free < LEAST_FREE_MB {
            bail!(
                "{} has {free} MB free and Phalanx needs {LEAST_FREE_MB}; free some room, or {advice}",
                path.display()
            );
        }
        Ok(Self { path, _lock: lock })
    }

    /// The file of this installation's master keys, made at the first start.
    pub fn master_key(&self) -> Result<PathBuf> {
        let path = self.path.join("master.key");
        if !path.exists() {
            self.write_private("master.key", &new_master_key()?)?;
        }
        Ok(path)
    }

    /// This node's name, made at the first start.
    pub fn node_id(&self) -> Result<NodeId> {
        let path = self.path.join("node.id");
        if let Ok(text) = fs::read_to_string(&path) {
            return text
                .trim()
                .parse()
                .map_err(|fault| anyhow::anyhow!("{}: {fault}", path.display()));
        }
        let id = NodeId::from_uuid(uuid::Uuid::now_v7());
        self.write_private("node.id", id.as_str())?;
        Ok(id)
    }

    /// Whole or not at all, readable by its owner only.
    pub fn write_private(&self, name: &str, text: &str) -> Result<()> {
        let (path, temporary) = (self.path.join(name), self.path.join(format!(".{name}")));
        let write = || {
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// 256 bits from the operating system, in hex.
pub fn new_master_key() -> Result<String> {
    let key = random()?;
    Ok(key.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// 256 bits from the operating system.
pub fn random() -> Result<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0u8; 32]);
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut key[..]))
        .context("the system's randomness cannot be read")?;
    Ok(key)
}

fn free_mb(path: &Path) -> Result<u64> {
    let stat = nix::sys::statvfs::statvfs(path)
        .with_context(|| format!("{} cannot be looked at", path.display()))?;
    Ok(stat.blocks_available() * stat.fragment_size() / (1024 * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_its_keys_and_lets_one_in() {
        let path = std::env::temp_dir().join(format!("phalanx-data-{}", uuid::Uuid::new_v4()));
        let dir = DataDir::open(&path).expect("a new directory");
        let key = || fs::read_to_string(dir.master_key().expect("there")).expect("a key");
        let (first, node) = (key(), dir.node_id().expect("made"));
        assert_eq!((key(), dir.node_id().expect("kept")), (first, node));
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(path.join("master.key"))
                .expect("there")
                .permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        let second = DataDir::open(&path).err().expect("held");
        assert!(
            second.to_string().contains("in use by another Phalanx"),
            "{second}"
        );
        drop(dir);
        assert!(DataDir::open(&path).is_ok());
        fs::remove_dir_all(path).expect("removed");
    }

    #[test]
    fn says_what_to_do() {
        let error = DataDir::open(Path::new("/proc/phalanx"))
            .err()
            .expect("not there");
        assert!(format!("{error:#}").contains("--data-dir"), "{error:#}");
    }
}
