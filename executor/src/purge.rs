//! What no version needs any more goes from this node's disk, and from where nodes share what they have made: code, environments, layers.
//!
//! In: what versions of living agents need (rows), what is hosted here, when a folder was last needed. Out: folders that are gone. A folder
//! that is hosted is never touched; one that somebody is about to use was claimed a moment ago (`files::claim`), which this side sees
//! after it has moved the folder away, and puts it back. What is gone by mistake or by bad luck is made or fetched anew, as on a new node.

use crate::{files, host::Node};
use domain::{Result, Timestamp};
use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// Archives that one look takes away at most.
const SLICE: u32 = 100;

pub async fn run(node: Arc<Node>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(every(node.config.unused));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        match purge(&node).await {
            Ok(gone) if gone > 0 => tracing::info!(
                "{gone} folders and archives of code and packages are gone that no version needed any more"
            ),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(error = ?error, "unneeded code and packages were not looked for");
            }
        }
    }
}

/// Nothing stays a quarter longer than it must, or an hour.
fn every(unused: Duration) -> Duration {
    (unused / 4).clamp(Duration::from_secs(1), Duration::from_secs(3600))
}

async fn purge(node: &Node) -> Result<usize> {
    let needed = node.store.needed().await?;
    let environments: HashSet<String> = needed
        .locks
        .iter()
        .map(|lock| node.environments.digest(lock))
        .collect();
    let mut layers = HashSet::new();
    for lock in &needed.systems {
        layers.extend(node.system.digest(lock)?);
    }
    let shared = purge_shared(node, environments.iter().chain(&layers)).await?;
    let hosted: HashSet<PathBuf> = node
        .pools()
        .iter()
        .flat_map(|pool| pool.version.folders())
        .collect();
    let rooms = [
        ("code", needed.code),
        ("environments", environments),
        ("layers", layers),
    ];
    let (data_dir, unused) = (node.config.data_dir.clone(), node.config.unused);
    let purging = tokio::task::spawn_blocking(move || {
        let rooms = rooms.iter();
        rooms
            .map(|(room, needed)| purge_room(&data_dir.join(room), needed, &hosted, unused))
            .sum::<usize>()
    });
    Ok(shared + purging.await.unwrap_or(0))
}

/// Says of what is needed that it is; what nobody has said that of for so long goes, the bytes first: a row without them is found out, and
/// put right, by whoever asks for it.
async fn purge_shared(node: &Node, needed: impl Iterator<Item = &String>) -> Result<usize> {
    let (store, now) = (&node.store, node.store.now());
    let Some(blobs) = store.blobs() else {
        return Ok(0);
    };
    let needed: Vec<&str> = needed.map(String::as_str).collect();
    store.use_archives(&needed, now).await?;
    let unused = i64::try_from(node.config.unused.as_millis()).unwrap_or(i64::MAX);
    let before = Timestamp(now.0.saturating_sub(unused));
    let mut gone = 0;
    for archive in store.unused_archives(before, SLICE).await? {
        blobs.delete(&archive.name()).await?;
        gone += usize::from(store.forget_archive(&archive, before).await?);
    }
    Ok(gone)
}

/// Names begin with the digest of what they hold.
fn purge_room(
    room: &Path,
    needed: &HashSet<String>,
    hosted: &HashSet<PathBuf>,
    unused: Duration,
) -> usize {
    let Ok(entries) = fs::read_dir(room) else {
        return 0; // nothing was ever made here
    };
    let mut gone = 0;
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        let digest = name.split('-').next().unwrap_or_default();
        if name.starts_with('.') || hosted.contains(&path) {
            continue;
        }
        if needed.contains(digest) {
            files::claim(&path);
        } else if is_unused(&path, unused) {
            match remove(room, &path, unused) {
                Ok(removed) => gone += usize::from(removed),
                Err(error) => tracing::warn!(error = ?error, "{} is not removed", path.display()),
            }
        }
    }
    gone
}

fn remove(room: &Path, path: &Path, unused: Duration) -> io::Result<bool> {
    let aside = files::aside_name(room);
    fs::rename(path, &aside)?;
    if !is_unused(&aside, unused) && fs::rename(&aside, path).is_ok() {
        return Ok(false);
    }
    files::remove_tree(&aside)?;
    Ok(true)
}

fn is_unused(path: &Path, unused: Duration) -> bool {
    let modified = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    // A time in the future is as good as now.
    modified.is_ok_and(|then| {
        SystemTime::now()
            .duration_since(then)
            .is_ok_and(|age| age >= unused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    struct Room(PathBuf);

    impl Room {
        fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("phalanx-purge-{}", uuid::Uuid::new_v4()));
            fs::create_dir(&dir).expect("a folder");
            Self(dir)
        }

        fn folder(&self, name: &str, age: Duration) -> PathBuf {
            let dir = self.0.join(name);
            fs::create_dir(&dir).expect("a folder");
            fs::write(dir.join("file"), "bytes").expect("written");
            self.age(name, age);
            dir
        }

        fn age(&self, name: &str, age: Duration) {
            let dir = fs::File::open(self.0.join(name)).expect("a folder");
            dir.set_modified(SystemTime::now() - age).expect("aged");
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("read").flatten();
            let mut names: Vec<String> = entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect();
            names.sort();
            names
        }
    }

    impl Drop for Room {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn only_what_is_neither_needed_nor_hosted_nor_fresh_goes() {
        let room = Room::new();
        room.folder("aa-agent.py", 2 * DAY);
        room.folder("bb", 2 * DAY);
        let hosted = HashSet::from([room.folder("cc", 2 * DAY)]);
        room.folder("dd", DAY / 2);
        room.folder(".half-made", 2 * DAY);
        let needed = HashSet::from(["aa".to_owned()]);
        assert_eq!(purge_room(&room.0, &needed, &hosted, DAY), 1);
        assert_eq!(room.names(), [".half-made", "aa-agent.py", "cc", "dd"]);
        // What is needed counts from when it was needed last, not from when it was made.
        assert_eq!(purge_room(&room.0, &HashSet::new(), &hosted, DAY), 0);
        room.age("aa-agent.py", 2 * DAY);
        assert_eq!(purge_room(&room.0, &HashSet::new(), &hosted, DAY), 1);
        assert_eq!(room.names(), [".half-made", "cc", "dd"]);
    }

    #[test]
    fn what_is_claimed_in_time_stays() {
        let room = Room::new();
        let dir = room.folder("aa", 2 * DAY);
        assert!(files::claim(&dir));
        assert!(!remove(&room.0, &dir, DAY).expect("looked at"));
        assert_eq!(room.names(), ["aa"]);
        room.age("aa", 2 * DAY);
        assert!(remove(&room.0, &dir, DAY).expect("removed"));
        assert!(!files::claim(&dir), "whoever comes now makes it anew");
        assert_eq!(room.names(), Vec::<String>::new());
    }
}
