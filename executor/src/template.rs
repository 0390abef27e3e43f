//! A version imported once, of which instances are forked: in a sandbox of its own, which is theirs as well.
//!
//! In: a version that may be forked. Out: processes that become instances by one frame, some of them made ahead. Never here: how many
//! instances there should be, and when a template is made or ended (`pool/warm.rs`).

use crate::{
    confine::{self, Spare},
    frame,
    instance::{Grounds, init_frame, instance_lines, serve_egress},
    link::{Hello, Link, Over},
    version::Version,
};
use domain::log::{Level, Line};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio_util::task::TaskTracker;

/// Beside those that a version may have: spares, and those that are just ending.
const MORE_SLOTS: u32 = 8;
/// Each is some forty mounts.
const MOST_SLOTS: u32 = 1024;

pub struct Template {
    held: Arc<confine::Template>,
    link: Arc<Link>,
    spares: Mutex<Spares>,
    wanted: usize,
    filling: AtomicBool,
    broken: AtomicBool,
    tasks: TaskTracker,
}

struct Spares {
    waiting: Vec<Spare>,
    used_at: Instant,
    over: bool,
}

/// Why there is no template.
#[derive(Debug)]
pub enum Refusal {
    /// Of this version there never will be.
    SpawnOnly(String),
    /// Perhaps next time.
    Failed(String),
}

impl Template {
    /// Imports the agent, and handles its warm-up input. On an error nothing of it is left.
    pub async fn start(
        id: &str,
        version: &Arc<Version>,
        grounds: &Grounds,
    ) -> Result<Arc<Self>, Refusal> {
        let failed = |error: String| Refusal::Failed(error);
        let mut spec = version.confine_spec(id);
        let most = version.spec.scaling.max_instances;
        spec.slots = most.saturating_add(MORE_SLOTS).min(MOST_SLOTS);
        let spawning = confine::Template::spawn(&spec, &grounds.level).await;
        let (mut held, socket) = spawning.map_err(|error| failed(error.to_string()))?;
        let egress = held.egress();
        let (link, read) = Link::new(socket);
        let (held, link) = (Arc::new(held), Arc::new(link));
        let said = Arc::new(Mutex::new(Vec::new()));
        if let Some(listener) = egress {
            serve_egress(
                listener,
                version,
                grounds,
                Arc::clone(&said),
                link.closing(),
            );
        }
        let heard = Arc::clone(&held);
        grounds.tasks.spawn(async move {
            if let Err(error) = heard.attend().await {
                tracing::warn!(error = %error, "a template's sandbox could not be heard");
            }
        });
        let writer = Arc::clone(&link);
        grounds.tasks.spawn(async move { writer.write().await });
        let (tell_hello, hello) = tokio::sync::oneshot::channel();
        let lines = instance_lines(version, grounds, Arc::clone(&said));
        let template = Arc::new(Self {
            held,
            link: Arc::clone(&link),
            spares: Mutex::new(Spares {
                waiting: Vec::new(),
                used_at: Instant::now(),
                over: false,
            }),
            wanted: grounds.spares,
            filling: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            tasks: grounds.tasks.clone(),
        });
        let (watched, frame_bytes) = (Arc::clone(&template), grounds.frame_bytes());
        let name = id.to_owned();
        grounds.tasks.spawn(async move {
            if let Over::Broken(fault) = link.read(read, frame_bytes, tell_hello, lines).await {
                tracing::warn!(template.id = name, fault, "a template broke the protocol");
            }
            watched.broken.store(true, Ordering::Relaxed);
        });
        let greeted = async {
            let init = init_frame(version, grounds, true).map_err(failed)?;
            let gone = || failed("the template ended before it was ready".to_owned());
            template.link.send(init).map_err(|_| gone())?;
            let late = || {
                let within = grounds.start_within.as_secs();
                failed(format!("the template was not ready within {within} s"))
            };
            let hello = tokio::time::timeout(grounds.start_within, hello).await;
            match hello.map_err(|_| late())?.map_err(|_| gone())? {
                Hello::Ready(ready) => ready.spawn_only.map_or(Ok(()), |reason| {
                    Err(Refusal::SpawnOnly(reason.chars().take(500).collect()))
                })?,
                Hello::Failed(failure) => return Err(failed(failure.message)),
            }
            let bounded = grounds.cpus.map(|cores| template.held.limit_cpu(cores));
            bounded.unwrap_or(Ok(())).map_err(|e| failed(e.to_string()))
        }
        .await;
        if let Err(refusal) = greeted {
            template.end().await;
            if let Refusal::SpawnOnly(reason) = &refusal {
                tell(version, grounds, reason);
            }
            return Err(refusal);
        }
        template.fill();
        Ok(template)
    }

    pub fn pid(&self) -> i32 {
        self.held.pid()
    }

    /// One to become an instance: made ahead, or now.
    pub async fn take(self: &Arc<Self>) -> Result<Spare, confine::Error> {
        let ahead = {
            let mut spares = self.spares();
            spares.used_at = Instant::now();
            std::iter::from_fn(|| spares.waiting.pop()).find(|spare| spare.forked.is_alive())
        };
        let taken = match ahead {
            Some(spare) => Ok(spare),
            None => self.fork().await,
        };
        self.fill();
        taken
    }

    async fn fork(&self) -> Result<Spare, confine::Error> {
        let frame = frame::fork(1).map_err(|e| confine::Error::Spec(e.to_string()))?;
        let forked = self.held.fork(frame.to_vec()).await;
        if forked.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        forked
    }

    /// Makes the next ones ahead.
    fn fill(self: &Arc<Self>) {
        if self.filling.swap(true, Ordering::Relaxed) {
            return;
        }
        let template = Arc::clone(self);
        self.tasks.spawn(async move {
            while template.is_usable() && template.spares().waiting.len() < template.wanted {
                let Ok(spare) = template.fork().await else {
                    break;
                };
                let mut spares = template.spares();
                if spares.over {
                    break;
                }
                spares.waiting.push(spare);
            }
            template.filling.store(false, Ordering::Relaxed);
        });
    }

    /// It forks; what it has forked may live on when it does not any more.
    pub fn is_usable(&self) -> bool {
        !self.broken.load(Ordering::Relaxed) && !self.held.is_gone()
    }

    /// What was forked from it is not to be trusted.
    pub fn spoil(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Instances that live in its sandbox.
    pub fn instances(&self) -> usize {
        let spares = self.spares().waiting.len();
        self.held.forks().saturating_sub(spares)
    }

    /// Since when nobody has wanted one.
    pub fn used_at(&self) -> Instant {
        self.spares().used_at
    }

    /// Everything in its sandbox, seen gone.
    pub async fn end(&self) {
        self.spoil();
        let waiting = {
            let mut spares = self.spares();
            spares.over = true;
            std::mem::take(&mut spares.waiting)
        };
        for spare in waiting {
            spare.forked.kill().await.ok();
        }
        self.link.close();
        for _ in 0..3 {
            match self.held.kill().await {
                Ok(_) => return,
                Err(error) => {
                    tracing::error!(error = %error, "a template could not be ended; trying again");
                }
            }
        }
    }

    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In the agent's own log: whoever wonders why its starts are slow looks there.
fn tell(version: &Arc<Version>, grounds: &Grounds, reason: &str) {
    tracing::info!(version.id = %version.id, agent.id = %version.spec.agent_id, reason, "instances of a version are spawned, not forked");
    let lines = instance_lines(version, grounds, Arc::default());
    lines(vec![Line {
        timestamp: grounds.store.now(),
        level: Level::Info,
        message: format!("instances are spawned, not forked: {reason}"),
        context: None,
    }]);
}
