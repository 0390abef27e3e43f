//! Step 11: a second wall about the files. The mounts decide what there is to see; should something outside them ever be reached all the
//! same (a directory that was left open, a hole in the mount namespace), Landlock denies it, because it does not lie beneath our root.
//! In: the plan's entries. Out: the version that is in force. Signals and abstract Unix sockets stay in the sandbox as well.
//! Not restricted: TCP ports. Landlock knows no addresses, and agents may talk to themselves; that wall is the network namespace.

use landlock::{
    ABI, Access, AccessFs, BitFlags, LandlockStatus, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};

use super::error::{Error, Step};
use super::plan::{Bind, Entry, Ground, Plan};
use super::root::slots::SLOTS;

/// What is asked for. Kernels that know less enforce what they know; what newer ones add is looked at before it is asked for.
const WANTED: ABI = ABI::V7;

/// Restricts this process and all that descends from it. 0: this kernel has no Landlock.
pub fn restrict(ground: &Ground, plan: &Plan) -> Result<u32, Error> {
    let mut open = Vec::new();
    for (path, access) in rules(ground, plan) {
        let at = PathFd::new(path).map_err(std::io::Error::other);
        open.push(PathBeneath::new(
            at.step_with(|| format!("open {path}"))?,
            access,
        ));
    }
    let status = enforce(open).map_err(|e| Error::Spec(format!("Landlock: {e}")))?;
    Ok(match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as u32,
        _ => 0,
    })
}

/// Read and execute what there is, change what is scratch, talk to devices. Paths are those of the new root.
fn rules<'a>(ground: &'a Ground, plan: &'a Plan) -> Vec<(&'a str, BitFlags<AccessFs>)> {
    let mut rules = vec![
        ("/", AccessFs::from_read(WANTED)),
        ("/tmp", AccessFs::from_all(WANTED)),
        ("/dev/shm", AccessFs::from_all(WANTED)),
    ];
    if plan.slots > 0 {
        // What may be written to there are mounts that are yet to be; all others are read-only themselves.
        rules.push((SLOTS, AccessFs::from_all(WANTED)));
    }
    for entry in ground.entries.iter().chain(&plan.entries) {
        match entry {
            Entry::Bind {
                inside,
                kind: Bind::Device,
                ..
            } => {
                let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
                rules.push((inside, device));
            }
            Entry::Bind {
                inside,
                kind: Bind::Writable,
                ..
            }
            | Entry::Overlay {
                inside,
                upper: Some(_),
                ..
            } => rules.push((inside, AccessFs::from_all(WANTED))),
            _ => {}
        }
    }
    rules
}

fn enforce(rules: Vec<PathBeneath<PathFd>>) -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(WANTED))?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(rules.into_iter().map(Ok::<_, RulesetError>))?
        .restrict_self()
}
