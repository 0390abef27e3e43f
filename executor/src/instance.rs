//! One running worker: started confined, greeted, called, and ended for certain.

mod body;
mod lines;

use crate::{
    confine::{
        self, Exit,
        egress::{Bounds, Policy, Proxy, Resolver},
    },
    frame::{self, Init, InitLimits},
    link::{Hello, Link, Over},
    meter::Counts,
    pool::probes,
    template::Template,
    version::Version,
    watch::Hub,
};
use body::Body;
use bytes::Bytes;
use domain::{
    Timestamp,
    egress::Rule,
    execution::{Failure, FailureCode, FailurePhase},
    health::Sign,
    id::InstanceId,
    log::Line,
    waterfall::{How, Start},
};
pub use lines::instance_lines;
use lines::tell_refusals;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use store::Store;
use tokio::{
    net::{TcpListener, UnixStream},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Beside the body of a result.
const FRAME_SLACK: usize = 128 * 1024;
/// How long a worker whose socket is closed may take to end by itself.
const ENDS_WITHIN: Duration = Duration::from_millis(500);
/// Refused connections that may wait to be told.
const REFUSALS: usize = 64;

pub struct Instance {
    pub id: InstanceId,
    pub pid: i32,
    pub created_at: Timestamp,
    pub link: Arc<Link>,
    pub birth: Birth,
    /// It may be asked for a path.
    pub is_asgi: bool,
    body: Arc<Body>,
    exit: watch::Receiver<Option<Exit>>,
}

/// When an instance passed what it has to pass before it takes work.
#[derive(Debug, Clone, Copy)]
pub struct Birth {
    begun: Instant,
    imports: Instant,
    inits: Instant,
    ready: Instant,
}

impl Birth {
    fn of(begun: Instant) -> Self {
        Self {
            begun,
            imports: begun,
            inits: begun,
            ready: begun,
        }
    }

    /// It has just said how long it took; it may claim no more than there was.
    fn greeted(&mut self, import_ms: f64, init_ms: f64) {
        let now = Instant::now();
        let back = |from: Instant, ms: f64| {
            let span = Duration::try_from_secs_f64(ms / 1000.0).unwrap_or_default();
            from - span.min(from.duration_since(self.begun))
        };
        self.inits = back(now, init_ms);
        self.imports = back(self.inits, import_ms);
        self.ready = now;
    }

    /// How much of the time from `from` to `to` it was starting.
    pub fn within(&self, from: Instant, to: Instant) -> Start {
        let span = |begun: Instant, ended: Instant| {
            ended.min(to).saturating_duration_since(begun.max(from))
        };
        Start {
            spawn: span(self.begun, self.imports),
            import: span(self.imports, self.inits),
            init: span(self.inits, self.ready),
        }
    }
}

/// What starting needs besides the version.
#[derive(Clone)]
pub struct Grounds {
    pub level: confine::Level,
    pub store: Store,
    pub hub: Arc<Hub>,
    pub tasks: TaskTracker,
    pub start_within: Duration,
    pub result_bytes: usize,
    pub logs: domain::log::Bounds,
    pub counts: Counts,
    /// Private networks that the operator lets agents reach.
    pub egress_private: Arc<[Rule]>,
    pub resolver: Resolver,
    /// The most that an instance may compute with, in cores.
    pub cpus: Option<f64>,
    /// How many that were forked wait for use, for each template.
    pub spares: usize,
}

/// Why an instance did not become ready, and what it said until then.
#[derive(Debug, Clone)]
pub struct NotReady {
    pub failure: Failure,
    pub lines: Vec<Line>,
}

impl Instance {
    /// Forks it from the template if there is one, else spawns, imports and initialises, and waits until its health check is good. On an
    /// error nothing of it is left.
    pub async fn start(
        id: InstanceId,
        version: &Arc<Version>,
        grounds: &Grounds,
        template: Option<&Arc<Template>>,
    ) -> Result<Self, NotReady> {
        let begun = Instant::now();
        let said = Arc::new(Mutex::new(Vec::new()));
        let not_ready = |failure| NotReady {
            failure,
            lines: said.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let forked = match template {
            Some(template) => Self::fork(&id, version, grounds, template, &said).await,
            None => None,
        };
        let started = match forked {
            Some(forked) => Ok(forked),
            None => Self::spawn(id, version, grounds, Arc::clone(&said)).await,
        };
        let deadline = Instant::now() + grounds.start_within;
        let (mut instance, hello) = started.map_err(|message| {
            not_ready(Failure::new(
                FailureCode::InitFailed,
                FailurePhase::Spawn,
                message,
            ))
        })?;
        let failure = tokio::select! {
            hello = hello => match hello {
                Ok(Hello::Ready(ready)) => {
                    tracing::debug!(instance.id = %instance.id, kind = ready.entrypoint_kind, how = %instance.how(), import_ms = ready.import_ms, init_ms = ready.init_ms, "an instance is ready");
                    instance.is_asgi = ready.entrypoint_kind == "asgi";
                    instance.birth = Birth::of(begun);
                    instance.birth.greeted(instance.imported(ready.import_ms), ready.init_ms);
                    match instance.becomes_healthy(version, grounds.start_within, deadline).await {
                        Ok(()) => match instance.bound(grounds) {
                            Ok(()) => {
                                instance.birth.ready = Instant::now();
                                return Ok(instance);
                            }
                            Err(failure) => failure,
                        },
                        Err(failure) => failure,
                    }
                }
                Ok(Hello::Failed(failure)) => failure,
                Err(_) => instance.why_gone(FailurePhase::Import).await,
            },
            () = tokio::time::sleep(grounds.start_within) => {
                let message = format!("the agent was not imported and initialised within {} s", grounds.start_within.as_secs());
                Failure::new(FailureCode::InitFailed, FailurePhase::Import, message)
            }
        };
        instance.kill().await;
        Err(not_ready(failure))
    }

    /// From now on: for imports a quota would be ruinous.
    fn bound(&self, grounds: &Grounds) -> Result<(), Failure> {
        let Some(cores) = grounds.cpus else {
            return Ok(());
        };
        self.body.limit_cpu(cores).map_err(|error| {
            let message = format!("executor.cpus cannot be kept: {error}");
            Failure::new(FailureCode::InitFailed, FailurePhase::Spawn, message)
        })
    }

    /// What was imported may still have to warm up, or to reach others; only then it takes work.
    async fn becomes_healthy(
        &self,
        version: &Version,
        within: Duration,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let check = &version.spec.health_check;
        if !check.enabled {
            return Ok(());
        }
        loop {
            let probe = tokio::select! {
                () = self.link.closed() => return Err(self.why_gone(FailurePhase::Init).await),
                probe = self.probe(Some(&check.path), 0) => probe,
            };
            if matches!(probe.sign(), Sign::Well | Sign::Loaded) {
                return Ok(());
            }
            if Instant::now() + probes::RETRY > deadline {
                return Err(probes::never_healthy(&check.path, probe.status, within));
            }
            tokio::time::sleep(probes::RETRY).await;
        }
    }

    async fn spawn(
        id: InstanceId,
        version: &Arc<Version>,
        grounds: &Grounds,
        said: Arc<Mutex<Vec<Line>>>,
    ) -> Result<(Self, oneshot::Receiver<Hello>), String> {
        let spec = version.confine_spec(id.as_str());
        let mut confined = confine::spawn(&spec, &grounds.level)
            .await
            .map_err(|error| format!("the sandbox could not be made: {error}"))?;
        let socket = confined
            .socket
            .take()
            .ok_or("the sandbox came without a socket")?;
        let egress = confined.egress.take();
        let (instance, hello) = Self::attended(
            id,
            version,
            grounds,
            Arc::clone(&said),
            (socket, Body::Spawned(confined)),
        );
        if let Some(listener) = egress {
            serve_egress(listener, version, grounds, said, instance.link.closing());
        }
        let init = init_frame(version, grounds, false)?;
        if instance.link.send(init).is_err() {
            return Err("the worker ended before it was greeted".to_owned());
        }
        Ok((instance, hello))
    }

    /// `None`: it has to be spawned.
    async fn fork(
        id: &InstanceId,
        version: &Arc<Version>,
        grounds: &Grounds,
        template: &Arc<Template>,
        said: &Arc<Mutex<Vec<Line>>>,
    ) -> Option<(Self, oneshot::Receiver<Hello>)> {
        let spare = match template.take().await {
            Ok(spare) => spare,
            Err(error) => {
                tracing::warn!(instance.id = %id, version.id = %version.id, error = %error, "an instance could not be forked and is spawned");
                return None;
            }
        };
        let body = Body::Forked(spare.forked);
        let (instance, hello) = Self::attended(
            id.clone(),
            version,
            grounds,
            Arc::clone(said),
            (spare.socket, body),
        );
        let adopt = frame::adopt(&spare.root).ok()?;
        // It may have ended while it waited: then the reader sees the end.
        instance.link.send(adopt).ok();
        Some((instance, hello))
    }

    /// With tasks that write to its socket, read from it, and end it when it is over.
    fn attended(
        id: InstanceId,
        version: &Arc<Version>,
        grounds: &Grounds,
        said: Arc<Mutex<Vec<Line>>>,
        (socket, body): (UnixStream, Body),
    ) -> (Self, oneshot::Receiver<Hello>) {
        let (link, read) = Link::new(socket);
        let (link, body) = (Arc::new(link), Arc::new(body));
        let (tell_hello, hello) = oneshot::channel();
        let (tell_exit, exit) = watch::channel(None);
        let writer = Arc::clone(&link);
        grounds.tasks.spawn(async move { writer.write().await });
        let (reader, name) = (Arc::clone(&link), id.clone());
        let lines = instance_lines(version, grounds, said);
        let watched = Arc::clone(&body);
        let frame_bytes = grounds.frame_bytes();
        grounds.tasks.spawn(async move {
            match reader.read(read, frame_bytes, tell_hello, lines).await {
                Over::Closed => {}
                Over::Broken(fault) => {
                    tracing::warn!(instance.id = %name, fault, "a worker broke the protocol and is ended");
                }
                // It may be ending by itself: then how is the answer to why its calls are gone.
                Over::Gone => {
                    tokio::time::timeout(ENDS_WITHIN, watched.wait()).await.ok();
                }
            }
            end(&watched, &name).await;
            // Nobody may be left to ask.
            tell_exit.send(Some(watched.wait().await)).ok();
        });
        let instance = Self {
            id,
            pid: body.pid(),
            created_at: grounds.store.now(),
            link,
            birth: Birth::of(Instant::now()),
            is_asgi: false,
            body,
            exit,
        };
        (instance, hello)
    }

    /// Kills everything of it and sees it empty.
    pub async fn kill(&self) -> Exit {
        self.link.close();
        self.exited().await
    }

    /// How it ended, once it has.
    pub async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        let seen = exit
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|seen| *seen);
        seen.unwrap_or(Exit {
            code: None,
            signal: None,
            oom_killed: false,
        })
    }

    /// The true cause of calls that ended with their worker.
    pub async fn why_gone(&self, phase: FailurePhase) -> Failure {
        let exit = self.exited().await;
        let at_start = phase != FailurePhase::Handler;
        let (code, message) = match (exit.oom_killed, exit.signal, exit.code) {
            (true, ..) => (
                FailureCode::OutOfMemory,
                "the instance was killed at its memory limit".to_owned(),
            ),
            (_, Some(signal), _) => (
                FailureCode::InstanceCrashed,
                format!(
                    "the instance was killed by signal {signal} ({})",
                    signal_name(signal)
                ),
            ),
            (_, _, Some(status)) => (
                FailureCode::InstanceCrashed,
                format!("the instance exited with code {status}"),
            ),
            _ => (
                FailureCode::InstanceCrashed,
                "the instance is gone".to_owned(),
            ),
        };
        let code = if at_start && code == FailureCode::InstanceCrashed {
            FailureCode::InitFailed
        } else {
            code
        };
        Failure {
            exit_code: exit.code,
            signal: exit.signal,
            ..Failure::new(code, phase, message)
        }
    }

    /// Something that a call left running.
    pub fn has_strays(&self) -> bool {
        self.body.has_strays()
    }

    /// What is forked imports nothing, and whatever is spawned at least itself: so the phases tell which it was.
    fn imported(&self, claimed_ms: f64) -> f64 {
        const LEAST_MS: f64 = 0.01;
        match self.how() {
            How::Forked => 0.0,
            How::Spawned => claimed_ms.max(LEAST_MS),
        }
    }

    pub fn how(&self) -> How {
        if self.body.is_forked() {
            How::Forked
        } else {
            How::Spawned
        }
    }

    pub fn processes(&self) -> usize {
        self.body.processes()
    }

    pub fn memory(&self) -> confine::Memory {
        self.body.memory()
    }

    pub fn cpu_us(&self) -> u64 {
        self.body.cpu_us()
    }
}

impl Grounds {
    pub fn frame_bytes(&self) -> usize {
        self.result_bytes + FRAME_SLACK
    }
}

/// What a worker is told first.
pub fn init_frame(version: &Version, grounds: &Grounds, template: bool) -> Result<Bytes, String> {
    let spec = &version.spec;
    let (code, packages) = version.seen_at(grounds.level.isolation);
    let packages: Vec<&str> = packages.as_deref().into_iter().collect();
    let init = Init {
        code_dir: &code,
        site_dirs: &packages,
        entrypoint: spec.entrypoint.as_str(),
        concurrency: spec.configuration.concurrent_executions,
        log_level: spec.log_level.as_str(),
        environment: &version.environment,
        limits: InitLimits {
            frame_bytes: grounds.frame_bytes(),
            result_bytes: grounds.result_bytes,
            log_lines: grounds.logs.lines,
            log_bytes: grounds.logs.bytes,
            log_line_bytes: grounds.logs.line_bytes,
        },
        template,
        warm_up: spec.warm.up.as_ref().filter(|_| template),
    };
    frame::init(&init).map_err(|error| error.to_string())
}

/// The only way out of a sandbox, until `closing`.
pub fn serve_egress(
    listener: TcpListener,
    version: &Arc<Version>,
    grounds: &Grounds,
    said: Arc<Mutex<Vec<Line>>>,
    closing: CancellationToken,
) {
    let (refusals, refused) = mpsc::channel(REFUSALS);
    let proxy = Proxy {
        policy: Policy {
            egress: version.spec.egress.clone(),
            private: Arc::clone(&grounds.egress_private),
        },
        bounds: Bounds::default(),
        resolver: grounds.resolver.share(),
        refusals,
    };
    grounds.tasks.spawn(proxy.serve(listener, closing));
    grounds.tasks.spawn(tell_refusals(
        refused,
        instance_lines(version, grounds, said),
        grounds.store.clock().clone(),
    ));
}

async fn end(body: &Body, id: &InstanceId) {
    for _ in 0..3 {
        match body.kill().await {
            Ok(_) => return,
            Err(error) => {
                tracing::error!(instance.id = %id, error = %error, "an instance could not be ended; trying again");
            }
        }
    }
}

fn signal_name(signal: i32) -> &'static str {
    nix::sys::signal::Signal::try_from(signal).map_or("unknown", nix::sys::signal::Signal::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_waited_for_counts() {
        let ms = Duration::from_millis;
        let begun = Instant::now();
        let birth = Birth {
            begun,
            imports: begun + ms(10),
            inits: begun + ms(30),
            ready: begun + ms(35),
        };
        let all = birth.within(begun, begun + ms(50));
        assert_eq!((all.spawn, all.import, all.init), (ms(10), ms(20), ms(5)));
        let late = birth.within(begun + ms(25), begun + ms(32));
        assert_eq!((late.spawn, late.import, late.init), (ms(0), ms(5), ms(2)));
        let warm = birth.within(begun + ms(40), begun + ms(50));
        assert_eq!(warm, Start::default());
    }

    #[test]
    fn nobody_claims_more_than_there_was() {
        for (import_ms, init_ms) in [(1e9, 1e9), (-1.0, f64::NAN), (f64::INFINITY, 1.0)] {
            let mut birth = Birth::of(Instant::now());
            birth.greeted(import_ms, init_ms);
            assert!(
                birth.begun <= birth.imports && birth.imports <= birth.inits,
                "{birth:?}"
            );
            assert!(birth.inits <= birth.ready, "{birth:?}");
        }
    }
}
