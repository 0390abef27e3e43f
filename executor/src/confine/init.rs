//! Steps 12 and 13: process 1 of the sandbox, and the worker, its child.
//!
//! It reaps, forwards nothing, says how the worker ended, and leaves when the worker or the executor has: the kernel then kills all
//! that is left in the pid namespace. An executor killed with SIGKILL closes its end of the control socket, so nothing outlives it.
//! (PR_SET_PDEATHSIG would follow the thread that spawned us, which a thread pool may end at any time.)
//!
//! A template's first process lives on without its worker, as long as there is the executor: it is the parent of all that was forked,
//! tells how they end, and mounts and unmounts their roots.

mod children;

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};

use super::error::{Error, Step};
use super::helper::{Outfit, report_failure};
use super::plan::{Ground, Mode, Plan, Report};
use super::{landlock, privileges, process, seccomp, sys, wire};

/// As process 1 of a pid namespace.
pub fn run(
    control: &UnixStream,
    ground: &Ground,
    plan: &Plan,
    outfit: Outfit,
) -> Result<(), Error> {
    // A session of its own; standard streams of ours would hold the executor's open.
    rustix::process::setsid().step("setsid")?;
    rustix::stdio::dup2_stdout(&outfit.null).step("close stdout")?;
    rustix::stdio::dup2_stderr(&outfit.null).step("close stderr")?;
    supervise(control, ground, plan, outfit)
}

/// The same for a template.
pub fn run_template(
    control: &UnixStream,
    ground: &Ground,
    plan: &Plan,
    outfit: Outfit,
) -> Result<(), Error> {
    rustix::process::setsid().step("setsid")?;
    rustix::stdio::dup2_stdout(&outfit.null).step("close stdout")?;
    rustix::stdio::dup2_stderr(&outfit.null).step("close stderr")?;
    let signals = watch_children()?;
    let worker = start(ground, plan, outfit)?;
    privileges::keep_mounting()?;
    wire::send(control, &Report::Running, &[]).step("report")?;
    let mut children = children::Children::new(worker);
    loop {
        let is_asked = wait(control, &signals)?;
        children.reap(control)?;
        if is_asked && !children.obey(control, plan)? {
            return Ok(());
        }
    }
}

/// Without namespaces: orphans of the worker come to us (subreaper), and we kill them before we leave.
pub fn run_plain(
    control: &UnixStream,
    ground: &Ground,
    plan: &Plan,
    outfit: Outfit,
) -> Result<(), Error> {
    let own = rustix::process::getpid();
    wire::send(
        control,
        &Report::Born {
            pid: own.as_raw_nonzero().get(),
        },
        &[],
    )
    .step("report")?;
    rustix::process::set_child_subreaper(Some(own)).step("subreaper")?;
    privileges::no_new_privileges()?;
    let ended = run(control, ground, plan, outfit);
    process::kill_children();
    ended
}

fn supervise(
    control: &UnixStream,
    ground: &Ground,
    plan: &Plan,
    outfit: Outfit,
) -> Result<(), Error> {
    let signals = watch_children()?;
    let worker = start(ground, plan, outfit)?;
    wire::send(control, &Report::Running, &[]).step("report")?;
    loop {
        if wait(control, &signals)? {
            return Ok(()); // the executor has closed, or is dead
        }
        if let Some(report) = reap(worker) {
            return wire::send(control, &report, &[]).step("report");
        }
    }
}

fn watch_children() -> Result<SignalFd, Error> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.thread_block().step("block SIGCHLD")?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).step("signalfd")
}

/// For the executor (`true`), or for a child that has ended.
fn wait(control: &UnixStream, signals: &SignalFd) -> Result<bool, Error> {
    let mut ready = [
        PollFd::new(control, PollFlags::IN),
        PollFd::new(signals, PollFlags::IN),
    ];
    loop {
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => {}
            other => {
                other.step("poll")?;
                break;
            }
        }
    }
    let is_asked = !ready[0].revents().is_empty();
    while let Ok(Some(_)) = signals.read_signal() {}
    Ok(is_asked)
}

/// Everything that has ended; the worker's end among it, if it has.
fn reap(worker: Pid) -> Option<Report> {
    let mut report = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == worker => {
                report = Some(Report::Exited {
                    code: Some(code),
                    signal: None,
                });
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == worker => {
                report = Some(Report::Exited {
                    code: None,
                    signal: Some(signal as i32),
                });
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return report,
            Ok(_) => {}
        }
    }
}

/// Forks and executes the worker; returns once its program runs (the pipe closed on exec) or with the step that failed.
fn start(ground: &Ground, plan: &Plan, outfit: Outfit) -> Result<Pid, Error> {
    let program = Program::new(plan)?;
    let (failure, told) = UnixStream::pair().step("pair")?;
    let Some(pid) = sys::fork_into(0).step("fork")? else {
        drop(failure);
        let Err(error) = execute(ground, plan, &program, &outfit);
        report_failure(&told, error);
        sys::exit_now(127)
    };
    drop((told, outfit));
    match wire::receive::<Report>(&failure).step("wait for exec")? {
        Some((Report::Failed { step, errno }, _)) => Err(Error::Step { step, errno }),
        _ => Ok(Pid::from_raw(pid.as_raw_nonzero().get())),
    }
}

/// Prepared before the fork: what can fail without the kernel, fails there.
struct Program {
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    fn new(plan: &Plan) -> Result<Self, Error> {
        let strings = |list: &[String]| {
            list.iter()
                .map(|s| CString::new(s.as_str()))
                .collect::<Result<Vec<_>, _>>()
        };
        let argv = strings(&plan.argv)
            .map_err(|_| Error::Spec("an argument of the worker holds a NUL byte".to_owned()))?;
        let env = strings(&plan.env).map_err(|_| {
            Error::Spec("an environment variable of the worker holds a NUL byte".to_owned())
        })?;
        if argv.is_empty() {
            return Err(Error::Spec("the worker has no program".to_owned()));
        }
        Ok(Program { argv, env })
    }
}

fn execute(
    ground: &Ground,
    plan: &Plan,
    program: &Program,
    outfit: &Outfit,
) -> Result<std::convert::Infallible, Error> {
    rustix::process::setsid().step("setsid")?;
    if ground.mode == Mode::Plain {
        std::env::set_current_dir("/").step("chdir /")?;
    }
    std::env::set_current_dir(&plan.cwd).step_with(|| format!("chdir {}", plan.cwd))?;
    privileges::limit(&plan.limits)?;
    sys::default_signals();
    SigSet::empty().thread_set_mask().step("signal mask")?;

    // Only 0 to 3 survive. Our own sources are out of the way first: one may be where another must go.
    let clear = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 16).step("dup");
    let null = clear(&outfit.null)?;
    let socket = clear(&outfit.socket)?;
    let stdout = outfit.stdout.as_ref().map(clear).transpose()?;
    let stderr = outfit.stderr.as_ref().map(clear).transpose()?;
    sys::place(&null, 0).step("place stdin")?;
    sys::place(stdout.as_ref().unwrap_or(&null), 1).step("place stdout")?;
    sys::place(stderr.as_ref().unwrap_or(&null), 2).step("place stderr")?;
    sys::place(&socket, 3).step("place the worker's socket")?;
    // Close-on-exec and not closed: the way to report a failing exec must stay open until it has succeeded.
    sys::close_on_exec_from(4).step("close descriptors")?;
    if plan.slots > 0 {
        privileges::no_new_privileges()?;
        landlock::restrict(ground, plan)?;
        privileges::keep_changing_root()?;
    }
    if ground.mode == Mode::Install {
        seccomp::install(&seccomp::pretences()?)?;
    }
    if ground.mode != Mode::Plain {
        seccomp::install(&outfit.filter)?;
    }
    nix::unistd::execve(&program.argv[0], &program.argv, &program.env)
        .step_with(|| format!("exec {}", plan.argv[0]))
}
