//! One deployment: the road of a version from accepted to answering, phase by phase, or to its failure.

use crate::{Timestamp, words};
use serde::{Deserialize, Serialize};

words! {
    pub enum Status {
        Deploying = "deploying",
        Deployed = "deployed",
        Failed = "failed",
        RolledBack = "rolled_back",
        Superseded = "superseded",
    }
}

impl Status {
    pub fn is_terminal(self) -> bool {
        self != Self::Deploying
    }
}

words! {
    /// What a deployment row asks for.
    pub enum Kind {
        Deploy = "deploy",
        Delete = "delete",
    }
}

words! {
    pub enum Phase {
        Validate = "validate",
        Package = "package",
        Provision = "provision",
        HealthCheck = "health_check",
        ShiftTraffic = "shift_traffic",
        Retire = "retire",
    }
}

impl Phase {
    /// The phases of a kind, in order.
    pub fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Deploy => Self::ALL,
            Kind::Delete => &[Self::ShiftTraffic, Self::Retire],
        }
    }
}

words! {
    pub enum PhaseStatus {
        Pending = "pending",
        Running = "running",
        Completed = "completed",
        Failed = "failed",
    }
}

/// One phase as it is kept and shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseRecord {
    pub name: Phase,
    pub status: PhaseStatus,
    pub started_at: Option<Timestamp>,
    pub completed_at: Option<Timestamp>,
    pub logs: Vec<String>,
}

/// Lines that one phase may keep; the middle of a longer log is dropped and counted.
pub const PHASE_LOG_LINES: usize = 1000;

/// Everything that changes while a deployment runs: the part that `advance` replaces whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    pub status: Status,
    pub phases: Vec<PhaseRecord>,
    /// Why it failed or was superseded, for the reader of the list.
    pub reason: Option<String>,
}

/// What may happen to a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Begin the next phase, or begin the one that a lost process left running again.
    Begin(Phase),
    /// More lines of the running phase.
    Log(Vec<String>),
    /// The running phase is done.
    Complete(Phase),
    /// The running phase cannot be done.
    Fail(Phase, String),
    /// A newer deployment of the agent takes over.
    Supersede(String),
}

impl State {
    pub fn accepted(kind: Kind) -> Self {
        let pending = |name: &Phase| PhaseRecord {
            name: *name,
            status: PhaseStatus::Pending,
            started_at: None,
            completed_at: None,
            logs: Vec::new(),
        };
        Self {
            status: Status::Deploying,
            phases: Phase::of(kind).iter().map(pending).collect(),
            reason: None,
        }
    }

    /// The first phase that is not completed; `None` when all are.
    pub fn current(&self) -> Option<&PhaseRecord> {
        self.phases
            .iter()
            .find(|phase| phase.status != PhaseStatus::Completed)
    }

    /// Whole percents of phases done.
    pub fn progress(&self) -> u32 {
        let done = self
            .phases
            .iter()
            .filter(|phase| phase.status == PhaseStatus::Completed)
            .count();
        u32::try_from(done * 100 / self.phases.len().max(1)).unwrap_or(100)
    }

    /// The next state, or `None` where the input does not fit: a terminal deployment never changes, and phases go in order.
    #[must_use]
    pub fn step(&self, input: Input, now: Timestamp) -> Option<Self> {
        if self.status.is_terminal() {
            return None;
        }
        let mut next = self.clone();
        let at = self
            .phases
            .iter()
            .position(|phase| phase.status != PhaseStatus::Completed)?;
        let last = at + 1 == self.phases.len();
        let phase = &mut next.phases[at];
        match input {
            Input::Begin(name)
                if phase.name == name
                    && matches!(phase.status, PhaseStatus::Pending | PhaseStatus::Running) =>
            {
                phase.status = PhaseStatus::Running;
                phase.started_at = phase.started_at.or(Some(now));
            }
            Input::Log(lines) if phase.status == PhaseStatus::Running => {
                append(&mut phase.logs, lines);
            }
            Input::Complete(name) if phase.name == name && phase.status == PhaseStatus::Running => {
                phase.status = PhaseStatus::Completed;
                phase.completed_at = Some(now);
                if last {
                    next.status = Status::Deployed;
                }
            }
            Input::Fail(name, reason)
                if phase.name == name && phase.status == PhaseStatus::Running =>
            {
                phase.status = PhaseStatus::Failed;
                phase.completed_at = Some(now);
                next.status = Status::Failed;
                next.reason = Some(reason);
            }
            Input::Supersede(reason) => {
                if phase.status == PhaseStatus::Running {
                    phase.status = PhaseStatus::Failed;
                    phase.completed_at = Some(now);
                }
                next.status = Status::Superseded;
                next.reason = Some(reason);
            }
            Input::Begin(_) | Input::Log(_) | Input::Complete(_) | Input::Fail(..) => return None,
        }
        Some(next)
    }
}

fn append(logs: &mut Vec<String>, lines: Vec<String>) {
    logs.extend(lines);
    if logs.len() > PHASE_LOG_LINES {
        let half = PHASE_LOG_LINES / 2;
        let dropped = logs.len() - PHASE_LOG_LINES + 1;
        logs.splice(
            half..half + dropped,
            [format!("… {dropped} lines dropped …")],
        );
    }
}

/// What deployer sees of a deployment before it decides.
#[derive(Debug, Clone)]
pub struct Seen<'a> {
    pub state: &'a State,
    /// A deployment of the same agent that was accepted later.
    pub newer: Option<&'a str>,
}

/// What deployer does next. It does just that, and then looks again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing is left to do.
    Rest,
    /// Carry out this phase; it may have been begun by a process that is gone.
    Run(Phase),
    /// Give way to the newer deployment named here, and take down what was set up.
    GiveWay(String),
}

/// A deployment gives way only while it has not moved traffic: after that it finishes, and the newer one follows.
pub fn decide(seen: &Seen<'_>) -> Step {
    if seen.state.status.is_terminal() {
        return Step::Rest;
    }
    let Some(current) = seen.state.current() else {
        return Step::Rest;
    };
    match (seen.newer, current.name) {
        (Some(newer), Phase::Validate | Phase::Package | Phase::Provision | Phase::HealthCheck) => {
            Step::GiveWay(newer.to_owned())
        }
        (_, phase) => Step::Run(phase),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1);

    fn run(state: &State, phase: Phase) -> State {
        let begun = state.step(Input::Begin(phase), NOW).expect("next in order");
        begun.step(Input::Complete(phase), NOW).expect("running")
    }

    #[test]
    fn the_whole_road() {
        let mut state = State::accepted(Kind::Deploy);
        for phase in Phase::of(Kind::Deploy) {
            assert_eq!(
                decide(&Seen {
                    state: &state,
                    newer: None
                }),
                Step::Run(*phase)
            );
            state = run(&state, *phase);
        }
        assert_eq!((state.status, state.progress()), (Status::Deployed, 100));
        assert_eq!(
            decide(&Seen {
                state: &state,
                newer: None
            }),
            Step::Rest
        );
    }

    #[test]
    fn phases_go_in_order_and_ends_are_final() {
        let state = State::accepted(Kind::Deploy);
        assert!(state.step(Input::Begin(Phase::Package), NOW).is_none());
        assert!(state.step(Input::Complete(Phase::Validate), NOW).is_none());
        let begun = state
            .step(Input::Begin(Phase::Validate), NOW)
            .expect("first");
        // A process that comes after a lost one begins the same phase again.
        assert!(begun.step(Input::Begin(Phase::Validate), NOW).is_some());
        let failed = begun
            .step(Input::Fail(Phase::Validate, "why".into()), NOW)
            .expect("running");
        assert_eq!(failed.status, Status::Failed);
        assert!(failed.step(Input::Begin(Phase::Validate), NOW).is_none());
        assert!(failed.step(Input::Supersede("x".into()), NOW).is_none());
    }

    #[test]
    fn gives_way_until_traffic_moves() {
        let mut state = State::accepted(Kind::Deploy);
        assert_eq!(
            decide(&Seen {
                state: &state,
                newer: Some("dep_2")
            }),
            Step::GiveWay("dep_2".into())
        );
        for phase in &Phase::of(Kind::Deploy)[..4] {
            state = run(&state, *phase);
        }
        assert_eq!(
            decide(&Seen {
                state: &state,
                newer: Some("dep_2")
            }),
            Step::Run(Phase::ShiftTraffic)
        );
    }

    #[test]
    fn long_logs_lose_their_middle_and_say_so() {
        let mut logs = Vec::new();
        append(&mut logs, (0..5000).map(|n| n.to_string()).collect());
        assert_eq!(logs.len(), PHASE_LOG_LINES);
        assert_eq!(
            (logs[0].as_str(), logs[PHASE_LOG_LINES - 1].as_str()),
            ("0", "4999")
        );
        assert!(logs.iter().any(|line| line.contains("dropped")));
    }
}
