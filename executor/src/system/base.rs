//! What every host of a Debian release has: its essential and required packages, and what these depend on. All else comes with a
//! layer, whatever this host has installed besides: so hosts of one release can share what is resolved and made.
//!
//! In: the host's own list of packages, read and never written. Out: names, the stanzas that describe them, and the release.

use domain::{Error, Result};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
};

pub const STATUS: &str = "/var/lib/dpkg/status";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// `debian-12-amd64`.
    pub name: String,
    /// The stanza of each package.
    pub packages: BTreeMap<String, String>,
}

impl Base {
    /// Reads the host's. An error says why this host is none of Debian's kin.
    pub fn of_host() -> Result<Self> {
        let missing = |path: &str, error: &dyn std::fmt::Display| {
            Error::conflict(format!(
                "this host is not Debian or one of its kin: {path}: {error}"
            ))
        };
        let release = "/etc/os-release";
        let words = fs::read_to_string(release).map_err(|error| missing(release, &error))?;
        let status = fs::read_to_string(STATUS).map_err(|error| missing(STATUS, &error))?;
        let field = |name: &str| {
            let line = words.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim_matches('"').to_owned())
        };
        let packages = closure(&status);
        let arch = packages
            .get("dpkg")
            .and_then(|stanza| of(stanza, "Architecture"));
        match (field("ID="), field("VERSION_ID="), arch) {
            (Some(id), Some(version), Some(arch)) => Ok(Self {
                name: format!("{id}-{version}-{arch}"),
                packages,
            }),
            (Some(id), None, Some(arch)) => Ok(Self {
                name: format!("{id}-{arch}"),
                packages,
            }),
            _ => Err(missing(STATUS, &"it does not list dpkg")),
        }
    }

    /// The list of packages of a host that has nothing but the base.
    pub fn status(&self) -> String {
        self.packages
            .values()
            .map(|stanza| format!("{}\n\n", stanza.trim_matches('\n')))
            .collect()
    }
}

/// A field's first line.
pub fn of<'a>(stanza: &'a str, field: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.trim())
    })
}

fn closure(status: &str) -> BTreeMap<String, String> {
    let mut installed: BTreeMap<&str, &str> = BTreeMap::new();
    let mut provided: HashMap<&str, &str> = HashMap::new();
    let native = status.split("\n\n").find_map(|stanza| {
        (of(stanza, "Package") == Some("dpkg")).then(|| of(stanza, "Architecture"))?
    });
    for stanza in status.split("\n\n") {
        let Some(name) = of(stanza, "Package") else {
            continue;
        };
        let arch = of(stanza, "Architecture");
        let fits = arch == native || arch == Some("all");
        if !fits || of(stanza, "Status").is_none_or(|is| !is.ends_with(" installed")) {
            continue;
        }
        installed.insert(name, stanza);
        for other in names(of(stanza, "Provides").unwrap_or_default()).flatten() {
            provided.entry(other).or_insert(name);
        }
    }
    let is_base = |stanza: &&str| {
        of(stanza, "Essential") == Some("yes") || of(stanza, "Priority") == Some("required")
    };
    let mut left: Vec<&str> = installed
        .iter()
        .filter(|(_, stanza)| is_base(stanza))
        .map(|(name, _)| *name)
        .collect();
    let mut base = BTreeSet::new();
    while let Some(name) = left.pop() {
        let Some(stanza) = installed.get(name) else {
            continue;
        };
        if !base.insert(name) {
            continue;
        }
        for field in ["Pre-Depends", "Depends"] {
            for mut either in names(of(stanza, field).unwrap_or_default()) {
                let known = either.find_map(|one| {
                    let itself = installed.contains_key(one).then_some(one);
                    itself.or_else(|| provided.get(one).copied())
                });
                left.extend(known);
            }
        }
    }
    base.into_iter()
        .map(|name| (name.to_owned(), installed[name].to_owned()))
        .collect()
}

/// `a (>= 1) | b:any, c` gives [a, b], [c].
fn names(field: &str) -> impl Iterator<Item = impl Iterator<Item = &str>> {
    field.split(',').map(|one| {
        one.split('|').filter_map(|name| {
            let end = name.find(['(', '[']).unwrap_or(name.len());
            let name = name[..end].trim();
            let name = name.split(':').next().unwrap_or_default();
            (!name.is_empty()).then_some(name)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_host_has() {
        let one = |name: &str, rest: &str| {
            format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\n{rest}\n")
        };
        let status = [
            one(
                "dpkg",
                "Essential: yes\nPre-Depends: libc6 (>= 2.34), tar | cpio",
            ),
            one(
                "libc6",
                "Depends: libgcc-s1:any\nDescription: Depends\n Depends: graphviz",
            ),
            one("libgcc-s1", "Priority: optional"),
            one("bsdtar", "Provides: tar (= 1), other"),
            one("graphviz", "Priority: optional\nDepends: libc6"),
            one("mount", "Priority: required").replace("amd64", "i386"),
            one("login", "Priority: required").replace("ok installed", "ok config-files"),
        ]
        .join("\n");
        let base = closure(&status);
        let names: Vec<&str> = base.keys().map(String::as_str).collect();
        assert_eq!(names, ["bsdtar", "dpkg", "libc6", "libgcc-s1"]);
    }
}
