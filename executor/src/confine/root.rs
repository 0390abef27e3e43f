//! The sandbox's file system: a small read-only tmpfs that holds only what the plan lists.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount,
    mount_bind, mount_change, move_mount, open_tree, unmount,
};

use super::error::{Error, Step};
use super::plan::{Bind, Entry, Ground, Mode as PlanMode, Plan, Upper};
use super::sys::{self, MountAttributes};

pub mod slots;

/// Where the new root is put together. Any directory that every host has; what it held is opened before.
const STAGE: &str = "/tmp";
/// Where layers lie while they are put together: over a folder of the old root, which goes away with all that is mounted there. (To
/// unmount them one by one takes milliseconds of the kernel.)
const LAYERS: &str = "/usr";
/// An empty directory to lay over what must not be seen.
const EMPTY: &str = "var/empty";
/// Of /proc: tells of the host, or is an interface to it. (Docker's list, and the whole of /proc/sys.)
const MASKED_DIRS: [&str; 7] = ["acpi", "bus", "driver", "fs", "irq", "scsi", "sys"];
const MASKED_FILES: [&str; 12] = [
    "cmdline",
    "config.gz",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "kmsg",
    "latency_stats",
    "modules",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
];

/// Detached copies of the trees to bind, in the order of the plan. EPERM without CAP_SYS_ADMIN over our mount namespace.
pub fn open_trees(entries: &[Entry]) -> Result<Vec<OwnedFd>, Error> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let open = |host: &str, flags| open_tree(CWD, host, flags).step_with(|| format!("open {host}"));
    let mut trees = Vec::new();
    for entry in entries {
        match entry {
            Entry::Bind { host, .. } => {
                trees.push(open(host, flags | OpenTreeFlags::AT_RECURSIVE)?);
            }
            // An overlay sees nothing of what is mounted beneath its layers.
            Entry::Overlay { lower, upper, .. } => {
                let upper = upper.as_ref().map(|upper| &upper.host);
                for host in lower.iter().chain(upper) {
                    trees.push(open(host, flags)?);
                }
            }
            Entry::Symlink { .. } | Entry::File { .. } | Entry::Dir { .. } => {}
        }
    }
    Ok(trees)
}

/// Whether we may open trees ourselves.
pub fn hands_trees() -> bool {
    let usr = Entry::Bind {
        host: "/usr".to_owned(),
        inside: "/usr".to_owned(),
        kind: Bind::Tree,
    };
    open_trees(&[usr]).is_ok()
}

/// Builds the root as far as it is every sandbox's, and makes it ours. Answers whether there is a /proc.
pub fn build(ground: &Ground, trees: Vec<OwnedFd>) -> Result<bool, Error> {
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .step("make mounts private")?;
    tmpfs(STAGE, "size=1m,nr_inodes=4k,mode=0755", "root")?;
    std::env::set_current_dir(STAGE).step("enter the new root")?;

    place_all(&ground.entries, trees)?;
    for dir in ["tmp", "proc", "dev/shm", EMPTY] {
        fs::create_dir_all(dir).step_with(|| format!("mkdir /{dir}"))?;
    }
    // Before the old root goes: the kernel grants a new /proc only while an unmasked one is in sight.
    let proc = ground.proc && new_proc(ground.mode == PlanMode::Probe)?;

    rustix::process::pivot_root(".", ".").step("pivot_root")?;
    unmount(".", UnmountFlags::DETACH).step("detach the old root")?;
    std::env::set_current_dir("/").step("enter /")?;
    Ok(proc)
}

/// Adds what is the instance's own, and lets nobody add anything more.
pub fn finish(plan: &Plan, trees: Vec<OwnedFd>) -> Result<(), Error> {
    place_all(&plan.entries, trees)?;
    slots::prepare(plan)?;
    seal()?;
    slots::keep(plan)?;
    scratch(Path::new(""), plan)
}

fn place_all(entries: &[Entry], trees: Vec<OwnedFd>) -> Result<(), Error> {
    let mut trees = trees.into_iter();
    entries
        .iter()
        .try_for_each(|entry| place(entry, &mut trees))
}

/// What may be written to, beneath `root`.
fn scratch(root: &Path, plan: &Plan) -> Result<(), Error> {
    let at = |dir: &str| root.join(dir).to_string_lossy().into_owned();
    tmpfs(
        &at("tmp"),
        &format!("size={}m,nr_inodes=64k,mode=1777", plan.tmp_mb),
        "/tmp",
    )?;
    tmpfs(
        &at("dev/shm"),
        &format!("size={}m,nr_inodes=4k,mode=1777", plan.shm_mb),
        "/dev/shm",
    )
}

fn tmpfs(at: &str, options: &str, name: &str) -> Result<(), Error> {
    let options = std::ffi::CString::new(options)
        .map_err(io::Error::other)
        .step("mount options")?;
    mount(
        "tmpfs",
        at,
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        options.as_c_str(),
    )
    .step_with(|| format!("mount {name}"))
}

fn place(entry: &Entry, trees: &mut impl Iterator<Item = OwnedFd>) -> Result<(), Error> {
    match entry {
        Entry::Dir { inside } => {
            fs::create_dir_all(relative(inside)).step_with(|| format!("mkdir {inside}"))
        }
        Entry::File { inside, text } => {
            parents(inside)?;
            fs::write(relative(inside), text).step_with(|| format!("write {inside}"))
        }
        Entry::Symlink { inside, target } => {
            parents(inside)?;
            symlink(target, relative(inside)).step_with(|| format!("link {inside}"))
        }
        Entry::Bind { inside, kind, .. } => {
            let tree = trees
                .next()
                .ok_or_else(|| Error::Spec(format!("no tree for {inside}")))?;
            bind(&tree, relative(inside), *kind).step_with(|| format!("bind {inside}"))
        }
        Entry::Overlay {
            inside,
            lower,
            upper,
        } => overlay(inside, lower.len(), upper.as_ref(), trees),
    }
}

/// Read-only before it is attached, so that at no time anything in here can write to the host.
fn bind(tree: &OwnedFd, at: &Path, kind: Bind) -> io::Result<()> {
    let set = sys::NO_SUID
        | match kind {
            Bind::Tree => sys::READ_ONLY | sys::NO_DEV,
            Bind::Device => sys::READ_ONLY | sys::NO_EXEC,
            Bind::Writable => sys::NO_DEV,
        };
    sys::mount_setattr(
        tree.as_fd(),
        MountAttributes {
            set,
            recursive: true,
        },
    )?;
    if fs::File::from(tree.try_clone()?).metadata()?.is_dir() {
        fs::create_dir_all(at)?;
    } else if !at.exists() {
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::File::create(at)?;
    }
    move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// The kernel takes layers by name only, so they get names for as long as it takes. The overlay keeps copies of its own.
fn overlay(
    inside: &str,
    lower: usize,
    upper: Option<&Upper>,
    trees: &mut impl Iterator<Item = OwnedFd>,
) -> Result<(), Error> {
    let step = || format!("overlay {inside}");
    tmpfs(LAYERS, "size=64k,nr_inodes=64,mode=0755", "layers")?;
    let names: Vec<String> = (0..lower + usize::from(upper.is_some()))
        .map(|n| format!("{LAYERS}/{n}"))
        .collect();
    for (n, name) in names.iter().enumerate() {
        let tree = trees
            .next()
            .ok_or_else(|| Error::Spec(format!("no tree for {inside}")))?;
        let kind = if n < lower {
            Bind::Tree
        } else {
            Bind::Writable
        };
        bind(&tree, Path::new(name), kind).step_with(|| format!("bind a layer of {inside}"))?;
    }
    let mut options = format!("lowerdir={}", names[..lower].join(":"));
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if let (Some(upper), Some(at)) = (upper, names.get(lower)) {
        let (changes, work) = (&upper.changes, &upper.work);
        options += &format!(",upperdir={at}/{changes},workdir={at}/{work},userxattr");
    } else {
        flags |= MountFlags::RDONLY;
    }
    let options = std::ffi::CString::new(options)
        .map_err(io::Error::other)
        .step("mount options")?;
    fs::create_dir_all(relative(inside)).step_with(step)?;
    mount(
        "overlay",
        relative(inside),
        "overlay",
        flags,
        options.as_c_str(),
    )
    .step_with(step)
}

/// The root itself becomes read-only; what is mounted on it keeps its own attributes.
fn seal() -> Result<(), Error> {
    let here = rustix::fs::open(
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .step("open the new root")?;
    let set = sys::READ_ONLY | sys::NO_SUID | sys::NO_DEV;
    sys::mount_setattr(
        here.as_fd(),
        MountAttributes {
            set,
            recursive: false,
        },
    )
    .step("make the root read-only")
}

fn new_proc(probing: bool) -> Result<bool, Error> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    match mount("proc", "proc", "proc", flags, None) {
        Err(rustix::io::Errno::PERM) if probing => return Ok(false),
        other => other.step("mount /proc")?,
    }
    // A mount of its own, read-only, so that what is bound from it is too: the root is not sealed yet.
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let empty = open_tree(CWD, EMPTY, flags).step("open an empty folder")?;
    bind(&empty, Path::new(EMPTY), Bind::Tree).step("bind an empty folder")?;
    for dir in MASKED_DIRS {
        mask(EMPTY, dir)?;
    }
    for file in MASKED_FILES {
        mask("dev/null", file)?;
    }
    Ok(true)
}

fn mask(with: &str, name: &str) -> Result<(), Error> {
    match mount_bind(with, format!("proc/{name}")) {
        Err(rustix::io::Errno::NOENT) => Ok(()), // this kernel has no such file
        other => other.step_with(|| format!("mask /proc/{name}")),
    }
}

fn parents(inside: &str) -> Result<(), Error> {
    match relative(inside).parent() {
        Some(parent) => fs::create_dir_all(parent).step_with(|| format!("mkdir for {inside}")),
        None => Ok(()),
    }
}

fn relative(inside: &str) -> &Path {
    Path::new(inside.trim_start_matches('/'))
}
