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
        let base = lines.next().unwrap_or_default().to_owned();
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

fn package(line: &str) -> Option<Package> {
    let words: Vec<&str> = line.split(' ').collect();
    let [named, arch, size, digest] = words[..] else {
        return None;
    };
    let (name, version) = named.split_once('=')?;
    let sha256 = digest.strip_prefix("sha256:")?;
    // It becomes the name of a file.
    let hex = sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| {
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
}
