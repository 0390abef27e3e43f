//! How many instances a version should have. Simple for now: grow on demand at once, shrink when idle; the two windows
//! (60 s stable, 6 s panic) take this function's place.

use std::time::Duration;

/// What one executor sees of one version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// Starting and ready, not draining.
    pub instances: u32,
    pub in_flight: u32,
    pub waiting: u32,
    /// Instances that have had nothing to do for at least [`Limits::idle`].
    pub idle: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub min: u32,
    pub max: u32,
    pub concurrency: u32,
    pub target_utilization: f64,
    /// How long an instance may have nothing to do before it is let go.
    pub idle: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub instances: u32,
    pub reason: String,
}

/// The wanted number of instances and why; `None` when it is the present one.
pub fn decide(seen: Seen, limits: Limits) -> Option<Decision> {
    let demand = seen.in_flight + seen.waiting;
    let per_instance = (f64::from(limits.concurrency) * limits.target_utilization).max(1.0);
    let wanted = (f64::from(demand) / per_instance).ceil() as u32;
    let wanted = wanted.clamp(limits.min, limits.max.max(limits.min));
    if seen.instances < limits.min {
        return Some(Decision {
            instances: limits.min,
            reason: format!("{} of at least {} instances", seen.instances, limits.min),
        });
    }
    if wanted > seen.instances
        && (seen.waiting > 0 || seen.in_flight >= seen.instances * limits.concurrency)
    {
        let reason = format!(
            "{} running and {} waiting need {wanted} instances of {} slots",
            seen.in_flight, seen.waiting, limits.concurrency
        );
        return Some(Decision {
            instances: wanted,
            reason,
        });
    }
    let spare = seen.idle.min(seen.instances.saturating_sub(wanted));
    if spare > 0 {
        let reason = format!("{spare} instances idle for {} s", limits.idle.as_secs());
        return Some(Decision {
            instances: seen.instances - spare,
            reason,
        });
    }
    if seen.instances > limits.max {
        return Some(Decision {
            instances: limits.max,
            reason: format!("{} of at most {} instances", seen.instances, limits.max),
        });
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        min: 0,
        max: 5,
        concurrency: 10,
        target_utilization: 0.7,
        idle: Duration::from_secs(60),
    };

    fn seen(instances: u32, in_flight: u32, waiting: u32, idle: u32) -> Seen {
        Seen {
            instances,
            in_flight,
            waiting,
            idle,
        }
    }

    fn wanted(seen: Seen, limits: Limits) -> Option<u32> {
        decide(seen, limits).map(|decision| decision.instances)
    }

    #[test]
    fn table() {
        for (given, expected) in [
            (seen(0, 0, 0, 0), None),
            (seen(0, 0, 1, 0), Some(1)),
            (seen(1, 9, 0, 0), None),
            (seen(1, 10, 5, 0), Some(3)),
            (seen(1, 10, 1000, 0), Some(5)),
            (seen(5, 50, 1000, 0), None),
            (seen(3, 1, 0, 2), Some(1)),
            (seen(1, 0, 0, 1), Some(0)),
            (seen(7, 70, 0, 0), Some(5)),
        ] {
            assert_eq!(wanted(given, LIMITS), expected, "{given:?}");
        }
        assert_eq!(
            wanted(seen(1, 0, 0, 1), Limits { min: 2, ..LIMITS }),
            Some(2)
        );
        assert_eq!(wanted(seen(2, 0, 0, 2), Limits { min: 2, ..LIMITS }), None);
    }
}
