//! Bounds of a deployment.

use std::time::Duration;

#[derive(Debug, Clone)]
pub struct Config {
    /// Agents whose deployments run at once.
    pub at_once: usize,
    /// A nudge that nobody is seen working on for so long goes to another deployer.
    pub ack_wait: Duration,
    /// How often unfinished rows are looked for.
    pub sweep_every: Duration,
    /// A deployment whose row did not change for so long is nobody's: whoever drives one touches it more often.
    pub abandoned_after: Duration,
    /// How long a phase may take, by what it does.
    pub package: Duration,
    pub provision: Duration,
    /// All phases but those that build, start or drain.
    pub quick: Duration,
    /// How long in-flight executions of a retired version may go on, if their own timeouts allow as much.
    pub retire: Duration,
    /// How long a gateway may take to hear that traffic has moved: an older version listens on at least so long.
    pub settle: Duration,
    /// How long one call to an executor may take.
    pub call: Duration,
    /// An executor that beats and does not answer for so long is not waited for.
    pub dead_after: Duration,
    /// Where verdicts are asked for.
    pub monitors: Vec<String>,
    /// How often a version on trial is looked at.
    pub judge_every: Duration,
    /// After a switch that is watched, the version before stays warm for so long.
    pub watch: Duration,
    /// A canary that nobody decides about goes back after so long.
    pub hold: Duration,
    /// What one artifact may unpack to.
    pub artifact: domain::artifact::Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            at_once: 16,
            ack_wait: Duration::from_secs(30),
            sweep_every: Duration::from_secs(2),
            abandoned_after: Duration::from_secs(10),
            package: Duration::from_secs(600),
            provision: Duration::from_secs(300),
            quick: Duration::from_secs(60),
            retire: Duration::from_secs(3600),
            settle: Duration::from_millis(250),
            call: Duration::from_secs(5),
            dead_after: Duration::from_secs(10),
            monitors: Vec::new(),
            judge_every: Duration::from_secs(1),
            watch: Duration::from_secs(60),
            hold: Duration::from_secs(7 * 24 * 3600),
            artifact: domain::artifact::Limits::default(),
        }
    }
}
