//! What packages of the system add to a sandbox: one folder, laid over the host's /usr and beside its /etc, /opt and /var.
//! In: a finished layer, or the folder in which one is made. Out: entries of a plan. Never here: which packages, or what they do.
//!
//! A finished layer holds `usr`, `etc`, `opt`, `var/lib`, `var/cache`, as far as there is anything. It was filled by others, so no link in
//! it is ever followed on the host: links become links of the sandbox.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

use super::error::{Error, Step};
use super::plan::{Bind, Entry, Upper};

/// Folders of one sandbox's file system that come from a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// Finished; seen and not changed.
    Shown(PathBuf),
    /// New: a folder to be filled at /layer, with root's name.
    Filled(PathBuf),
    /// Being made: what is written to /usr lands in `usr`, and the other roots are folders of it. `work` belongs to the kernel.
    Made(PathBuf),
}

impl Layer {
    /// Folders in which a layer is made, besides `usr` and `work`.
    pub const ROOTS: [&str; 7] = ["etc", "home", "opt", "root", "run", "srv", "var"];
}

const USR: &str = "/usr";
/// Of the host, and replaced by what a layer has of it: it holds all that the host has and more.
const REPLACED: [&str; 2] = ["/etc/alternatives", "/etc/ld.so.cache"];

/// The entries of a sandbox that sees the layer `dir` over what `entries` show of the host.
pub(super) fn shown(dir: &Path, mut entries: Vec<Entry>) -> Result<Vec<Entry>, Error> {
    merged(&entries)?;
    if is_dir(&dir.join("usr")) {
        over_usr(&mut entries, vec![text(&dir.join("usr"))?], None);
    }
    for path in REPLACED {
        if is_there(&dir.join(&path[1..])) {
            entries.retain(|entry| inside(entry) != path);
        }
    }
    let mut added = Vec::new();
    for top in ["etc", "opt", "var/lib", "var/cache"] {
        if is_dir(&dir.join(top)) {
            add(&dir.join(top), &format!("/{top}"), &entries, &mut added)?;
        }
    }
    entries.extend(added);
    Ok(entries)
}

/// The entries of the sandbox in which the layer `dir` is made.
pub(super) fn made(dir: &Path, mut entries: Vec<Entry>) -> Result<Vec<Entry>, Error> {
    merged(&entries)?;
    entries.retain(|entry| !inside(entry).starts_with("/etc/"));
    let upper = Upper {
        host: text(dir)?,
        changes: "usr".to_owned(),
        work: "work".to_owned(),
    };
    over_usr(&mut entries, Vec::new(), Some(upper));
    for root in Layer::ROOTS {
        entries.push(Entry::Bind {
            host: text(&dir.join(root))?,
            inside: format!("/{root}"),
            kind: Bind::Writable,
        });
    }
    Ok(entries)
}

/// The entries of the sandbox that fills the new layer `dir`.
pub(super) fn filled(dir: &Path, mut entries: Vec<Entry>) -> Result<Vec<Entry>, Error> {
    merged(&entries)?;
    entries.push(Entry::Bind {
        host: text(dir)?,
        inside: "/layer".to_owned(),
        kind: Bind::Writable,
    });
    Ok(entries)
}

/// Whoever fills a layer owns it meanwhile. No link in it is followed.
pub(super) fn give(dir: &Path, (uid, gid): (u32, u32)) -> Result<(), Error> {
    if uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    let step = || format!("give {} away", dir.display());
    lchown(dir, Some(uid), Some(gid)).step_with(step)?;
    for entry in fs::read_dir(dir).step_with(step)? {
        let entry = entry.step_with(step)?;
        if entry.file_type().step_with(step)?.is_dir() {
            give(&entry.path(), (uid, gid))?;
        } else {
            lchown(entry.path(), Some(uid), Some(gid)).step_with(step)?;
        }
    }
    Ok(())
}

/// A layer knows /usr only: a host whose /lib and /bin are folders of their own would not see half of it.
fn merged(entries: &[Entry]) -> Result<(), Error> {
    let apart = entries.iter().find_map(|entry| match entry {
        Entry::Bind { inside, .. } if ["/bin", "/sbin", "/lib"].contains(&&**inside) => {
            Some(inside)
        }
        _ => None,
    });
    apart.map_or(Ok(()), |path| {
        Err(Error::Spec(format!(
            "{path} of this host is not a part of /usr (install usrmerge)"
        )))
    })
}

fn over_usr(entries: &mut Vec<Entry>, mut lower: Vec<String>, upper: Option<Upper>) {
    lower.push(USR.to_owned());
    let overlay = Entry::Overlay {
        inside: USR.to_owned(),
        lower,
        upper,
    };
    let at = entries.iter().position(|entry| inside(entry) == USR);
    match at {
        Some(at) => entries[at] = overlay,
        None => entries.insert(0, overlay),
    }
    // An overlay sees no mounts beneath its layers.
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for path in mounted_beneath(&mounts, USR) {
        entries.push(Entry::Bind {
            host: path.clone(),
            inside: path,
            kind: Bind::Tree,
        });
    }
}

/// proc_pid_mountinfo(5): the fifth field is where, with spaces and the like in octal. Those with such names are left out.
fn mounted_beneath(mounts: &str, dir: &str) -> Vec<String> {
    let at = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut paths: Vec<String> = at
        .filter(|path| beneath(path, dir) && !path.contains('\\'))
        .map(str::to_owned)
        .collect();
    paths.sort_unstable();
    paths.dedup();
    // A bind brings along what is mounted beneath it.
    let all = paths.clone();
    paths.retain(|path| !all.iter().any(|other| beneath(path, other)));
    paths
}

/// What lies in `from`, as deep as the host's own entries reach into it.
fn add(from: &Path, at: &str, host: &[Entry], added: &mut Vec<Entry>) -> Result<(), Error> {
    let step = || format!("read {}", from.display());
    let mut names: Vec<_> = fs::read_dir(from)
        .step_with(step)?
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<Result<_, _>>()
        .step_with(step)?;
    names.sort_unstable();
    for name in names {
        let Some(name) = name.to_str() else { continue };
        let (path, at) = (from.join(name), format!("{at}/{name}"));
        if host.iter().any(|entry| inside(entry) == at) {
            continue;
        }
        if let Ok(target) = fs::read_link(&path) {
            added.push(Entry::Symlink {
                inside: at,
                target: text(&target)?,
            });
        } else if is_dir(&path) && host.iter().any(|entry| beneath(inside(entry), &at)) {
            add(&path, &at, host, added)?;
        } else {
            added.push(Entry::Bind {
                host: text(&path)?,
                inside: at,
                kind: Bind::Tree,
            });
        }
    }
    Ok(())
}

fn beneath(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.starts_with('/'))
}

fn inside(entry: &Entry) -> &str {
    match entry {
        Entry::Bind { inside, .. }
        | Entry::Overlay { inside, .. }
        | Entry::Symlink { inside, .. }
        | Entry::File { inside, .. }
        | Entry::Dir { inside } => inside,
    }
}

fn text(path: &Path) -> Result<String, Error> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Error::Spec(format!("{} is not UTF-8", path.display())))
}

/// Itself, not what a link leads to.
fn is_dir(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_beneath_usr() {
        let mounts = "22 1 254:0 / / rw - ext4 /dev/vda rw\n30 22 0:26 / /usr/local rw - tmpfs x rw\n31 30 0:27 / /usr/local/share rw - tmpfs x rw\n\
            32 22 0:28 / /usr/lib/libcuda.so ro - ext4 x rw\n33 22 0:29 / /usrlocal rw - tmpfs x rw\n34 22 0:30 / /usr/a\\040b rw - tmpfs x rw\n";
        assert_eq!(
            mounted_beneath(mounts, "/usr"),
            ["/usr/lib/libcuda.so", "/usr/local"]
        );
    }
}
