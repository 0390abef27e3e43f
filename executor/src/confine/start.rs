//! The executor's side of starting one: it blocks, so it runs on a blocking thread.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup::{Bounds, Groups};
use super::error::{Error, Step};
use super::layer::{self, Layer};
use super::level::{Host, Isolation, Level};
use super::plan::{EGRESS_PORT, Entry, Ground, Plan, Report};
use super::remains::{Remains, reap_by};
use super::spec::{Output, Spec, ground, plan};
use super::{root, wire};

/// A helper process and, once born, its sandbox. Dropped before [`Helper::hand_over`]: nothing of it is left.
#[derive(Debug)]
pub struct Helper {
    child: Child,
    /// Of the child; `None` once reaped.
    leaving: Option<OwnedFd>,
    control: UnixStream,
    groups: Option<Groups>,
    init: Option<(i32, OwnedFd)>,
    egress: Option<TcpListener>,
    /// What it was told, and which files that was on the host.
    ground: Option<(Ground, Vec<Identity>)>,
    deadline: Instant,
    within: Duration,
    last: String,
}

/// Device and inode; `None` for what is not there.
type Identity = Option<(u64, u64)>;

/// A running worker, still without a runtime.
#[derive(Debug)]
pub struct Started {
    pub pid: i32,
    pub remains: Remains,
    pub control: UnixStream,
    pub socket: UnixStream,
    pub egress: TcpListener,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

impl Helper {
    /// Executes the helper, and moves it into groups of its own while it starts.
    pub fn start(host: &Host) -> Result<Self, Error> {
        let config = &host.config;
        let (control, theirs) = UnixStream::pair().step("control socket")?;
        let child = Command::new(&config.helper)
            .args(&config.helper_args)
            .env_clear()
            // The allocator's huge pages are for a server: a helper, of which there are many, would hold 6 MB more.
            .env("MIMALLOC_ALLOW_THP", "0")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit()) // of the helper only: a panic of it should be seen
            .spawn()
            .step_with(|| format!("execute {}", config.helper.display()))?;
        let leaving = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let leaving = leaving
            .map(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .transpose()
            .step("pidfd_open")?;
        let mut helper = Helper {
            child,
            leaving,
            control,
            groups: None,
            init: None,
            egress: None,
            ground: None,
            deadline: Instant::now() + config.start_within,
            within: config.start_within,
            last: "execute the helper".to_owned(),
        };
        let groups = host
            .hierarchy
            .create(&host.leaf())
            .step("create the control group")?;
        helper
            .groups
            .insert(groups)
            .join(helper.child.id())
            .step("join the control group")?;
        Ok(helper)
    }

    /// Still there, waiting to be told? Its time starts now.
    pub fn wake(mut self) -> Option<Self> {
        self.deadline = Instant::now() + self.within;
        let waits = self.leaving.as_ref().or(self.init.as_ref().map(|i| &i.1));
        waits.is_some_and(|pidfd| !has_ended(pidfd)).then_some(self)
    }

    pub fn tell_ground(&mut self, ground: Ground) -> Result<(), Error> {
        self.control
            .set_write_timeout(Some(self.left()?))
            .step("control socket")?;
        wire::send(&self.control, &ground, &[]).step("send the ground")?;
        let files = files(&ground);
        self.ground = Some((ground, files));
        Ok(())
    }

    /// Makes it to wait for a plan, with all before that done; the helper has left.
    pub fn stand(&mut self, ground: Ground) -> Result<(), Error> {
        self.tell_ground(ground)?;
        loop {
            match self.hear()? {
                Some(Report::Grounded) => break,
                Some(_) => {}
                None => return Err(Error::Helper(format!("last step seen: {}", self.last))),
            }
        }
        if let Some(leaving) = self.leaving.take() {
            reap_by(&leaving, self.deadline);
        }
        Ok(())
    }

    /// What it stands on is what is wanted, and the host's files are still the same.
    pub fn stands_on(&self, wanted: &Ground) -> bool {
        self.ground.as_ref().is_some_and(|(ground, then)| {
            let same_but_for_whom = Ground {
                uid: ground.uid,
                gid: ground.gid,
                ..wanted.clone()
            };
            *ground == same_but_for_whom && *then == files(wanted)
        })
    }

    /// `fds`: the worker's.
    pub fn tell(&mut self, plan: &Plan, fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let trees = root::open_trees(&plan.entries)?;
        let all: Vec<_> = trees
            .iter()
            .map(AsFd::as_fd)
            .chain(fds.iter().copied())
            .collect();
        if all.len() > wire::FRAME_FDS {
            return Err(Error::Spec(format!(
                "{} trees to show are too many",
                trees.len()
            )));
        }
        self.control
            .set_write_timeout(Some(self.left()?))
            .step("control socket")?;
        wire::send(&self.control, plan, &all).step("send the plan")
    }

    /// The next report; `None` when the sandbox has closed. A failure it reports is an error here.
    pub fn hear(&mut self) -> Result<Option<Report>, Error> {
        self.control
            .set_read_timeout(Some(self.left()?))
            .step("control socket")?;
        let received = match wire::receive::<Report>(&self.control) {
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Err(self.late());
            }
            other => other.step("hear from the helper")?,
        };
        let Some((report, fds)) = received else {
            return Ok(None);
        };
        match &report {
            Report::Failed { step, errno } => {
                return Err(Error::Step {
                    step: step.clone(),
                    errno: *errno,
                });
            }
            Report::Born { pid } => {
                let raw = Pid::from_raw(*pid).ok_or_else(|| self.late())?;
                // It is our child (or the helper itself) and nobody else waits for it: the number cannot have been reused.
                self.init = Some((
                    *pid,
                    pidfd_open(raw, PidfdFlags::empty()).step("pidfd_open")?,
                ));
            }
            Report::Listening => self.egress = fds.into_iter().next().map(TcpListener::from),
            _ => {}
        }
        self.last = format!("{report:?}");
        Ok(Some(report))
    }

    fn left(&self) -> Result<Duration, Error> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            Err(self.late())
        } else {
            Ok(left)
        }
    }

    fn late(&self) -> Error {
        Error::Late {
            step: self.last.clone(),
            within: self.within,
        }
    }

    /// The running sandbox as an object of its own; the helper has left or is the sandbox's first process.
    fn hand_over(mut self) -> Result<(i32, Remains, UnixStream), Error> {
        let control = self.control.try_clone().step("control socket")?;
        if self
            .init
            .as_ref()
            .is_some_and(|(pid, _)| u32::try_from(*pid) == Ok(self.child.id()))
        {
            self.leaving = None;
        }
        let (pid, init) = self
            .init
            .take()
            .ok_or_else(|| Error::Helper("it never had a first process".to_owned()))?;
        let groups = self.groups.take();
        Ok((
            pid,
            Remains {
                init: Some(init),
                groups,
            },
            control,
        ))
    }
}

impl Drop for Helper {
    /// Also after a success, when all that is left to do is to reap the helper, which is leaving by itself.
    fn drop(&mut self) {
        let is_init = self
            .init
            .as_ref()
            .is_some_and(|(pid, _)| u32::try_from(*pid) == Ok(self.child.id()));
        let failed = self.groups.is_some() || self.init.is_some();
        if failed {
            let _ = self.control.shutdown(std::net::Shutdown::Both);
        }
        if !is_init && let Some(leaving) = self.leaving.take() {
            if failed {
                let _ = pidfd_send_signal(&leaving, Signal::KILL);
            }
            reap_by(&leaving, Instant::now() + Duration::from_secs(5));
        }
        if let Some((_, init)) = self.init.take() {
            if !is_init {
                let _ = pidfd_send_signal(&init, Signal::KILL);
            }
            reap_by(&init, Instant::now() + Duration::from_secs(5));
        }
        if let Some(groups) = self.groups.take() {
            groups.destroy(Instant::now() + Duration::from_secs(5));
        }
    }
}

/// Everything up to a worker that runs.
pub fn start(spec: &Spec, level: &Level) -> Result<Started, Error> {
    let host = &level.host;
    host.graveyard.bury(Duration::ZERO);
    let plain = level.isolation == Isolation::None;
    let egress = if plain {
        Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).step("bind the egress listener")?)
    } else {
        None
    };
    let port = egress
        .as_ref()
        .and_then(|l| l.local_addr().ok())
        .map_or(EGRESS_PORT, |a| a.port());
    let plan = plan(spec, level, port)?;
    let wanted = ground(spec, level, host.worker_ids())?;
    let (socket, theirs) = UnixStream::pair().step("worker socket")?;
    let (stdout, stderr) = match spec.output {
        Output::Null => (None, None),
        Output::Piped => (
            Some(io::pipe().step("pipe")?),
            Some(io::pipe().step("pipe")?),
        ),
    };

    let mut helper = match host.standby.take(&wanted) {
        Some(helper) => helper,
        None => Helper::start(host)?,
    };
    if helper.ground.is_none() {
        if let Some(Layer::Filled(dir) | Layer::Made(dir)) = &spec.layer {
            layer::give(dir, (wanted.uid, wanted.gid))?;
        }
        helper.tell_ground(wanted)?;
    }
    if let Some(groups) = &helper.groups {
        groups
            .bound(Bounds {
                memory_bytes: spec.memory_mb << 20,
                processes: spec.processes,
            })
            .step("bound the control group")?;
    }
    let mut fds = vec![theirs.as_fd()];
    fds.extend(
        stdout
            .iter()
            .chain(stderr.iter())
            .map(|(_, write)| write.as_fd()),
    );
    helper.tell(&plan, &fds)?;
    drop(theirs);
    loop {
        match helper.hear()? {
            Some(Report::Running) => break,
            Some(_) => {}
            None => return Err(Error::Helper(format!("last step seen: {}", helper.last))),
        }
    }
    let egress = egress.or(helper.egress.take());
    let egress = egress.ok_or_else(|| Error::Helper("it passed no egress listener".to_owned()))?;
    let (pid, remains, control) = helper.hand_over()?;
    let read =
        |pipe: Option<(io::PipeReader, io::PipeWriter)>| pipe.map(|(read, _)| OwnedFd::from(read));
    Ok(Started {
        pid,
        remains,
        control,
        socket,
        egress,
        stdout: read(stdout),
        stderr: read(stderr),
    })
}

/// Of what is bound, by name, as the host has it now.
fn files(ground: &Ground) -> Vec<Identity> {
    let bound = ground.entries.iter().filter_map(|entry| match entry {
        Entry::Bind { host, .. } => Some(host),
        _ => None,
    });
    bound
        .map(|host| {
            let meta = std::fs::metadata(host).ok()?;
            Some((meta.dev(), meta.ino()))
        })
        .collect()
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut ended = [PollFd::new(pidfd, PollFlags::IN)];
    !matches!(poll(&mut ended, Some(&Timespec::default())), Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confine::plan::{Bind, INSIDE_ID, Mode};

    #[test]
    fn a_file_that_was_replaced_is_another_ground() {
        let dir = std::env::temp_dir().join(format!("phalanx-ground-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).expect("a folder");
        let (file, new) = (dir.join("cache"), dir.join("new"));
        std::fs::write(&file, "one").expect("written");
        let ground = Ground {
            mode: Mode::Confine,
            inside_id: INSIDE_ID,
            uid: 0,
            gid: 0,
            hostname: String::new(),
            entries: vec![Entry::Bind {
                host: file.to_string_lossy().into_owned(),
                inside: "/etc/cache".to_owned(),
                kind: Bind::Tree,
            }],
            proc: true,
        };
        let before = files(&ground);
        assert!(before[0].is_some());
        std::fs::write(&file, "as it is").expect("written");
        assert_eq!(files(&ground), before);
        std::fs::write(&new, "two").expect("written");
        std::fs::rename(&new, &file).expect("replaced");
        assert_ne!(files(&ground), before);
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
