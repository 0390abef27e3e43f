//! Where nodes find environments that another one has built: packed, in the object store, named by a row.
//!
//! It is a shortcut and never in the way: whatever goes wrong with it is said, and the environment is built.

use crate::{
    archive::{self, Limits},
    environment::Say,
    files,
};
use domain::{Error, Result};
use std::path::{Path, PathBuf};
use store::{Blobs, Store, environments::Archive};

pub struct Shelf {
    store: Store,
    blobs: Blobs,
    libc: String,
    limits: Limits,
}

/// What came of looking for an environment.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Fetched,
    Absent,
    /// The archive of this digest is missing or not what was put there.
    Spoilt(String),
    /// It may be there, but nobody answered.
    Unanswered,
}

impl Shelf {
    /// `None` where there is no object store.
    pub fn of(store: &Store, libc: &str) -> Option<Self> {
        store.blobs().map(|blobs| Self {
            store: store.clone(),
            blobs: blobs.clone(),
            libc: libc.to_owned(),
            limits: Limits::default(),
        })
    }

    /// For folders whose links may lead anywhere.
    pub fn with_foreign_links(mut self) -> Self {
        self.limits.foreign_links = true;
        self
    }

    /// Unpacks the environment to `folder` if another node has put it here.
    pub async fn fetch(&self, digest: &str, folder: &Path, say: Say<'_>) -> Found {
        let archive = match self.store.archive(digest, &self.libc).await {
            Ok(None) => return Found::Absent,
            Ok(Some(archive)) => archive,
            Err(error) => return unanswered(&error, say),
        };
        if let Some(parent) = folder.parent() {
            // If it cannot be made, what is written there says so.
            files::make_dir(parent).await.ok();
        }
        let file = beside(folder);
        let found = self.unpacked(&archive, &file, folder, say).await;
        tokio::fs::remove_file(&file).await.ok();
        found
    }

    async fn unpacked(&self, archive: &Archive, file: &Path, folder: &Path, say: Say<'_>) -> Found {
        let spoilt = |why: &str| {
            let name = archive.name();
            tracing::warn!("{name} in {} {why}", self.blobs);
            say(format!("{name} in {} {why}", self.blobs));
            Found::Spoilt(archive.archive.clone())
        };
        let came = self
            .blobs
            .get_file(&archive.name(), file, archive.size)
            .await;
        match came {
            Ok(Some(digest)) if digest == archive.archive => {}
            Ok(Some(_)) => return spoilt("is not what was put there"),
            Ok(None) => return spoilt("is missing"),
            Err(error) if error.kind == domain::Kind::Internal => return spoilt("is too large"),
            Err(error) => return unanswered(&error, say),
        }
        let (file, target, limits) = (file.to_owned(), folder.to_owned(), self.limits);
        let unpacking = tokio::task::spawn_blocking(move || {
            files::aside(&target, |temporary| {
                archive::unpack(&file, temporary, limits).map_err(|error| {
                    Error::unavailable(format!("it cannot be unpacked: {error}")).because(error)
                })
            })
        });
        match unpacking.await {
            Ok(Ok(())) => Found::Fetched,
            Ok(Err(error)) => unanswered(&error, say),
            Err(panic) => unanswered(
                &Error::internal("unpacking was interrupted").because(panic),
                say,
            ),
        }
    }

    /// Puts a built environment here for the other nodes, in the place of a spoilt one if there was one.
    pub async fn keep(&self, digest: &str, folder: &Path, spoilt: Option<&str>, say: Say<'_>) {
        let file = beside(folder);
        let kept = self.put(digest, folder, &file, spoilt).await;
        tokio::fs::remove_file(&file).await.ok();
        let name = &digest[..12];
        match kept {
            Ok(true) => say(format!("environment {name} is kept for other executors")),
            Ok(false) => say(format!(
                "environment {name} was kept by another executor meanwhile"
            )),
            Err(error) => {
                tracing::warn!(error = ?error, "environment {name} is not kept for other executors");
                say(format!(
                    "environment {name} is not kept for other executors: {error}"
                ));
            }
        }
    }

    async fn put(
        &self,
        digest: &str,
        folder: &Path,
        file: &Path,
        spoilt: Option<&str>,
    ) -> Result<bool> {
        let (from, to) = (folder.to_owned(), file.to_owned());
        let packed = tokio::task::spawn_blocking(move || archive::pack(&from, &to));
        let packed = packed
            .await
            .map_err(|panic| Error::internal("packing was interrupted").because(panic))?
            .map_err(|error| {
                Error::unavailable(format!("it cannot be packed: {error}")).because(error)
            })?;
        let archive = Archive {
            digest: digest.to_owned(),
            libc: self.libc.clone(),
            archive: packed.digest,
            size: packed.size,
            created_at: self.store.now(),
        };
        self.blobs.put_file(&archive.name(), file).await?;
        if spoilt == Some(archive.archive.as_str()) {
            // The same bytes again: the row names them already.
            return Ok(true);
        }
        if self.store.keep_archive(&archive, spoilt).await? {
            return Ok(true);
        }
        // Another node was quicker; if it packed the same bytes, they lie under the same name.
        let stays = self.store.archive(digest, &self.libc).await?;
        if stays.is_none_or(|stays| stays.archive != archive.archive) {
            self.blobs.delete(&archive.name()).await?;
        }
        Ok(false)
    }
}

/// Removed at the next start if this one does not come to it.
fn beside(folder: &Path) -> PathBuf {
    folder.with_file_name(format!(".{}", uuid::Uuid::new_v4().simple()))
}

fn unanswered(error: &Error, say: Say<'_>) -> Found {
    tracing::warn!(error = ?error, "an environment is built because it cannot be fetched");
    say(format!("the environment cannot be fetched: {error}"));
    Found::Unanswered
}

/// What can have become of an archive where nodes share it.
#[cfg(test)]
pub mod spoilt {
    use std::{fs, path::Path};

    /// What is left of its bytes; `None`: not even the object.
    type Way = fn(Vec<u8>) -> Option<Vec<u8>>;

    /// What is said of it then, and the way.
    pub const WAYS: [(&str, Way); 3] = [
        ("is not what was put there", |mut bytes| {
            *bytes.last_mut()? ^= 1;
            Some(bytes)
        }),
        ("is too large", |bytes| Some([&bytes[..], b"x"].concat())),
        ("is missing", |_| None),
    ];

    pub fn spoil(object: &Path, whole: Vec<u8>, way: Way) {
        match way(whole) {
            Some(bytes) => fs::write(object, bytes).expect("written"),
            None => fs::remove_file(object).expect("removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        environment::{Built, Environments, Origin},
        python::Python,
        uv::Uv,
    };
    use std::{fs, sync::Mutex};
    use store::{Config, Secrets, blobs::Settings};

    /// Rows and objects that several nodes share.
    struct World {
        dir: PathBuf,
        store: Store,
        python: Python,
    }

    impl World {
        async fn new() -> Self {
            let dir = std::env::temp_dir().join(format!("phalanx-shelf-{}", uuid::Uuid::new_v4()));
            fs::create_dir_all(&dir).expect("a folder");
            let path = dir.join("store.db");
            let secrets = Secrets::new(&[1; 32]).expect("a key");
            let store = Store::open(&Config::Sqlite { path }, secrets).await;
            let settings = Settings {
                url: format!("file://{}", dir.join("shared").display()),
                ..Settings::default()
            };
            let blobs = Blobs::open(&settings).await.expect("a folder");
            Self {
                store: store.expect("a store").with_blobs(blobs),
                python: Python::find("python3").await.expect("a host with Python"),
                dir,
            }
        }

        /// A node that has a folder of its own; without a resolver it cannot build.
        fn node(&self, name: &str, builds: bool) -> Environments {
            let dir = self.dir.join(name);
            let uv = (!builds).then(|| dir.join("no-such-program"));
            let shelf = Shelf::of(&self.store, &self.python.libc);
            assert!(shelf.is_some());
            Environments::new(&dir, Uv::new(&dir, uv, None), self.python.clone()).shared(shelf)
        }

        /// The only archive there is.
        async fn object(&self, digest: &str) -> PathBuf {
            let row = self.store.archive(digest, &self.python.libc).await;
            let row = row.expect("read").expect("a row");
            self.dir.join("shared").join(row.name())
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.dir).ok();
        }
    }

    async fn package(node: &Environments, lock: Option<&Built>) -> (Result<Built>, String) {
        let wanted = ["six==1.16.0".parse().expect("a requirement")];
        let said = Mutex::new(Vec::new());
        let lock = lock.map(|built| built.lock.clone());
        let built = node
            .package(&wanted, lock, &|line| said.lock().expect("lock").push(line))
            .await;
        let said = said.into_inner().expect("lock");
        (built, said.join("\n"))
    }

    #[tokio::test]
    async fn what_one_node_builds_the_others_fetch_once() {
        let world = World::new().await;
        let first = world.node("first", true);
        let (built, said) = package(&first, None).await;
        let built = built.unwrap_or_else(|error| panic!("{error}\n{said}"));
        assert_eq!(built.origin, Origin::Built, "{said}");
        assert!(said.contains("is kept for other executors"), "{said}");

        let second = world.node("second", false);
        let (one, other) = tokio::join!(
            package(&second, Some(&built)),
            package(&second, Some(&built))
        );
        let mut origins = Vec::new();
        for (fetched, said) in [one, other] {
            let fetched = fetched.unwrap_or_else(|error| panic!("{error}\n{said}"));
            assert_eq!(fetched.digest, built.digest);
            assert_eq!(
                said.contains("is fetched"),
                fetched.origin == Origin::Fetched,
                "{said}"
            );
            origins.push(fetched.origin);
        }
        origins.sort_by_key(|origin| *origin == Origin::There);
        assert_eq!(origins, [Origin::Fetched, Origin::There]);

        let folder = second.folder(&built.lock).expect("packages");
        let module = fs::metadata(folder.join("six.py")).expect("there");
        let bytecode = format!("__pycache__/six.{}.pyc", cache_tag(&world.python));
        let bytecode = fs::read(folder.join(bytecode)).expect("bytecode");
        let modified = module.modified().expect("a time");
        let modified = modified.duration_since(std::time::UNIX_EPOCH);
        let seconds = modified.expect("after 1970").as_secs() as u32;
        assert_eq!(
            bytecode[8..12],
            seconds.to_le_bytes(),
            "the bytecode is taken for this source's"
        );
        let beside = folder.parent().expect("a folder").read_dir().expect("read");
        assert_eq!(beside.count(), 1, "nothing is left beside it");
    }

    fn cache_tag(python: &Python) -> &str {
        let end = python.tag.match_indices('-').nth(1).expect("a platform").0;
        &python.tag[..end]
    }

    #[tokio::test]
    async fn a_spoilt_archive_is_refused_and_replaced() {
        let world = World::new().await;
        let (built, said) = package(&world.node("first", true), None).await;
        let built = built.unwrap_or_else(|error| panic!("{error}\n{said}"));
        for (n, (words, way)) in spoilt::WAYS.into_iter().enumerate() {
            let object = world.object(&built.digest).await;
            spoilt::spoil(&object, fs::read(&object).expect("read"), way);
            let cannot_build = world.node(&format!("{n} without"), false);
            let (refused, said) = package(&cannot_build, Some(&built)).await;
            assert!(refused.is_err() && said.contains(words), "{said}");
            let folder = cannot_build.folder(&built.lock).expect("packages");
            assert!(!folder.exists(), "nothing of it is used");

            let (again, said) =
                package(&world.node(&format!("{n} builds"), true), Some(&built)).await;
            assert_eq!(again.expect("built").origin, Origin::Built, "{said}");
            assert!(said.contains(words) && said.contains("is built"), "{said}");
            let (fetched, said) =
                package(&world.node(&format!("{n} fetches"), false), Some(&built)).await;
            assert_eq!(fetched.expect("fetched").origin, Origin::Fetched, "{said}");
        }
    }

    #[tokio::test]
    async fn an_object_store_that_cannot_be_written_is_not_in_the_way() {
        let world = World::new().await;
        fs::write(world.dir.join("shared/environments"), "in the way").expect("written");
        let (built, said) = package(&world.node("first", true), None).await;
        let built = built.unwrap_or_else(|error| panic!("{error}\n{said}"));
        assert_eq!(built.origin, Origin::Built);
        assert!(said.contains("is not kept for other executors"), "{said}");
        let row = world.store.archive(&built.digest, &world.python.libc).await;
        assert_eq!(row.expect("read"), None, "no row names what is not there");
    }
}
