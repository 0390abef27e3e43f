//! How many instances a version should have on one node, which figure says so, and whose turn it is to start.
//!
//! Two windows (Knative's autoscaler, docs/serving/autoscaling): the stable one says what the load needs, the panic one, a tenth as
//! long, whether it has at least doubled. Whoever waits too long, or meets nobody, is an input of its own. What goes down waits:
//! only what was not wanted for a whole delay is let go.
//!
//! Times are since an origin of the caller's own, from a clock that is never set.

mod load;
mod starts;

use crate::words;
use load::Load;
use starts::Allowance;
pub use starts::Turns;
use std::time::Duration;

/// The stable window of 60 s.
pub const STABLE: Duration = Duration::from_secs(60);
/// Panic, when the panic window asks for so many times what is ready.
const PANIC_AT: u32 = 2;
/// Whoever waits for longer is a reason to grow by what is there at this moment.
pub const PATIENCE: Duration = Duration::from_millis(25);
/// Growth by load at most doubles what is ready, then looks again: so much more than needed it can be, and no more.
const GROWTH: u32 = 2;

/// What one executor sees of one version.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// Take work.
    pub ready: u32,
    pub starting: u32,
    pub in_flight: u32,
    pub waiting: u32,
    /// For how long the first of them has.
    pub oldest: Duration,
    /// Starts failed a moment ago, and the next one is not due.
    pub held: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub min: u32,
    /// Where it is below `min`, it counts: a version that shrinks never grows on its way.
    pub max: u32,
    pub concurrency: u32,
    pub target_utilization: f64,
}

words! {
    /// Which figure decided.
    pub enum Input {
        Floor = "floor",
        Ceiling = "ceiling",
        /// Nobody is there, and somebody waits.
        Cold = "cold",
        Waiting = "waiting",
        Panic = "panic",
        Stable = "stable",
        /// A new order: whether the version starts at all.
        Proof = "proof",
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub instances: u32,
    pub input: Input,
    /// The input and its figures, for people.
    pub reason: String,
}

/// The load of one version and what was decided by it.
#[derive(Debug)]
pub struct Scaler {
    stable: Duration,
    /// How long less must have been enough before anything is let go.
    delay: Duration,
    load: Load,
    starts: Allowance,
    panic_until: Option<Duration>,
    lower: Option<Lower>,
}

/// Fewer are wanted than there are.
#[derive(Debug, Clone, Copy)]
struct Lower {
    since: Duration,
    /// The most that was wanted since.
    most: u32,
}

impl Scaler {
    /// With a stable window other than [`STABLE`]; all else follows it.
    pub fn new(stable: Duration) -> Self {
        Self {
            stable,
            delay: stable / 2,
            load: Load::new(stable),
            starts: Allowance::default(),
            panic_until: None,
            lower: None,
        }
    }

    /// So many run and wait from now on. Cheap: it is called for every execution, twice.
    pub fn note(&mut self, demand: u32, at: Duration) {
        self.load.note(demand, at);
    }

    pub fn is_panicking(&self, at: Duration) -> bool {
        self.panic_until.is_some_and(|until| at < until)
    }

    /// The wanted number of instances and why; `None` when nothing is to be done now.
    pub fn decide(&mut self, seen: Seen, limits: Limits, at: Duration) -> Option<Decision> {
        let demand = seen.in_flight + seen.waiting;
        self.load.note(demand, at);
        let living = seen.ready + seen.starting;
        let min = limits.min.min(limits.max);
        if living > limits.max {
            let reason = format!("ceiling: {living} instances, at most {}", limits.max);
            return Some(Decision {
                instances: limits.max,
                input: Input::Ceiling,
                reason,
            });
        }
        if living < min {
            let reason = format!("floor: {living} instances, at least {min}");
            let decision = Decision {
                instances: min,
                input: Input::Floor,
                reason,
            };
            return (!seen.held).then_some(decision);
        }
        let (wanted, input) = self.wanted(seen, limits, at);
        let wanted = wanted.clamp(min, limits.max);
        if wanted > living {
            self.lower = None;
            return self.grow(seen, limits, (wanted, input), at);
        }
        // What filled so many seats a moment ago may do so again: seats that peaks need are kept, or steady load would flap.
        let seats = self.load.peak().div_ceil(limits.concurrency.max(1));
        let enough = wanted.max(seats.min(limits.max));
        if enough < living && seen.starting == 0 {
            return self.shrink(living, enough, limits, at);
        }
        self.lower = None;
        None
    }

    /// The most that any input asks for.
    fn wanted(&mut self, seen: Seen, limits: Limits, at: Duration) -> (u32, Input) {
        let living = seen.ready + seen.starting;
        let stable = need(self.load.average(), limits);
        let panic = need(self.load.recent(), limits);
        if living > 0 && panic >= PANIC_AT * seen.ready.max(1) {
            self.panic_until = Some(at + self.stable);
        }
        let mut wanted = (stable, Input::Stable);
        if self.is_panicking(at) && panic.max(living) > wanted.0 {
            wanted = (panic.max(living), Input::Panic);
        }
        let now = need(f64::from(seen.in_flight + seen.waiting), limits);
        if seen.waiting > 0 && now > wanted.0 {
            if living == 0 {
                wanted = (now, Input::Cold);
            } else if seen.oldest >= PATIENCE {
                wanted = (now, Input::Waiting);
            }
        }
        wanted
    }

    fn grow(
        &mut self,
        seen: Seen,
        limits: Limits,
        (wanted, input): (u32, Input),
        at: Duration,
    ) -> Option<Decision> {
        let living = seen.ready + seen.starting;
        let step = wanted.min((seen.ready * GROWTH).max(1));
        if seen.held || step <= living {
            return None;
        }
        let more = self.starts.take(step - living, at);
        let instances = living + more;
        let figures = match input {
            Input::Cold => format!("{} waiting for the first instance", seen.waiting),
            Input::Waiting => format!(
                "{} running and {} waiting, the first for {} ms,",
                seen.in_flight,
                seen.waiting,
                seen.oldest.as_millis()
            ),
            Input::Panic => format!(
                "{:.1} executions at once over {} s",
                self.load.recent(),
                seconds(self.stable / load::PANIC_PART)
            ),
            Input::Stable | Input::Floor | Input::Ceiling | Input::Proof => format!(
                "{:.1} executions at once over {} s",
                self.load.average(),
                seconds(self.stable)
            ),
        };
        let mut reason = format!(
            "{}: {figures} need {wanted} of {} slots used to {:.0} %",
            input.as_str(),
            limits.concurrency,
            limits.target_utilization * 100.0
        );
        if instances < wanted {
            reason += &format!("; {more} now");
        }
        (more > 0).then_some(Decision {
            instances,
            input,
            reason,
        })
    }

    fn shrink(
        &mut self,
        living: u32,
        wanted: u32,
        limits: Limits,
        at: Duration,
    ) -> Option<Decision> {
        let lower = self.lower.get_or_insert(Lower {
            since: at,
            most: wanted,
        });
        lower.most = lower.most.max(wanted);
        if at.saturating_sub(lower.since) < self.delay {
            return None;
        }
        let instances = lower.most;
        self.lower = None;
        let reason = format!(
            "stable: {:.1} executions at once over {} s, {} at most, need {instances} of {} slots, and did for {} s",
            self.load.average(),
            seconds(self.stable),
            self.load.peak(),
            limits.concurrency,
            seconds(self.delay)
        );
        (instances < living).then_some(Decision {
            instances,
            input: Input::Stable,
            reason,
        })
    }
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 10.0).round() / 10.0
}

/// Instances for so many executions at once.
fn need(concurrency: f64, limits: Limits) -> u32 {
    let each = f64::from(limits.concurrency.max(1)) * limits.target_utilization.max(0.01);
    // What floating point adds to a quotient that is whole needs nobody.
    (concurrency / each - 1e-9).ceil().max(0.0) as u32
}

#[cfg(test)]
mod tests;
