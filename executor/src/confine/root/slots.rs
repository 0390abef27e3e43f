//! Roots for what a template forks: each the template's own root over again, with a /tmp and a /dev/shm that nobody else sees.
//!
//! The forked process goes there by `chroot`. That is no wall against one that means harm (what it was forked from is the same agent,
//! and lies beside it); the wall is the sandbox around both. It keeps what instances write apart, and takes it away with them.

use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_bind_recursive, move_mount, open_tree,
    unmount,
};

use super::super::error::{Error, Step};
use super::super::plan::Plan;
use super::scratch;

/// In the sandbox.
pub const SLOTS: &str = "/slots";
/// What each of them is a copy of: everything but scratch.
const BASE: &str = "slots/base";

/// Directories to mount on, while there still can be new ones.
pub fn prepare(plan: &Plan) -> Result<(), Error> {
    if plan.slots == 0 {
        return Ok(());
    }
    std::fs::create_dir_all(BASE).step("mkdir for slots")?;
    (0..plan.slots)
        .try_for_each(|slot| std::fs::create_dir(format!("slots/{slot}")).step("mkdir for slots"))
}

/// Of the sealed root as it is now.
pub fn keep(plan: &Plan) -> Result<(), Error> {
    if plan.slots == 0 {
        return Ok(());
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, ".", flags).step("copy the root")?;
    move_mount(
        &tree,
        "",
        CWD,
        BASE,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .step("keep a copy of the root")
}

fn path(slot: u32) -> PathBuf {
    Path::new(SLOTS).join(slot.to_string())
}

/// By the sandbox's first process. Undone where it fails half-way.
pub fn open(plan: &Plan, slot: u32) -> Result<(), Error> {
    if slot >= plan.slots {
        return Err(Error::Spec(format!("there is no slot {slot}")));
    }
    let root = path(slot);
    mount_bind_recursive(Path::new("/").join(BASE), &root).step("mount a slot")?;
    scratch(&root, plan).inspect_err(|_| close(slot))
}

/// Whoever is still in there keeps it until then.
pub fn close(slot: u32) {
    // Not there: it was never opened.
    let _ = unmount(path(slot), UnmountFlags::DETACH);
}
