//! Which version answers which caller.

use crate::id::VersionId;
use serde::{Deserialize, Serialize};

/// Who gets the requests of one agent: weights in thousandths that sum to 1000, or nothing at all.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    pub version_id: VersionId,
    /// The version's own words, for reading.
    pub version: semver::Version,
    pub weight: u32,
}

impl Traffic {
    pub fn all_to(version_id: VersionId, version: semver::Version) -> Self {
        Self {
            routes: vec![Route {
                version_id,
                version,
                weight: 1000,
            }],
        }
    }

    /// `weight` thousandths to the newer one. The older one comes first, so that a growing weight moves each caller once.
    pub fn shared(older: Route, newer: Route, weight: u32) -> Self {
        let rest = 1000_u32.saturating_sub(weight);
        let routes = [(older, rest), (newer, weight.min(1000))];
        let routes = routes
            .into_iter()
            .filter(|(_, weight)| *weight > 0)
            .map(|(route, weight)| Route { weight, ..route });
        Self {
            routes: routes.collect(),
        }
    }

    /// Thousandths of the callers that a version has.
    pub fn weight_of(&self, version: &VersionId) -> u32 {
        let own = self.routes.iter().filter(|one| one.version_id == *version);
        own.map(|route| route.weight).sum()
    }

    /// The route of a caller whose draw is `draw`: a hash of its session, else of its user, else chance. The same draw
    /// keeps its version as long as the weights stand.
    pub fn pick(&self, draw: u64) -> Option<&Route> {
        let mut point = u32::try_from(draw % 1000).unwrap_or(0);
        for route in &self.routes {
            if point < route.weight {
                return Some(route);
            }
            point -= route.weight;
        }
        self.routes.last()
    }
}

/// A draw that is the same for the same text on every gateway (FNV-1a, 64 bit, then mixed).
pub fn draw(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_by_weight_and_sticks() {
        let id = |n: u128| VersionId::from_uuid(uuid::Uuid::from_u128(n));
        let route = |n: u128, weight| Route {
            version_id: id(n),
            version: semver::Version::new(n as u64, 0, 0),
            weight,
        };
        let traffic = Traffic {
            routes: vec![route(1, 900), route(2, 100)],
        };
        let second = (0..10_000)
            .filter(|n| {
                traffic
                    .pick(draw(&format!("session-{n}")))
                    .is_some_and(|r| r.version_id == id(2))
            })
            .count();
        assert!(
            (800..1200).contains(&second),
            "{second} of 10000 went to the canary of 10 %"
        );
        assert_eq!(traffic.pick(draw("s")), traffic.pick(draw("s")));
        assert_eq!(Traffic::default().pick(7), None);
    }

    #[test]
    fn a_growing_weight_moves_each_caller_once() {
        let route = |n: u128| Route {
            version_id: VersionId::from_uuid(uuid::Uuid::from_u128(n)),
            version: semver::Version::new(n as u64, 0, 0),
            weight: 0,
        };
        for caller in 0..500 {
            let mut moved = false;
            for weight in [0, 1, 100, 250, 500, 750, 1000] {
                let traffic = Traffic::shared(route(1), route(2), weight);
                assert_eq!(traffic.weight_of(&route(2).version_id), weight);
                let seen = traffic.pick(draw(&format!("session-{caller}")));
                let newer = seen.is_some_and(|seen| seen.version_id == route(2).version_id);
                assert!(newer || !moved, "{caller} came back at {weight}");
                moved = newer;
            }
            assert!(moved);
        }
    }
}
