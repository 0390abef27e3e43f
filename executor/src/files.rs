//! Folders that instances see: written aside, then renamed into place, so that a half-written one is never used.

use domain::{
    Error, Result,
    agent::Entrypoint,
    artifact::{self, Entry, Limits},
};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Readable by the instances' users, whatever the umask.
pub const DIR_MODE: u32 = 0o755;
pub const FILE_MODE: u32 = 0o644;

pub async fn make_dir(path: &Path) -> io::Result<()> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || open_dir(&path))
        .await
        .map_err(io::Error::other)?
}

pub fn open_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(path)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(DIR_MODE))
}

/// Where the code of an artifact lies under `data_dir`; a single file under the name that its entrypoint means.
pub fn code_dir(data_dir: &Path, digest: &str, entrypoint: &Entrypoint) -> PathBuf {
    let single = artifact::single_file(entrypoint).replace('/', ".");
    data_dir.join("code").join(format!("{digest}-{single}"))
}

/// Unpacks the code of an artifact to where it shall lie.
pub async fn unpack(dir: &Path, entrypoint: &Entrypoint, bytes: Vec<u8>) -> Result<()> {
    let single = artifact::single_file(entrypoint);
    let target = dir.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        aside(&target, |temporary| write_all(temporary, &single, &bytes))
    });
    unpacking
        .await
        .map_err(|error| Error::internal("unpacking was interrupted").because(error))?
}

fn write_all(dir: &Path, single: &str, bytes: &[u8]) -> Result<()> {
    let written = artifact::unpack(bytes, single, Limits::default(), |entry| {
        write_entry(dir, &entry).map_err(|error| format!("{}: {error}", entry.path))
    });
    written.map_err(|faults| {
        Error::invalid(
            faults
                .into_iter()
                .map(|fault| format!("agent_code.source_code: {fault}"))
                .collect(),
        )
    })
}

fn write_entry(dir: &Path, entry: &Entry) -> io::Result<()> {
    let path = dir.join(&entry.path);
    if let Some(parent) = path.parent() {
        open_dir(parent)?;
    }
    let mode = if entry.executable {
        DIR_MODE
    } else {
        FILE_MODE
    };
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)?;
    file.write_all(&entry.bytes)
}

/// Lets `fill` write into a folder beside `target` and renames it there. Two who do it at once: the first one stays.
pub fn aside(target: &Path, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let failed = |error: io::Error| {
        Error::unavailable(format!("{} cannot be written: {error}", target.display()))
            .because(error)
    };
    let parent = target
        .parent()
        .ok_or_else(|| Error::internal("a folder without a parent"))?;
    let temporary = parent.join(format!(".{}", uuid::Uuid::new_v4().simple()));
    open_dir(&temporary).map_err(failed)?;
    let filled = fill(&temporary).and_then(|()| match fs::rename(&temporary, target) {
        Err(_) if target.exists() => Ok(()),
        other => other.map_err(failed),
    });
    if temporary.exists() {
        // What is left of a failure, or of the slower one of two.
        fs::remove_dir_all(&temporary).ok();
    }
    filled
}

/// A name beside others in `dir` for what is not finished: `tidy` knows it.
pub fn aside_name(dir: &Path) -> PathBuf {
    dir.join(format!(".{}", uuid::Uuid::new_v4().simple()))
}

/// Whether a finished folder is there; if so, it counts as needed now, and `purge` leaves it alone.
pub fn claim(dir: &Path) -> bool {
    fs::File::open(dir)
        .and_then(|dir| dir.set_modified(std::time::SystemTime::now()))
        .is_ok()
}

/// Removes a folder that others wrote, also what they closed to its owner. No link is followed; nothing there is fine.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::symlink_metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // Where it cannot be opened, removing says so.
    open_all(dir).ok();
    fs::remove_dir_all(dir)
}

fn open_all(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(DIR_MODE))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_all(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes what a killed process left half-written.
pub async fn tidy(data_dir: &Path) {
    for room in ["code", "environments", "layers"] {
        let Ok(mut entries) = tokio::fs::read_dir(data_dir.join(room)).await else {
            continue;
        };
        while let Ok(Some(entry)) = entries.next_entry().await {
            if entry.file_name().to_string_lossy().starts_with('.') {
                let path = entry.path();
                if entry.file_type().await.is_ok_and(|kind| kind.is_dir()) {
                    tokio::task::spawn_blocking(move || remove_tree(&path))
                        .await
                        .ok();
                } else {
                    tokio::fs::remove_file(path).await.ok();
                }
            }
        }
    }
}
