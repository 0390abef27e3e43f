//! Layers of other nodes: fetched by digest, refused when they are not what was put there, and made here instead.

use super::*;
use crate::{environment::Origin, host::LAYERS, shelf::spoilt};
use store::{Blobs, Config, Secrets, Store, blobs::Settings};
use tar::EntryType::Regular;

/// Two nodes with folders of their own have this in common.
async fn shared(dir: &Path) -> Store {
    let secrets = Secrets::new(&[1; 32]).expect("a key");
    let path = dir.join("store.db");
    let store = Store::open(&Config::Sqlite { path }, secrets).await;
    let settings = Settings {
        url: format!("file://{}", dir.join("shared").display()),
        ..Settings::default()
    };
    let blobs = Blobs::open(&settings).await.expect("a folder");
    store.expect("a store").with_blobs(blobs)
}

/// A node whose apt has nothing: it makes a layer of what is put into its folder, and of nothing else.
async fn node(place: &Place, store: &Store) -> System {
    let system = System::find(&place.dir, Some(place.dir.join("apt")), &place.level).await;
    assert_eq!(system.refusal(), None);
    system.shared(Shelf::of(store, LAYERS).map(Shelf::with_foreign_links))
}

async fn object(store: &Store, dir: &Path, digest: &str) -> PathBuf {
    let row = store.archive(digest, LAYERS).await.expect("read");
    dir.join("shared").join(row.expect("a row").name())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_has_made_is_fetched_seen_whole_and_run() {
    let first = Place::new("makes").await;
    let store = shared(&first.dir).await;
    let package = deb(
        "#!/bin/sh\nln -s /usr/bin/hello /usr/bin/hi\nln -s /etc/hostname /etc/own-link\nmkdir -p /opt/hello && echo data > /opt/hello/data\n",
        &[(
            "./usr/bin/hello",
            Regular,
            0o755,
            "#!/bin/sh\necho hello; cat /opt/hello/data\n",
        )],
    );
    let one = node(&first, &store).await;
    let (made, said) = laid(&one, &package).await;
    let made = made.unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert!(said.contains("is kept for other executors"), "{said}");
    let digest = made
        .file_name()
        .expect("a digest")
        .to_string_lossy()
        .into_owned();
    let base = Base::of_host().expect("Debian");
    let line = format!(
        "hostile=1 all {} sha256:{}",
        package.len(),
        domain::artifact::digest(&package)
    );
    let lock = Lock::parse(&format!("{}\n{line}\n", base.name)).expect("a lock");
    let lock = || Some(lock.text());

    // Asked twice at once: one of them brings it.
    let second = Place::new("fetches").await;
    let two = node(&second, &store).await;
    let (a, b) = tokio::join!(
        super::package(&two, &["hostile"], lock()),
        super::package(&two, &["hostile"], lock())
    );
    let mut origins = Vec::new();
    for (fetched, said) in [a, b] {
        let fetched = fetched.unwrap_or_else(|error| panic!("{error}\n{said}"));
        assert_eq!(fetched.digest, digest);
        origins.push(fetched.origin);
    }
    origins.sort_by_key(|origin| *origin == Origin::There);
    assert_eq!(origins, [Origin::Fetched, Origin::There]);
    let layer = two.folder(&lock().expect("one")).expect("a lock");
    let script = "hi; readlink /etc/own-link; touch /usr/bin/x /opt/hello/x";
    let (text, _) = second.shell(layer, script).await;
    assert!(text.starts_with("hello\ndata\n/etc/hostname\n"), "{text}");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");

    let object = object(&store, &first.dir, &digest).await;
    let whole = fs::read(&object).expect("read");
    let third = Place::new("refuses").await;
    let three = node(&third, &store).await;
    for (words, way) in spoilt::WAYS {
        spoilt::spoil(&object, whole.clone(), way);
        let (refused, said) = super::package(&three, &["hostile"], lock()).await;
        assert!(refused.is_err() && said.contains(words), "{said}");
        assert!(
            !third.dir.join("layers").join(&digest).exists(),
            "nothing of it is used"
        );
    }
    // Who can make it does, and puts it there anew.
    let (again, said) = laid(&three, &package).await;
    again.unwrap_or_else(|error| panic!("{error}\n{said}"));
    assert!(
        said.contains("is missing") && said.contains("is built"),
        "{said}"
    );
    let fourth = Place::new("fetches-again").await;
    let four = node(&fourth, &store).await;
    let (fetched, said) = super::package(&four, &["hostile"], lock()).await;
    assert_eq!(fetched.expect("fetched").origin, Origin::Fetched, "{said}");
}
