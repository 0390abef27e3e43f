//! The answers by number, as a binary search: eight comparisons instead of one for each call on the list.
//!
//! The kernel asks a new filter about every number once, to remember which calls pass whatever their arguments are: with a list that is
//! gone through from the start this alone took longer than Python's start is slowed down by the filter.

use std::collections::BTreeMap;

use nix::libc::{self, c_long};
use seccompiler::sock_filter;

/// AUDIT_ARCH of linux/audit.h.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xc000_00b7;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const GO: u16 = 0x05; // BPF_JMP | BPF_JA
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_NOT_BELOW: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Allow,
    /// EPERM.
    Refuse,
    /// ENOSYS: as a kernel answers that does not have the call.
    Unknown,
    /// By its arguments: what follows this program decides.
    Look,
}

/// Goes on behind its end for what has to be looked into. What `answers` does not name is refused up to `last`, and unknown above.
pub fn program(
    answers: &BTreeMap<c_long, Answer>,
    last: u32,
) -> Result<Vec<sock_filter>, std::num::TryFromIntError> {
    let mut runs: Vec<(u32, Answer)> = Vec::new();
    for call in 0..=last {
        let answer = *answers.get(&c_long::from(call)).unwrap_or(&Answer::Refuse);
        if runs.last().is_none_or(|(_, before)| *before != answer) {
            runs.push((call, answer));
        }
    }
    runs.push((last + 1, Answer::Unknown));

    let mut program = vec![
        line(LOAD, 0, 0, 4), // seccomp_data.arch
        line(IF_EQUAL, 1, 0, ARCH),
        line(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        line(LOAD, 0, 0, 0), // seccomp_data.nr
    ];
    program.append(&mut search(&runs)?);
    let end = program.len();
    for (at, step) in program.iter_mut().enumerate() {
        if step.code == GO {
            step.k = u32::try_from(end - at - 1)?;
        }
    }
    Ok(program)
}

/// Of runs of numbers, each from its first on. One that does not fit into a short jump is an error of whoever wrote the list.
fn search(runs: &[(u32, Answer)]) -> Result<Vec<sock_filter>, std::num::TryFromIntError> {
    if let [(_, only)] = runs {
        return Ok(vec![match only {
            Answer::Allow => line(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
            Answer::Refuse => line(RETURN, 0, 0, refused_with(libc::EPERM)),
            Answer::Unknown => line(RETURN, 0, 0, refused_with(libc::ENOSYS)),
            Answer::Look => line(GO, 0, 0, 0), // how far is known once all is there
        }]);
    }
    let (below, above) = runs.split_at(runs.len() / 2);
    let first = above.first().map_or(0, |(first, _)| *first);
    let (mut below, mut above) = (search(below)?, search(above)?);
    let mut lines = vec![line(IF_NOT_BELOW, u8::try_from(below.len())?, 0, first)];
    lines.append(&mut below);
    lines.append(&mut above);
    Ok(lines)
}

fn line(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn refused_with(errno: libc::c_int) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno.unsigned_abs()
}
