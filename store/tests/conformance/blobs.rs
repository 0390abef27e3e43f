//! Code and environments outside of the rows: what the rows say of them, and that they are believed only when they are whole.

use crate::agents::{accepted, spec};
use crate::world::account;
use domain::{Kind, Result, Timestamp, artifact};
use std::{fs, path::PathBuf, sync::Arc};
use store::{
    Blobs, Store,
    agents::Accepted,
    blobs::Settings,
    environments::Archive,
    versions::{self, New},
};

/// A folder that is gone when the case has ended.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let name = format!("phalanx-blobs-{}", uuid::Uuid::now_v7().as_simple());
        Self(std::env::temp_dir().join(name))
    }

    async fn open(&self) -> Result<Blobs> {
        let settings = Settings {
            url: format!("file://{}", self.0.display()),
            ..Settings::default()
        };
        Ok(Blobs::open(&settings).await?.expect("an object store"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

pub const CODE: &[u8] = b"\0\x01def handler(): ...";

/// A deployment of version 1.`minor` with this code.
pub fn deploys(store: &Store, minor: u64, code: &[u8]) -> Result<Accepted> {
    let account = account("a");
    let mut new = accepted(store, &account, spec("echo", (1, minor), &[]), 10)?;
    if minor > 0 {
        new.agent = None;
    }
    let digest = artifact::digest(code);
    new.artifact = Some(versions::Artifact {
        account,
        digest: digest.clone(),
        bytes: Arc::from(code),
        created_at: Timestamp(10),
    });
    new.version = new.version.map(|version| New {
        artifact: digest,
        ..version
    });
    Ok(new)
}

pub async fn code_goes_there_and_comes_back(store: &Store) -> Result<()> {
    let folder = Folder::new();
    let shared = store.clone().with_blobs(Some(folder.open().await?));
    let (account, digest) = (account("a"), artifact::digest(CODE));
    assert!(
        shared
            .accept_deployment(&deploys(&shared, 0, CODE)?)
            .await?
    );
    assert!(
        shared
            .accept_deployment(&deploys(&shared, 1, CODE)?)
            .await?
    );
    assert_eq!(
        shared.artifact(&account, &digest).await?.as_deref(),
        Some(CODE)
    );
    assert_eq!(
        fs::read(folder.0.join("artifacts").join(&digest)).expect("a blob"),
        CODE
    );
    let error = store
        .artifact(&account, &digest)
        .await
        .expect_err("no rows hold it");
    assert!(error.message.contains(&digest), "{error}");
    assert!(error.message.contains("blobs.url"), "{error}");
    Ok(())
}

pub async fn rows_from_before_are_still_read(store: &Store) -> Result<()> {
    let folder = Folder::new();
    let shared = store.clone().with_blobs(Some(folder.open().await?));
    let (account, digest) = (account("a"), artifact::digest(CODE));
    assert!(store.accept_deployment(&deploys(store, 0, CODE)?).await?);
    assert_eq!(
        shared.artifact(&account, &digest).await?.as_deref(),
        Some(CODE)
    );
    assert!(
        shared
            .artifact(&account, &artifact::digest(b"other"))
            .await?
            .is_none()
    );

    // Deployed again, it is found where it was put last: there, and then in a row once more.
    assert!(
        shared
            .accept_deployment(&deploys(&shared, 1, CODE)?)
            .await?
    );
    assert!(store.artifact(&account, &digest).await.is_err());
    assert_eq!(
        shared.artifact(&account, &digest).await?.as_deref(),
        Some(CODE)
    );
    assert!(store.accept_deployment(&deploys(store, 2, CODE)?).await?);
    assert_eq!(
        store.artifact(&account, &digest).await?.as_deref(),
        Some(CODE)
    );
    Ok(())
}

pub async fn missing_or_spoilt_code_is_named(store: &Store) -> Result<()> {
    let folder = Folder::new();
    let shared = store.clone().with_blobs(Some(folder.open().await?));
    let (account, digest) = (account("a"), artifact::digest(CODE));
    assert!(
        shared
            .accept_deployment(&deploys(&shared, 0, CODE)?)
            .await?
    );
    let blob = folder.0.join("artifacts").join(&digest);

    let same_length = vec![b'x'; CODE.len()];
    let longer = [CODE, b"more"].concat();
    for (spoilt, words) in [(same_length, "not what was put"), (longer, "more than")] {
        fs::write(&blob, spoilt).expect("written");
        let error = shared
            .artifact(&account, &digest)
            .await
            .expect_err("spoilt");
        assert_eq!(error.kind, Kind::Internal);
        assert!(error.message.contains(&digest), "{error}");
        assert!(error.message.contains(words), "{error}");
    }
    fs::remove_file(&blob).expect("removed");
    let error = shared
        .artifact(&account, &digest)
        .await
        .expect_err("missing");
    assert_eq!(error.kind, Kind::Internal);
    assert!(
        error.message.contains(&digest) && error.message.contains("missing"),
        "{error}"
    );

    // What the message advises works.
    assert!(
        shared
            .accept_deployment(&deploys(&shared, 1, CODE)?)
            .await?
    );
    assert_eq!(
        shared.artifact(&account, &digest).await?.as_deref(),
        Some(CODE)
    );
    Ok(())
}

pub async fn nothing_is_committed_that_could_not_be_put(store: &Store) -> Result<()> {
    let folder = Folder::new();
    let shared = store.clone().with_blobs(Some(folder.open().await?));
    // Where the blobs belong there is a file.
    fs::write(folder.0.join("artifacts"), "in the way").expect("written");
    let new = deploys(&shared, 0, CODE)?;
    let error = shared.accept_deployment(&new).await.expect_err("not put");
    assert_eq!(error.kind, Kind::Unavailable);
    assert!(
        store
            .deployment(&account("a"), &new.deployment.id)
            .await?
            .is_none()
    );
    fs::remove_file(folder.0.join("artifacts")).expect("removed");

    let mut lying = deploys(&shared, 0, CODE)?;
    if let Some(code) = &mut lying.artifact {
        code.bytes = Arc::from(&b"other"[..]);
    }
    assert!(
        shared.accept_deployment(&lying).await.is_err(),
        "the digest is not its own"
    );
    assert!(shared.accept_deployment(&new).await?);
    Ok(())
}

pub async fn an_environment_is_kept_once_and_replaced_when_spoilt(store: &Store) -> Result<()> {
    let archive = |libc: &str, archive: &str| Archive {
        digest: "lock".into(),
        libc: libc.into(),
        archive: archive.into(),
        size: 5_000_000_000,
        created_at: Timestamp(7),
    };
    assert!(store.archive("lock", "glibc-2.36").await?.is_none());
    let (one, two, three) = (
        archive("glibc-2.36", "one"),
        archive("glibc-2.36", "two"),
        archive("glibc-2.36", "three"),
    );
    assert!(store.keep_archive(&one, None).await?);
    assert!(
        !store.keep_archive(&two, None).await?,
        "the first one stays"
    );
    assert!(!store.keep_archive(&two, Some("other")).await?);
    assert_eq!(
        store.archive("lock", "glibc-2.36").await?,
        Some(one.clone())
    );
    assert!(store.keep_archive(&two, Some("one")).await?);
    assert!(
        !store.keep_archive(&three, Some("one")).await?,
        "another was quicker"
    );
    assert_eq!(
        store.archive("lock", "glibc-2.36").await?,
        Some(two.clone())
    );
    assert!(store.archive("lock", "musl-1.2").await?.is_none());
    assert!(
        store
            .keep_archive(&archive("musl-1.2", "one"), None)
            .await?
    );
    assert_eq!(store.archive("lock", "glibc-2.36").await?, Some(two));
    assert_ne!(one.name(), archive("glibc-2.36", "two").name());
    Ok(())
}

pub async fn archives_go_when_nobody_needs_them(store: &Store) -> Result<()> {
    let archive = |digest: &str, libc: &str, created_at: i64| Archive {
        digest: digest.into(),
        libc: libc.into(),
        archive: "bytes".into(),
        size: 5_000_000_000,
        created_at: Timestamp(created_at),
    };
    let (old, other, new) = (
        archive("old", "glibc-2.36", 10),
        archive("old", "musl-1.2", 10),
        archive("new", "glibc-2.36", 50),
    );
    for archive in [&old, &other, &new] {
        assert!(store.keep_archive(archive, None).await?);
    }
    let unused = |before: i64| store.unused_archives(Timestamp(before), 10);
    assert_eq!(unused(10).await?, [], "made just then");
    assert_eq!(unused(50).await?, [old.clone(), other.clone()]);
    assert_eq!(store.unused_archives(Timestamp(50), 1).await?.len(), 1);

    // One needs it while another is about to delete it.
    store
        .use_archives(&["old", "unknown"], Timestamp(60))
        .await?;
    store.use_archives(&["old"], Timestamp(30)).await?; // a slower clock takes nothing back
    assert!(!store.forget_archive(&old, Timestamp(50)).await?);
    assert_eq!(unused(60).await?, std::slice::from_ref(&new));
    assert_eq!(unused(61).await?.len(), 3);
    let replaced = Archive {
        archive: "other bytes".into(),
        ..new.clone()
    };
    assert!(store.keep_archive(&replaced, Some("bytes")).await?);
    assert!(
        !store.forget_archive(&new, Timestamp(61)).await?,
        "made anew meanwhile"
    );
    assert!(store.forget_archive(&replaced, Timestamp(61)).await?);
    assert!(!store.forget_archive(&replaced, Timestamp(61)).await?);
    assert!(store.archive("new", "glibc-2.36").await?.is_none());
    assert_eq!(store.archive("old", "glibc-2.36").await?, Some(old));
    Ok(())
}
