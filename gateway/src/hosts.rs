//! Which executors live and what they can take, as they say it themselves every second: for choosing where a sync call goes, and
//! for giving up on a call whose executor is gone.
//!
//! Silence is judged only while we hear ourselves: a bus that is away silences everybody.

use domain::id::{BootId, NodeId, VersionId};
use proto::v1::Alive;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

/// How often executors and gateways beat.
pub const BEAT: Duration = Duration::from_secs(1);
/// Three beats missed, and one that comes late.
const SILENT: Duration = Duration::from_millis(3500);
/// We are heard when our own last beat came back within this.
const HEARD: Duration = Duration::from_millis(1500);
/// Versions of one beat that are looked at.
const MOST_ROOMS: usize = 10_000;

#[derive(Default)]
pub struct Hosts(Mutex<Known>);

#[derive(Default)]
struct Known {
    nodes: HashMap<NodeId, Heard>,
    /// When our own beat was heard without a gap since.
    ourselves: Option<(Instant, Instant)>,
}

struct Heard {
    boot: BootId,
    at: Instant,
    rooms: HashMap<VersionId, Room>,
    /// Cancelled when what was sent there will not be answered.
    gone: CancellationToken,
}

/// Seats that were free at the last beat, and calls that we sent there since.
#[derive(Clone, Copy)]
struct Room {
    free: u32,
    waiting: u32,
    sent: u32,
}

impl Room {
    fn left(self) -> i64 {
        i64::from(self.free) - i64::from(self.waiting) - i64::from(self.sent)
    }
}

/// Where a call may go.
#[derive(Debug, Clone)]
pub struct Target {
    pub node: NodeId,
    /// `None`: nothing has been heard of it yet.
    pub gone: Option<CancellationToken>,
}

impl Target {
    /// Returns when what was sent there will not be answered.
    pub async fn is_gone(&self) {
        match &self.gone {
            Some(gone) => gone.cancelled().await,
            None => std::future::pending().await,
        }
    }
}

impl Hosts {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Our own beat came back.
    pub fn heard_ourselves(&self) {
        let now = Instant::now();
        let mut known = self.known();
        let since = match known.ourselves {
            Some((since, last)) if now.duration_since(last) < SILENT => since,
            _ => now,
        };
        known.ourselves = Some((since, now));
    }

    pub fn heard(&self, alive: &Alive) {
        let (Ok(node), Ok(boot)) = (alive.id.parse::<NodeId>(), alive.boot_id.parse::<BootId>())
        else {
            return;
        };
        let room = |room: &proto::v1::Room| {
            let version = room.version_id.parse().ok()?;
            let room = Room {
                free: room.free,
                waiting: room.waiting,
                sent: 0,
            };
            Some((version, room))
        };
        let rooms = alive.rooms.iter().take(MOST_ROOMS).filter_map(room);
        let heard = Heard {
            boot,
            at: Instant::now(),
            rooms: rooms.collect(),
            gone: CancellationToken::new(),
        };
        let mut known = self.known();
        match known.nodes.get_mut(&node) {
            Some(before) if before.boot == heard.boot => {
                before.at = heard.at;
                before.rooms = heard.rooms;
            }
            Some(before) => {
                before.gone.cancel();
                *before = heard;
            }
            None => {
                known.nodes.insert(node, heard);
            }
        }
    }

    /// Gives up on those who have been silent for too long while we were heard.
    pub fn tick(&self) {
        let now = Instant::now();
        let mut known = self.known();
        let Some((since, last)) = known.ourselves else {
            return;
        };
        if now.duration_since(last) > HEARD || now.duration_since(since) < SILENT {
            return;
        }
        known.nodes.retain(|node, heard| {
            let silent = now.duration_since(heard.at) > SILENT;
            if silent {
                tracing::warn!(node.id = %node, "an executor is silent: what it was asked is not waited for");
                heard.gone.cancel();
            }
            !silent
        });
    }

    /// The hosts of a version in the order to be asked: of those with free seats one by the better of two chances, then the
    /// others by how much waits there. Notes that the first one is asked.
    pub fn order(&self, version: &VersionId, hosts: &[NodeId], chance: u64) -> Vec<Target> {
        let mut known = self.known();
        let mut targets: Vec<(i64, usize)> = hosts
            .iter()
            .enumerate()
            .map(|(place, node)| {
                let room = known
                    .nodes
                    .get(node)
                    .and_then(|heard| heard.rooms.get(version));
                // Nothing heard is not nothing there: it is asked after those who say that they are free.
                (room.map_or(0, |room| room.left()), place)
            })
            .collect();
        if targets.len() > 1 {
            targets.sort_by_key(|(left, _)| std::cmp::Reverse(*left));
            let free = targets.iter().filter(|(left, _)| *left > 0).count();
            if free > 1 {
                let draw = |shift: u32| (chance.rotate_right(shift) % free as u64) as usize;
                let better = draw(0).min(draw(24));
                targets[..=better].rotate_right(1);
            }
        }
        if let Some((_, first)) = targets.first()
            && let Some(heard) = known.nodes.get_mut(&hosts[*first])
            && let Some(room) = heard.rooms.get_mut(version)
        {
            room.sent = room.sent.saturating_add(1);
        }
        targets
            .into_iter()
            .map(|(_, place)| Target {
                node: hosts[place].clone(),
                gone: known
                    .nodes
                    .get(&hosts[place])
                    .map(|heard| heard.gone.clone()),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u128) -> NodeId {
        NodeId::from_uuid(uuid::Uuid::from_u128(n))
    }

    fn version() -> VersionId {
        VersionId::from_uuid(uuid::Uuid::from_u128(7))
    }

    fn alive(n: u128, boot: u128, free: u32, waiting: u32) -> Alive {
        Alive {
            service: "executor".into(),
            id: node(n).to_string(),
            boot_id: BootId::from_uuid(uuid::Uuid::from_u128(boot)).to_string(),
            rooms: vec![proto::v1::Room {
                version_id: version().to_string(),
                free,
                waiting,
            }],
            ..Alive::default()
        }
    }

    #[test]
    fn the_free_come_first_and_the_fuller_later() {
        let hosts = Hosts::default();
        hosts.heard(&alive(1, 1, 0, 5));
        hosts.heard(&alive(2, 1, 0, 1));
        hosts.heard(&alive(3, 1, 2, 0));
        let all = [node(1), node(2), node(3), node(4)];
        let order = hosts.order(&version(), &all, 0);
        let names: Vec<&NodeId> = order.iter().map(|target| &target.node).collect();
        assert_eq!(names, [&all[2], &all[3], &all[1], &all[0]]);
        assert!(order[1].gone.is_none(), "nothing was heard of it");
    }

    #[test]
    fn what_is_sent_takes_room_until_the_next_beat() {
        let hosts = Hosts::default();
        let all = [node(1), node(2)];
        hosts.heard(&alive(1, 1, 4, 0));
        hosts.heard(&alive(2, 1, 3, 0));
        let mut asked = [0; 2];
        for n in 0..7_u64 {
            let first = &hosts.order(&version(), &all, n.wrapping_mul(0x9E37_79B9_7F4A_7C15))[0];
            asked[all
                .iter()
                .position(|node| *node == first.node)
                .expect("one")] += 1;
        }
        assert_eq!(asked, [4, 3], "seats are filled, not overfilled");
    }

    #[test]
    fn another_boot_answers_nothing_of_the_one_before() {
        let hosts = Hosts::default();
        hosts.heard(&alive(1, 1, 1, 0));
        let target = hosts.order(&version(), &[node(1)], 0).remove(0);
        let gone = target.gone.expect("heard");
        hosts.heard(&alive(1, 1, 1, 0));
        assert!(!gone.is_cancelled());
        hosts.heard(&alive(1, 2, 1, 0));
        assert!(gone.is_cancelled());
    }

    #[test]
    fn silence_counts_only_while_we_are_heard() {
        let hosts = Hosts::default();
        hosts.heard(&alive(1, 1, 1, 0));
        let gone = hosts.order(&version(), &[node(1)], 0).remove(0).gone;
        let gone = gone.expect("heard");
        let long_ago = Instant::now().checked_sub(SILENT * 2).expect("up for long");
        let silence = |ourselves| {
            let mut known = hosts.known();
            known.ourselves = ourselves;
            for heard in known.nodes.values_mut() {
                heard.at = long_ago;
            }
            drop(known);
            hosts.tick();
        };
        silence(None);
        silence(Some((long_ago, long_ago)));
        silence(Some((Instant::now(), Instant::now())));
        assert!(!gone.is_cancelled(), "we were not heard for long enough");
        silence(Some((long_ago, Instant::now())));
        assert!(gone.is_cancelled());
    }
}
