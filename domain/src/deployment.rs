//! One deployment: the road of a version from accepted to answering, phase by phase, or to its failure.

use crate::{
    Timestamp,
    rollout::{Held, Order, Orders, Plan, Rollout, Strategy, Undo},
    traffic::Route,
    words,
};
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
        Canary = "canary",
        ShiftTraffic = "shift_traffic",
        Retire = "retire",
        Rollback = "rollback",
    }
}

impl Phase {
    /// The phases of a deployment that goes well, in order.
    pub fn of(kind: Kind, strategy: Strategy) -> &'static [Self] {
        match (kind, strategy) {
            (Kind::Deploy, Strategy::Canary) => &[
                Self::Validate,
                Self::Package,
                Self::Provision,
                Self::HealthCheck,
                Self::Canary,
                Self::ShiftTraffic,
                Self::Retire,
            ],
            (Kind::Deploy, Strategy::Rolling | Strategy::BlueGreen) => &[
                Self::Validate,
                Self::Package,
                Self::Provision,
                Self::HealthCheck,
                Self::ShiftTraffic,
                Self::Retire,
            ],
            (Kind::Delete, _) => &[Self::ShiftTraffic, Self::Retire],
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
    /// Lines of the middle that are not kept.
    #[serde(default)]
    pub dropped: u32,
}

impl PhaseRecord {
    fn pending(name: Phase) -> Self {
        Self {
            name,
            status: PhaseStatus::Pending,
            started_at: None,
            completed_at: None,
            logs: Vec::new(),
            dropped: 0,
        }
    }

    fn append(&mut self, lines: Vec<String>) {
        let half = PHASE_LOG_LINES / 2;
        if self.dropped > 0 {
            self.logs.remove(half);
        }
        self.logs.extend(lines);
        // One place is for what says so.
        let most = PHASE_LOG_LINES - usize::from(self.dropped > 0);
        if self.logs.len() > most {
            let dropped = self.logs.len() + 1 - PHASE_LOG_LINES;
            self.logs.drain(half..half + dropped);
            self.dropped += u32::try_from(dropped).unwrap_or(u32::MAX);
        }
        if self.dropped > 0 {
            let said = format!("… {} lines dropped …", self.dropped);
            self.logs.insert(half, said);
        }
    }

    /// The lines that are kept, each with its place among all that were said, from 1 on.
    pub fn lines(&self) -> impl Iterator<Item = (u64, &str)> {
        let half = PHASE_LOG_LINES / 2;
        let lines = self.logs.iter().enumerate();
        lines.filter_map(move |(at, line)| match (self.dropped, at) {
            (0, at) => Some((at as u64 + 1, line.as_str())),
            (_, at) if at < half => Some((at as u64 + 1, line.as_str())),
            // What says that lines are missing is not one of them.
            (_, at) if at == half => None,
            (dropped, at) => Some((at as u64 + u64::from(dropped), line.as_str())),
        })
    }
}

/// Lines that one phase may keep; the middle of a longer log is dropped and counted.
pub const PHASE_LOG_LINES: usize = 1000;

/// Everything that changes while a deployment runs: the part that `advance` replaces whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub status: Status,
    pub phases: Vec<PhaseRecord>,
    /// Why it failed or was superseded, for the reader of the list.
    pub reason: Option<String>,
    #[serde(default)]
    pub rollout: Rollout,
}

/// What may happen to a deployment.
#[derive(Debug, Clone, PartialEq)]
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
    /// Who answers while this one is prepared.
    Baseline(Option<Route>, u32),
    /// What the running phase has measured and done.
    Rollout(Box<Rollout>),
    /// Callers go back to the version before; what is left of the road is not gone.
    RollBack(Undo),
}

impl State {
    pub fn accepted(kind: Kind, plan: Plan) -> Self {
        Self {
            status: Status::Deploying,
            phases: Phase::of(kind, plan.strategy)
                .iter()
                .map(|name| PhaseRecord::pending(*name))
                .collect(),
            reason: None,
            rollout: Rollout::of(plan),
        }
    }

    /// The first phase that is not completed, or the way back; `None` when all are done.
    pub fn current(&self) -> Option<&PhaseRecord> {
        self.phases.get(self.at()?)
    }

    fn at(&self) -> Option<usize> {
        if self.rollout.undo.is_some() {
            let last = self.phases.len().checked_sub(1)?;
            return (self.phases[last].status != PhaseStatus::Completed).then_some(last);
        }
        self.phases
            .iter()
            .position(|phase| phase.status != PhaseStatus::Completed)
    }

    /// Whether callers may have been moved, and can be moved back.
    pub fn can_go_back(&self) -> bool {
        let rollout = &self.rollout;
        rollout.baseline.is_some() && rollout.undo.is_none() && !rollout.settled
    }

    /// Whether an order makes sense now, or why not.
    pub fn takes(&self, kind: Kind, order: Order, orders: &Orders) -> Result<(), String> {
        let Some(current) = self.current().filter(|_| !self.status.is_terminal()) else {
            return Err(format!("it is {}", self.status));
        };
        if kind == Kind::Delete {
            return Err("it deletes the agent".to_owned());
        }
        if let Some(undo) = &self.rollout.undo {
            return Err(format!("it goes back already: {}", undo.reason));
        }
        if self.rollout.settled || orders.aborted.is_some() {
            return Err(format!("it is too late, in phase {}", current.name));
        }
        let moves = matches!(
            current.name,
            Phase::Canary | Phase::ShiftTraffic | Phase::Retire
        );
        let paused =
            orders.paused.is_some() || self.held().is_some_and(|held| !orders.has_ended(held));
        let what = match order {
            Order::Abort if self.can_go_back() || !moves => return Ok(()),
            Order::Abort => "no other version answered before, so nothing can be gone back to",
            _ if moves && self.rollout.baseline.is_none() => {
                "no other version answered before, so nothing is waited for"
            }
            Order::Pause if paused => "it is paused already",
            Order::Resume if !paused => "it is not paused",
            Order::Promote if !moves => "its callers do not move yet",
            Order::Pause | Order::Resume | Order::Promote => return Ok(()),
        };
        Err(format!("{what} (phase {})", current.name))
    }

    pub fn held(&self) -> Option<&Held> {
        self.rollout.held.as_ref()
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
        let at = self.at()?;
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
                phase.append(lines);
            }
            Input::Complete(name) if phase.name == name && phase.status == PhaseStatus::Running => {
                phase.status = PhaseStatus::Completed;
                phase.completed_at = Some(now);
                if let Some(undo) = next.rollout.undo.as_ref().filter(|_| last) {
                    next.status = undo.status;
                } else if last {
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
            Input::Baseline(route, capacity) if self.rollout.undo.is_none() => {
                next.rollout.baseline = route;
                next.rollout.capacity = capacity;
            }
            Input::Rollout(rollout) if phase.status == PhaseStatus::Running => {
                let undo = next.rollout.undo.take();
                next.rollout = Rollout { undo, ..*rollout };
            }
            Input::RollBack(undo) if self.can_go_back() => {
                if phase.status == PhaseStatus::Running {
                    phase.status = PhaseStatus::Failed;
                    phase.completed_at = Some(now);
                }
                next.phases
                    .retain(|phase| phase.status != PhaseStatus::Pending);
                next.phases.push(PhaseRecord::pending(Phase::Rollback));
                next.reason = Some(undo.reason.clone());
                next.rollout.undo = Some(undo);
            }
            Input::Begin(_)
            | Input::Log(_)
            | Input::Complete(_)
            | Input::Fail(..)
            | Input::Baseline(..)
            | Input::Rollout(_)
            | Input::RollBack(_) => return None,
        }
        Some(next)
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
    /// Give way to it, and bring back the callers that have moved first.
    GoBack(String),
}

/// A deployment gives way while it has moved nobody. A canary, and one that stands still, go back; once all callers move it
/// finishes, and the newer one follows.
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
        (Some(newer), Phase::Canary) if seen.state.can_go_back() => Step::GoBack(newer.to_owned()),
        (Some(newer), Phase::ShiftTraffic)
            if seen.state.can_go_back() && seen.state.held().is_some() =>
        {
            Step::GoBack(newer.to_owned())
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
        let mut state = State::accepted(Kind::Deploy, Plan::default());
        for phase in Phase::of(Kind::Deploy, Strategy::Rolling) {
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
        let state = State::accepted(Kind::Deploy, Plan::default());
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
        let mut state = State::accepted(Kind::Deploy, Plan::default());
        assert_eq!(
            decide(&Seen {
                state: &state,
                newer: Some("dep_2")
            }),
            Step::GiveWay("dep_2".into())
        );
        for phase in &Phase::of(Kind::Deploy, Strategy::Rolling)[..4] {
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
    fn a_canary_that_goes_back_ends_with_its_rollback() {
        let plan = Plan {
            strategy: Strategy::Canary,
            ..Plan::default()
        };
        let mut state = State::accepted(Kind::Deploy, plan);
        for phase in &Phase::of(Kind::Deploy, Strategy::Canary)[..4] {
            state = run(&state, *phase);
        }
        let undo = Undo {
            status: Status::RolledBack,
            reason: "worse".into(),
        };
        let back = Input::RollBack(undo.clone());
        assert!(
            state.step(back.clone(), NOW).is_none(),
            "nobody answered before"
        );
        let route = Route {
            version_id: crate::id::VersionId::from_uuid(uuid::Uuid::from_u128(1)),
            version: semver::Version::new(1, 0, 0),
            weight: 1000,
        };
        state = state
            .step(Input::Baseline(Some(route), 2), NOW)
            .expect("before callers move");
        state = state.step(Input::Begin(Phase::Canary), NOW).expect("next");
        let newer = Seen {
            state: &state,
            newer: Some("dep_2"),
        };
        assert_eq!(decide(&newer), Step::GoBack("dep_2".into()));
        let state = state.step(back.clone(), NOW).expect("it runs");
        assert!(state.step(back, NOW).is_none(), "once");
        let names: Vec<_> = state.phases.iter().map(|phase| phase.name).collect();
        assert_eq!(names[4..], [Phase::Canary, Phase::Rollback]);
        assert_eq!(state.phases[4].status, PhaseStatus::Failed);
        let newer = Seen {
            state: &state,
            newer: Some("dep_2"),
        };
        assert_eq!(decide(&newer), Step::Run(Phase::Rollback));
        let end = run(&state, Phase::Rollback);
        assert_eq!(
            (end.status, end.reason.as_deref(), end.current()),
            (Status::RolledBack, Some("worse"), None)
        );
    }

    #[test]
    fn orders_are_taken_where_they_mean_something() {
        let plan = Plan {
            strategy: Strategy::Canary,
            ..Plan::default()
        };
        let mut state = State::accepted(Kind::Deploy, plan);
        let none = Orders::default();
        let taken = |state: &State, orders: &Orders| -> Vec<Order> {
            let takes = |order: &&Order| state.takes(Kind::Deploy, **order, orders).is_ok();
            Order::ALL.iter().filter(takes).copied().collect()
        };
        assert_eq!(taken(&state, &none), [Order::Pause, Order::Abort]);
        assert!(state.takes(Kind::Delete, Order::Abort, &none).is_err());
        for phase in &Phase::of(Kind::Deploy, Strategy::Canary)[..4] {
            state = run(&state, *phase);
        }
        assert_eq!(taken(&state, &none), [], "nothing answered before");
        let route = Route {
            version_id: crate::id::VersionId::from_uuid(uuid::Uuid::from_u128(1)),
            version: semver::Version::new(1, 0, 0),
            weight: 1000,
        };
        state.rollout.baseline = Some(route);
        let going = [Order::Promote, Order::Pause, Order::Abort];
        assert_eq!(taken(&state, &none), going);
        let paused = Orders::of([(Order::Pause, "key", NOW)]);
        let standing = [Order::Promote, Order::Resume, Order::Abort];
        assert_eq!(taken(&state, &paused), standing);
        state.rollout.held = Some(Held {
            since: NOW,
            reason: "monitor".into(),
        });
        assert_eq!(taken(&state, &none), standing);
        state.rollout.settled = true;
        assert_eq!(taken(&state, &none), []);
    }

    #[test]
    fn long_logs_lose_their_middle_and_say_so() {
        for at_once in [1, 7, 500, 5000] {
            let mut phase = PhaseRecord::pending(Phase::Package);
            let lines: Vec<String> = (0..5000).map(|n| n.to_string()).collect();
            for some in lines.chunks(at_once) {
                phase.append(some.to_vec());
            }
            assert_eq!(phase.logs.len(), PHASE_LOG_LINES);
            assert_eq!(phase.logs[PHASE_LOG_LINES / 2], "… 4001 lines dropped …");
            let places: Vec<(u64, &str)> = phase.lines().collect();
            assert_eq!((places[0], places[998]), ((1, "0"), (5000, "4999")));
            for (place, line) in places {
                assert_eq!((place - 1).to_string(), line);
            }
        }
        let mut short = PhaseRecord::pending(Phase::Package);
        short.append((0..PHASE_LOG_LINES).map(|n| n.to_string()).collect());
        assert_eq!((short.logs.len(), short.dropped), (PHASE_LOG_LINES, 0));
    }
}
