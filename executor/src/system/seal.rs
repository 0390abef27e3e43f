//! What packages have left becomes a layer: only what an agent can use of it, plain files and folders, read by everybody.
//!
//! All of it was written by others. Nothing runs in it any more; no link is followed.

use crate::files::{self, DIR_MODE, FILE_MODE};
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
};

/// What is made for the build alone, says nothing to an agent, or is ours to say.
const DROPPED: [&str; 60] = [
    "work",
    "home",
    "root",
    "run",
    "srv",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "usr/sbin/policy-rc.d",
    "etc/passwd",
    "etc/passwd-",
    "etc/group",
    "etc/group-",
    "etc/shadow",
    "etc/shadow-",
    "etc/gshadow",
    "etc/gshadow-",
    "etc/subuid",
    "etc/subuid-",
    "etc/subgid",
    "etc/subgid-",
    "etc/.pwd.lock",
    "etc/hosts",
    "etc/hostname",
    "etc/nsswitch.conf",
    "etc/resolv.conf",
    "etc/localtime",
    "etc/mtab",
    "etc/adduser.conf",
    "etc/debconf.conf",
    "etc/deluser.conf",
    "etc/login.defs",
    "etc/shells",
    "etc/cron.d",
    "etc/cron.daily",
    "etc/cron.hourly",
    "etc/cron.monthly",
    "etc/cron.weekly",
    "etc/init.d",
    "etc/rc0.d",
    "etc/rc1.d",
    "etc/rc2.d",
    "etc/rc3.d",
    "etc/rc4.d",
    "etc/rc5.d",
    "etc/rc6.d",
    "etc/rcS.d",
    "etc/systemd",
    "var/lib/dpkg",
    "var/lib/apt",
    "var/lib/systemd",
    "var/lib/ucf",
    "var/cache/apt",
    "var/cache/debconf",
    "var/cache/ldconfig",
    "var/cache/man",
    "var/lib/pam",
];

pub fn seal(dir: &Path) -> io::Result<()> {
    for path in DROPPED {
        remove(&dir.join(path))?;
    }
    for entry in fs::read_dir(dir.join("var"))? {
        let entry = entry?;
        if entry.file_name() != "lib" && entry.file_name() != "cache" {
            remove(&entry.path())?;
        }
    }
    // Whoever shows it takes these for folders of ours.
    for root in ["usr", "etc", "opt", "var", "var/lib", "var/cache"] {
        let path = dir.join(root);
        if fs::symlink_metadata(&path).is_ok_and(|meta| !meta.is_dir()) {
            return Err(io::Error::other(format!("/{root} is no folder any more")));
        }
    }
    let own = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    plain(dir, own)?;
    prune(&dir.join("usr"), Path::new("/usr"))?;
    Ok(())
}

/// Folders and plain files that all may read and nobody runs as somebody else, and links.
fn plain(path: &Path, own: (u32, u32)) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() {
        // Character devices among them stand for files that were removed; the host's show again.
        return fs::remove_file(path);
    }
    if meta.uid() != own.0 || meta.gid() != own.1 {
        lchown(path, Some(own.0), Some(own.1))?;
    }
    if kind.is_symlink() {
        return Ok(());
    }
    let runs = kind.is_dir() || meta.permissions().mode() & 0o111 != 0;
    let mode = if runs { DIR_MODE } else { FILE_MODE };
    if meta.permissions().mode() & 0o7777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    if kind.is_dir() {
        for entry in fs::read_dir(path)? {
            plain(&entry?.path(), own)?;
        }
    }
    Ok(())
}

/// Empty folders that the host has as well. Answers whether this one is gone.
fn prune(dir: &Path, host: &Path) -> io::Result<bool> {
    let mut left = false;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let gone =
            entry.file_type()?.is_dir() && prune(&entry.path(), &host.join(entry.file_name()))?;
        left |= !gone;
    }
    if left || !host.is_dir() {
        return Ok(false);
    }
    fs::remove_dir(dir)?;
    Ok(true)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => files::remove_tree(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What lies in it takes so many bytes, as far as it can be read.
pub fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match fs::symlink_metadata(entry.path()) {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_plain_things_are_left() {
        let dir = std::env::temp_dir().join(format!("phalanx-seal-{}", uuid::Uuid::new_v4()));
        let host = dir.join("host");
        fs::create_dir_all(&host).expect("a folder");
        fs::write(host.join("secret"), "secret").expect("written");
        fs::set_permissions(&host, fs::Permissions::from_mode(0o700)).expect("set");
        let layer = dir.join("layer");
        for folder in [
            "usr/bin",
            "usr/share/own",
            "etc/fonts",
            "opt",
            "var/lib/dpkg",
            "var/lib/x",
            "var/log",
            "work/work",
        ] {
            fs::create_dir_all(layer.join(folder)).expect("a folder");
        }
        let file = |path: &str, mode: u32| {
            fs::write(layer.join(path), "x").expect("written");
            fs::set_permissions(layer.join(path), fs::Permissions::from_mode(mode)).expect("set");
        };
        file("usr/bin/sudo", 0o6755);
        file("etc/fonts/secret", 0o600);
        file("etc/passwd", 0o644);
        symlink(&host, layer.join("etc/shadow")).expect("a link");
        symlink(&host, layer.join("etc/out")).expect("a link");
        let pipe = nix::unistd::mkfifo(&layer.join("opt/pipe"), nix::sys::stat::Mode::S_IRWXU);
        pipe.expect("a pipe");
        fs::set_permissions(layer.join("work/work"), fs::Permissions::from_mode(0o0)).expect("set");

        seal(&layer).expect("sealed");
        let mode = |path: &str| {
            let meta = fs::symlink_metadata(layer.join(path)).expect(path);
            meta.permissions().mode() & 0o7777
        };
        assert_eq!(
            (mode("usr/bin/sudo"), mode("etc/fonts/secret")),
            (DIR_MODE, FILE_MODE)
        );
        for gone in [
            "etc/passwd",
            "etc/shadow",
            "opt/pipe",
            "var/lib/dpkg",
            "var/log",
            "work",
        ] {
            assert!(fs::symlink_metadata(layer.join(gone)).is_err(), "{gone}");
        }
        assert!(layer.join("var/lib/x").is_dir() && layer.join("usr/share/own").is_dir());
        let host_mode = fs::metadata(&host).expect("there").permissions().mode() & 0o777;
        assert_eq!(host_mode, 0o700, "nothing is changed through a link");
        assert!(host.join("secret").exists());

        fs::remove_dir_all(layer.join("opt")).expect("removed");
        symlink(&host, layer.join("opt")).expect("a link");
        let error = seal(&layer).expect_err("a root that leads elsewhere");
        assert!(error.to_string().contains("/opt is no folder"), "{error}");
        fs::remove_dir_all(dir).expect("removed");
    }
}
