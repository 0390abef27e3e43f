//! Giving everything away: step 10. Nothing here can be undone by the process that did it.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_capabilities_secure_bits,
    set_no_new_privs,
};

use super::error::{Error, Step};
use super::plan::Limits;

/// Queued signals and timers. Every POSIX timer is one.
const MOST_SIGNALS: u64 = 1024;
const MOST_LOCKED: u64 = 8 << 20;

pub fn limit(limits: &Limits) -> Result<(), Error> {
    // Of one byte: unlike 0 it also keeps the kernel from handing the dump to a program of the host's (core(5), core_pattern).
    set(Resource::Core, 1, "rlimit core")?;
    set(Resource::Nofile, limits.open_files, "rlimit nofile")?;
    // The kernel's memory on behalf of a user, which may be ours.
    set(Resource::Sigpending, MOST_SIGNALS, "rlimit sigpending")?;
    set(Resource::Memlock, MOST_LOCKED, "rlimit memlock")?;
    set(Resource::Msgqueue, 0, "rlimit msgqueue")?;
    set(Resource::Rtprio, 0, "rlimit rtprio")?;
    if let Some(bytes) = limits.data_bytes {
        set(Resource::Data, bytes, "rlimit data")?;
    }
    if let Some(processes) = limits.processes {
        set(Resource::Nproc, processes, "rlimit nproc")?;
    }
    Ok(())
}

/// Never above our own hard limit: raising that takes CAP_SYS_RESOURCE.
fn set(resource: Resource, value: u64, step: &str) -> Result<(), Error> {
    let value = getrlimit(resource)
        .maximum
        .map_or(value, |hard| hard.min(value));
    setrlimit(
        resource,
        Rlimit {
            current: Some(value),
            maximum: Some(value),
        },
    )
    .step(step)
}

/// Every capability set empty, the bounding set included, and no way for uid 0 or a set-uid file to bring one back.
pub fn drop_capabilities() -> Result<(), Error> {
    bound_to_none()?;
    clear_ambient_capability_set().step("drop the ambient set")?;
    set_securebits()?;
    let none = CapabilitySet::empty();
    set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )
    .step("drop capabilities")?;
    no_new_privileges()
}

fn bound_to_none() -> Result<(), Error> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL) => break, // the kernel knows no more
            Err(e) => return Err(e).step("drop the bounding set"),
        }
    }
    Ok(())
}

fn set_securebits() -> Result<(), Error> {
    let locked = CapabilitiesSecureBits::NO_ROOT
        | CapabilitiesSecureBits::NO_ROOT_LOCKED
        | CapabilitiesSecureBits::NO_SETUID_FIXUP
        | CapabilitiesSecureBits::NO_SETUID_FIXUP_LOCKED
        | CapabilitiesSecureBits::KEEP_CAPS_LOCKED
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE
        | CapabilitiesSecureBits::NO_CAP_AMBIENT_RAISE_LOCKED;
    set_capabilities_secure_bits(locked).step("securebits")
}

/// For a template's first process, which mounts: full rights over the sandbox's own namespaces until the worker has been started.
pub fn keep_mounting() -> Result<(), Error> {
    set_securebits()?;
    let mounting = CapabilitySet::SYS_ADMIN;
    bound_to_none()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: mounting,
            permitted: mounting,
            inheritable: CapabilitySet::empty(),
        },
    )
    .step("drop capabilities")?;
    no_new_privileges()
}

/// For a template: what it forks goes to a root of its own. Its mounts are the sandbox's, so this leads nowhere else.
pub fn keep_changing_root() -> Result<(), Error> {
    let changing = CapabilitySet::SYS_CHROOT;
    let mut sets = rustix::thread::capabilities(None).step("read capabilities")?;
    sets.inheritable = changing;
    set_capabilities(None, sets).step("inherit capabilities")?;
    rustix::thread::configure_capability_in_ambient_set(changing, true).step("ambient set")?;
    bound_to_none()?;
    set_securebits()?;
    set_capabilities(
        None,
        CapabilitySets {
            effective: changing,
            permitted: changing,
            inheritable: changing,
        },
    )
    .step("drop capabilities")?;
    no_new_privileges()
}

pub fn no_new_privileges() -> Result<(), Error> {
    set_no_new_privs(true).step("no_new_privs")
}
