//! Whether a version has a template, when one is made, and when it ends. Never on the way of anybody who waits.

use super::{Pool, State};
use crate::template::{Refusal, Template};
use domain::agent::Isolation;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// After a template that failed: doubled each time, up to the most.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const MOST_WAIT: Duration = Duration::from_secs(300);

/// Templates that import at the same time, beside instances that start: these come first, but wait for no template's turn.
const AT_ONCE: usize = 2;

#[derive(Debug)]
pub struct Templates {
    /// One that nobody has needed for so long ends.
    idle: Duration,
    at_once: Semaphore,
}

impl Templates {
    pub fn new(idle: Duration) -> Self {
        Self {
            idle,
            at_once: Semaphore::new(AT_ONCE),
        }
    }
}

#[derive(Default)]
pub struct Warm {
    now: Now,
    /// Those that fork no more, with instances that live on.
    leaving: Vec<Arc<Template>>,
    failures: u32,
    not_before: Option<Instant>,
}

#[derive(Default)]
enum Now {
    #[default]
    None,
    Starting,
    Ready(Arc<Template>),
    /// It is not safe to be forked.
    Never,
}

impl Warm {
    pub fn template(&self) -> Option<Arc<Template>> {
        match &self.now {
            Now::Ready(template) if template.is_usable() => Some(Arc::clone(template)),
            _ => None,
        }
    }

    pub fn is_starting(&self) -> bool {
        matches!(self.now, Now::Starting)
    }

    pub fn drain(&mut self) -> Vec<Arc<Template>> {
        let mut all = std::mem::take(&mut self.leaving);
        if let Now::Ready(template) = std::mem::take(&mut self.now) {
            all.push(template);
        }
        all
    }

    fn failed(&mut self) {
        self.now = Now::None;
        let wait = FIRST_WAIT * 2u32.saturating_pow(self.failures);
        self.not_before = Some(Instant::now() + wait.min(MOST_WAIT));
        self.failures = (self.failures + 1).min(16);
    }
}

impl Pool {
    /// An instance is ready. More are to be expected of a version that goes down to none, and of one that needs a second beside the first.
    pub(super) fn want_template(self: &Arc<Self>, state: &mut State) {
        let may = self.common.templates.is_some()
            && self.common.grounds.level.cannot_fork().is_none()
            && self.version.spec.isolation == Isolation::Agent
            && self.version.spec.warm.start;
        let living = state.seats.len() + state.starting as usize;
        let expects = state.envelope.min_instances == 0 || living > 1;
        let waits = state.warm.not_before.is_some_and(|at| Instant::now() < at);
        if !may || !expects || waits || !matches!(state.warm.now, Now::None) {
            return;
        }
        state.warm.now = Now::Starting;
        let pool = Arc::clone(self);
        let tasks = &self.common.grounds.tasks;
        tasks.spawn(async move { pool.make_template().await });
    }

    async fn make_template(self: Arc<Self>) {
        let made = {
            // Not in turn with instances: those that wait for theirs are what it is made for.
            let _turn = match &self.common.templates {
                Some(templates) => templates.at_once.acquire().await.ok(),
                None => None,
            };
            if self.state().is_over() {
                Err(Refusal::Failed("nobody needs it any more".to_owned()))
            } else {
                let id = format!("template-{}", uuid::Uuid::now_v7().simple());
                Template::start(&id, &self.version, &self.common.grounds).await
            }
        };
        let unwanted = {
            let mut state = self.state();
            match made {
                Ok(template) if state.closed => Some(template),
                Ok(template) => {
                    tracing::debug!(version.id = %self.version.id, pid = template.pid(), "a template is ready");
                    state.warm.now = Now::Ready(template);
                    None
                }
                Err(Refusal::SpawnOnly(_)) => {
                    state.warm.now = Now::Never;
                    None
                }
                Err(Refusal::Failed(reason)) => {
                    tracing::debug!(version.id = %self.version.id, reason, "there is no template");
                    state.warm.failed();
                    None
                }
            }
        };
        if let Some(template) = unwanted {
            template.end().await;
            self.state().warm.now = Now::None;
        }
        self.changed.notify_waiters();
    }

    /// Lets go of those that fork no more, or that nobody has needed for long.
    pub(super) fn look_at_templates(self: &Arc<Self>, state: &mut State) {
        let warm = &mut state.warm;
        if let (Now::Ready(template), Some(templates)) = (&warm.now, &self.common.templates) {
            let is_idle =
                template.instances() == 0 && template.used_at().elapsed() >= templates.idle;
            if !template.is_usable() {
                let template = Arc::clone(template);
                tracing::info!(version.id = %self.version.id, "a template forks no more");
                warm.failed();
                warm.leaving.push(template);
            } else if is_idle {
                warm.leaving.push(Arc::clone(template));
                warm.now = Now::None;
            }
        }
        let (over, leaving) = std::mem::take(&mut warm.leaving)
            .into_iter()
            .partition(|template| template.instances() == 0);
        warm.leaving = leaving;
        let over: Vec<Arc<Template>> = over;
        for template in over {
            let tasks = &self.common.grounds.tasks;
            tasks.spawn(async move { template.end().await });
        }
    }
}
