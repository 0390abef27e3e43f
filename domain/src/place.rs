//! Which nodes host a version: those that do already, then the least loaded of some taken at random.
//!
//! Everybody who places at the same moment sees the same loads, a beat old. Who takes the very least loaded then takes the same;
//! the least loaded of a few random ones is nearly as good and spreads (Mitzenmacher, The Power of Two Choices, 2001).

use crate::id::NodeId;
use std::cmp::Ordering;

/// The label of a node that hosts agents of one environment only.
pub const ENVIRONMENT: &str = "environment";
/// How a node says that it can install packages of the system.
pub const OVERLAY: &str = "overlay";
/// Nodes of a version at most: enough to outlive one of them.
pub const MOST_NODES: u32 = 3;
/// Nodes that are taken at random to choose one of.
const SAMPLE: usize = 3;

/// What placement looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub node_id: NodeId,
    /// Heard of just now, and not leaving: something new may go there.
    pub open: bool,
    /// Not lost and not leaving: what it hosts may stay.
    pub stays: bool,
    /// Its label `environment`, if it has one.
    pub environment: Option<String>,
    /// Why it cannot install packages of the system.
    pub no_system: Option<String>,
    pub memory_mb: u64,
    /// Memory promised to instances.
    pub promised_mb: u64,
    /// Share of all CPUs in use.
    pub cpu: f64,
    pub instances: u32,
}

/// What a version asks of its nodes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need<'a> {
    pub environment: &'a str,
    /// Of one instance.
    pub memory_mb: u64,
    pub nodes: u32,
    /// Packages of the system.
    pub system: bool,
}

/// How many nodes shall host a version of at least so many instances.
pub fn nodes(min_instances: u32) -> u32 {
    min_instances.clamp(1, MOST_NODES)
}

impl Candidate {
    fn free_mb(&self) -> u64 {
        self.memory_mb.saturating_sub(self.promised_mb)
    }

    pub fn has_room(&self, need: Need<'_>) -> bool {
        self.free_mb() >= need.memory_mb
    }

    fn fits(&self, need: Need<'_>) -> bool {
        let label = self.environment.as_deref();
        label.is_none_or(|label| label == need.environment)
            && !(need.system && self.no_system.is_some())
    }

    fn load(&self, other: &Self) -> Ordering {
        let share = |one: &Self| one.promised_mb as f64 / one.memory_mb.max(1) as f64;
        share(self)
            .total_cmp(&share(other))
            .then(self.cpu.total_cmp(&other.cpu))
            .then(self.instances.cmp(&other.instances))
    }
}

/// The nodes that shall host a version: of `hosting` those that stay, then others, up to the number it needs. Where no node has
/// room, the one with the most is better than none. `chance` gives a number below the one it is given.
pub fn choose(
    candidates: &[Candidate],
    hosting: &[NodeId],
    need: Need<'_>,
    mut chance: impl FnMut(usize) -> usize,
) -> Vec<NodeId> {
    let wanted = need.nodes.max(1) as usize;
    let mut chosen: Vec<&Candidate> = candidates
        .iter()
        .filter(|one| one.stays && one.fits(need) && hosting.contains(&one.node_id))
        .take(wanted)
        .collect();
    let mut others: Vec<&Candidate> = candidates
        .iter()
        .filter(|one| one.open && one.fits(need))
        .filter(|one| chosen.iter().all(|known| known.node_id != one.node_id))
        .collect();
    if chosen.is_empty() && !others.iter().any(|one| one.has_room(need)) {
        let roomiest = others.iter().max_by_key(|one| one.free_mb());
        return roomiest
            .map(|one| one.node_id.clone())
            .into_iter()
            .collect();
    }
    others.retain(|one| one.has_room(need));
    while chosen.len() < wanted && !others.is_empty() {
        // The first places of a shuffle (Fisher and Yates) are a sample without one twice.
        let sample = others.len().min(SAMPLE);
        for place in 0..sample {
            let other = place + chance(others.len() - place) % (others.len() - place);
            others.swap(place, other);
        }
        let best = (0..sample).min_by(|one, other| others[*one].load(others[*other]));
        let Some(best) = best else { break };
        chosen.push(others.swap_remove(best));
    }
    chosen.iter().map(|one| one.node_id.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashSet};

    fn node(n: u128) -> NodeId {
        NodeId::from_uuid(uuid::Uuid::from_u128(n))
    }

    fn at(n: u128, promised_mb: u64) -> Candidate {
        Candidate {
            node_id: node(n),
            open: true,
            stays: true,
            environment: None,
            no_system: None,
            memory_mb: 1000,
            promised_mb,
            cpu: 0.0,
            instances: 0,
        }
    }

    fn need(nodes: u32) -> Need<'static> {
        Need {
            environment: "prod",
            memory_mb: 100,
            nodes,
            system: false,
        }
    }

    /// xorshift64* (Vigna 2016).
    fn random(mut seed: u64) -> impl FnMut(usize) -> usize {
        move |most| {
            seed ^= seed >> 12;
            seed ^= seed << 25;
            seed ^= seed >> 27;
            (seed.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % most
        }
    }

    #[test]
    fn table() {
        let gone = Candidate {
            open: false,
            stays: false,
            ..at(3, 0)
        };
        let late = Candidate {
            open: false,
            ..at(4, 0)
        };
        let dev = Candidate {
            environment: Some("dev".to_owned()),
            ..at(5, 0)
        };
        let ours = Candidate {
            environment: Some("prod".to_owned()),
            ..at(6, 500)
        };
        let of = |all: &[Candidate], hosting: &[NodeId], nodes| {
            choose(all, hosting, need(nodes), random(9))
        };
        assert_eq!(
            of(&[at(1, 500), at(2, 0)], &[node(1)], 1),
            [node(1)],
            "sticks"
        );
        assert_eq!(
            of(&[at(1, 500), at(2, 0)], &[], 1),
            [node(2)],
            "the least loaded"
        );
        assert_eq!(of(&[gone.clone(), at(1, 9)], &[node(3)], 1), [node(1)]);
        assert_eq!(
            of(&[late.clone(), at(1, 9)], &[node(4)], 1),
            [node(4)],
            "it may come back"
        );
        assert_eq!(
            of(&[late, at(1, 9)], &[], 1),
            [node(1)],
            "nothing new for it"
        );
        assert_eq!(
            of(&[dev.clone(), ours], &[node(5)], 1),
            [node(6)],
            "its environment is another"
        );
        assert_eq!(of(&[dev, gone], &[], 2), []);
        assert_eq!(of(&[], &[], 1), []);
        let bare = Candidate {
            no_system: Some("no overlay".to_owned()),
            ..at(7, 0)
        };
        let system = Need {
            system: true,
            ..need(1)
        };
        assert_eq!(of(std::slice::from_ref(&bare), &[], 1), [node(7)]);
        assert_eq!(
            choose(&[bare, at(1, 500)], &[node(7)], system, random(9)),
            [node(1)],
            "it cannot install what the version needs"
        );
        assert_eq!(
            of(&[at(1, 950), at(2, 901)], &[], 2),
            [node(2)],
            "better full than nowhere"
        );
        assert_eq!(
            of(&[at(1, 950), at(2, 0)], &[], 2),
            [node(2)],
            "no room for a second"
        );
        assert_eq!((nodes(0), nodes(2), nodes(9)), (1, 2, 3));
    }

    #[test]
    fn whatever_there_is() {
        let mut dice = random(77);
        for _ in 0..3_000 {
            let all: Vec<Candidate> = (0..dice(8) as u128)
                .map(|n| {
                    let stays = dice(4) > 0;
                    Candidate {
                        open: stays && dice(4) > 0,
                        stays,
                        environment: match dice(4) {
                            0 => Some("prod".to_owned()),
                            1 => Some("dev".to_owned()),
                            _ => None,
                        },
                        no_system: (dice(4) == 0).then(String::new),
                        cpu: dice(100) as f64 / 100.0,
                        instances: dice(5) as u32,
                        ..at(n, dice(1_001) as u64)
                    }
                })
                .collect();
            let hosting: Vec<NodeId> = (0..8).filter(|_| dice(3) == 0).map(node).collect();
            let need = Need {
                system: dice(2) == 0,
                ..need(dice(4) as u32)
            };
            let chosen = choose(&all, &hosting, need, random(dice(1 << 20) as u64 + 1));
            let of = |id: &NodeId| all.iter().find(|one| one.node_id == *id).expect("known");
            let distinct: HashSet<&NodeId> = chosen.iter().collect();
            assert_eq!(distinct.len(), chosen.len(), "one twice");
            assert!(chosen.len() <= need.nodes.max(1) as usize);
            let can = |one: &Candidate| {
                let stays = one.stays && hosting.contains(&one.node_id);
                one.fits(need) && (stays || one.open)
            };
            assert!(chosen.iter().all(|id| can(of(id))), "{chosen:?} of {all:?}");
            assert_eq!(chosen.is_empty(), !all.iter().any(can), "{all:?}");
            // Nobody who hosts it and stays makes way for another.
            let kept = all
                .iter()
                .filter(|one| can(one) && hosting.contains(&one.node_id) && one.stays);
            let kept = kept.take(need.nodes.max(1) as usize);
            assert!(kept.clone().all(|one| chosen.contains(&one.node_id)));
            // A node without room only where nobody has any.
            let full = |one: &Candidate| !one.has_room(need);
            let new = chosen.iter().filter(|id| !hosting.contains(id));
            for id in new.filter(|id| full(of(id))) {
                assert!(chosen.len() == 1, "{id} of {all:?}");
                assert!(all.iter().filter(|one| can(one)).all(full));
            }
        }
    }

    #[test]
    fn equals_share_and_the_loaded_rest() {
        let all: Vec<Candidate> = (0..10)
            .map(|n| at(n, if n < 2 { 600 } else { 0 }))
            .collect();
        let mut dice = random(5);
        let mut hosts: BTreeMap<NodeId, u32> = BTreeMap::new();
        for _ in 0..4_000 {
            let chosen = choose(&all, &[], need(1), &mut dice);
            *hosts.entry(chosen[0].clone()).or_default() += 1;
        }
        assert!(
            all[..2].iter().all(|one| !hosts.contains_key(&one.node_id)),
            "{hosts:?}"
        );
        assert!(
            hosts.len() == 8 && hosts.values().all(|n| (350..650).contains(n)),
            "{hosts:?}"
        );
    }
}
