//! Where things are: the program under test, the repository, the caches.

use std::path::{Path, PathBuf};

/// `PHALANX_BIN`, else the program of the same build as the running test.
pub fn phalanx() -> PathBuf {
    let path = std::env::var_os("PHALANX_BIN").map_or_else(beside_the_test, PathBuf::from);
    assert!(
        path.is_file(),
        "{} is not there: run the tests with tests/run, which builds it",
        path.display()
    );
    path
}

fn beside_the_test() -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("tests lie in target/PROFILE/deps");
    profile.join("phalanx")
}

pub fn repository() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the repository holds tests/")
        .to_owned()
}

pub fn example(name: &str) -> String {
    let path = repository().join("examples").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Shared by all tests: what the resolver has downloaded.
pub fn uv_cache() -> PathBuf {
    cache().join("uv")
}

/// Shared by all tests: what apt knows and has downloaded.
pub fn apt_cache() -> PathBuf {
    cache().join("apt")
}

fn cache() -> PathBuf {
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache");
    std::env::var_os("PHALANX_TEST_CACHE").map_or_else(
        || {
            std::env::var_os("XDG_CACHE_HOME")
                .map_or_else(home, PathBuf::from)
                .join("phalanx-tests")
        },
        PathBuf::from,
    )
}
