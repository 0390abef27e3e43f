//! What was resolved, as text: exact versions with the digests of the signed index, in the order of their installation.
//!
//! ```text
//! debian-12-amd64
//! libcgraph6=2.42.2-7+deb12u1 amd64 63488 sha256:…
//! -
//! graphviz=2.42.2-7+deb12u1 amd64 610532 sha256:…
//! ```
//! The first line is the base: packages fit the release that they were made for. At a `-` what came before is set up first.

use domain::{Error, Result, artifact};

/// Changes when a layer is made in another way: then none that was made before is taken for one.
const MAKE: &str = "1";
const PAUSE: &str = "-";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    pub base: String,
    pub steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Package(Package),
    SetUp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    pub name: String,
    pub version: String,
    pub arch: String,
    pub size: u64,
    pub sha256: String,
}

impl Lock {
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.steps.iter().filter_map(|step| match step {
            Step::Package(package) => Some(package),
            Step::SetUp => None,
        })
    }

    pub fn text(&self) -> String {
        let mut text = self.base.clone() + "\n";
        for step in &self.steps {
            match step {
                Step::Package(one) => {
                    let Package {
                        name,
                        version,
                        arch,
                        size,
                        sha256,
                    } = one;
                    text += &format!("{name}={version} {arch} {size} sha256:{sha256}\n");
                }
                Step::SetUp => text += "-\n",
            }
        }
        text
    }

    pub fn digest(&self) -> String {
        artifact::digest(format!("system packages {MAKE}\n{}", self.text()).as_bytes())
    }

    pub fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines();
        let base = lines
            .next()
            .filter(|base| !base.contains(char::is_control))
            .unwrap_or_default()
            .to_owned();
        let steps = lines
            .map(|line| match line {
                PAUSE => Some(Step::SetUp),
                line => package(line).map(Step::Package),
            })
            .collect::<Option<_>>();
        steps
            .map(|steps| Self { base, steps })
            .ok_or_else(|| Error::internal("a lock of system packages cannot be read"))
    }
}

/// It becomes the name of a file.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn package(line: &str) -> Option<Package> {
    let words: Vec<&str> = line.split(' ').collect();
    let [named, arch, size, digest] = words[..] else {
        return None;
    };
    let (name, version) = named.split_once('=')?;
    let sha256 = digest.strip_prefix("sha256:")?;
    is_sha256(sha256).then(|| {
        Some(Package {
            name: name.to_owned(),
            version: version.to_owned(),
            arch: arch.to_owned(),
            size: size.parse().ok()?,
            sha256: sha256.to_owned(),
        })
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::{cases, changed};
    use proptest::prelude::*;

    #[test]
    fn text_and_back() {
        let text = format!(
            "debian-12-amd64\na=1:2+b amd64 7 sha256:{0}\n-\nlibb1=3~rc1 all 8 sha256:{0}\n",
            "ab".repeat(32)
        );
        let lock = Lock::parse(&text).expect("a lock");
        assert_eq!(lock.text(), text);
        assert_eq!(lock.packages().count(), 2);
        assert_ne!(
            lock.digest(),
            Lock::parse("debian-12-amd64\n").expect("empty").digest()
        );
        for bad in [
            "a=1 amd64 7 sha256:../x",
            "a amd64 7 sha256:ab",
            "a=1 amd64 x",
            "a=1",
        ] {
            assert!(Lock::parse(&format!("debian\n{bad}\n")).is_err(), "{bad}");
        }
    }

    proptest! {
        #![proptest_config(cases())]

        /// Whatever is read as a lock is the same lock once it is written, and its digests are names of files.
        #[test]
        fn nearly_good_locks(text in changed(("[a-z]{1,6}-[0-9]{1,2}-[a-z0-9]{1,5}", prop::collection::vec(prop_oneof![
            Just("-".to_owned()),
            "[a-z]{1,5}=[0-9][0-9a-z.+:~-]{0,9} (amd64|all) [0-9]{1,20} sha256:[0-9a-f]{64}",
        ], 0..5)).prop_map(|(base, lines)| format!("{base}\n{}\n", lines.join("\n")).into_bytes()))) {
            let text = String::from_utf8_lossy(&text);
            if let Ok(lock) = Lock::parse(&text) {
                prop_assert!(lock.packages().all(|one| one.sha256.len() == 64 && one.sha256.bytes().all(|b| b.is_ascii_hexdigit())));
                prop_assert!(lock.steps.len() <= text.lines().count());
                let again = Lock::parse(&lock.text());
                prop_assert_eq!(again.ok(), Some(lock));
            }
        }
    }
}
