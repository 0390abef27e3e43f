//! Who is on the way, and who may begin: places are shared by bytes, by account and by how receivers have answered.
//!
//! One currency: a delivery takes a place for each part of the budget that its body begins, so places bound memory too. What an account
//! may have depends on what is still free ("Dynamic queue length thresholds for shared-memory packet switches", Choudhury and Hahne
//! 1998): alone it has much, of many each has as much, and something is left for whoever comes next. Receivers that are slow, or
//! unknown, have some of the places only, however many they are.

use domain::id::{AccountId, DeliveryId};
use std::{collections::HashMap, time::Duration};
use store::deliveries::Due;
use tokio::task::Id;

pub const PLACES: u64 = 128;
/// At a time to one receiver of an account, if it is prompt; else one.
pub const MOST_TO_HOST: usize = 4;
/// Whoever has some already has at most such a part of what is free: of 128 places 32 alone.
const SHARE: u64 = 3;
/// Whoever took longer, answered or not, is slow.
const PROMPT: Duration = Duration::from_secs(2);
/// Receivers that are remembered; one more, and all are unknown again.
const KNOWN: usize = 16_384;

/// How a receiver was at its last attempt, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Prompt,
    Unknown,
    Slow,
}

impl Standing {
    /// Places of those that stand so or worse.
    fn places(self) -> u64 {
        match self {
            Self::Prompt => PLACES,
            Self::Unknown => PLACES / 4 * 3,
            Self::Slow => PLACES / 4,
        }
    }
}

struct OnWay {
    account: AccountId,
    host: String,
    places: u64,
    standing: Standing,
}

pub struct Crowd {
    /// Bytes of a place.
    unit: u64,
    on_way: HashMap<Id, OnWay>,
    known: HashMap<(AccountId, String), Standing>,
    /// A large one that waits until there are places enough, and how its receiver stands.
    held: Option<(Due, Standing)>,
}

impl Crowd {
    /// Bodies on the way have at most so many bytes together, or there is one that has more.
    pub fn new(budget: u64) -> Self {
        Self {
            unit: (budget / PLACES).max(1),
            on_way: HashMap::new(),
            known: HashMap::new(),
            held: None,
        }
    }

    pub fn held(&self) -> Option<&Due> {
        self.held.as_ref().map(|(one, _)| one)
    }

    /// It is not waited for any longer.
    pub fn let_go(&mut self, id: &DeliveryId) {
        if self.held().is_some_and(|held| held.id == *id) {
            self.held = None;
        }
    }

    /// Whether it may begin now. A large one for which there is not room enough keeps what becomes free.
    pub fn has_room(&mut self, one: &Due) -> bool {
        let (places, standing) = self.asks_for(one);
        let to_host = if standing == Standing::Prompt {
            MOST_TO_HOST
        } else {
            1
        };
        if self.to_host(one) >= to_host || self.gives_way(one, standing) {
            return false;
        }
        let (mine, all) = self.taken(&one.account, standing);
        let free = standing.places() - all.min(standing.places());
        let room = places <= free && (mine == 0 || SHARE * (mine + places) <= free);
        if !room && places > 1 && self.held.is_none() {
            self.held = Some((one.clone(), standing));
        }
        room
    }

    pub fn began(&mut self, task: Id, one: Due) {
        let (places, standing) = self.asks_for(&one);
        self.let_go(&one.id);
        let on_way = OnWay {
            account: one.account,
            host: one.host,
            places,
            standing,
        };
        self.on_way.insert(task, on_way);
    }

    /// `took`: how long its attempt did; `None`: nobody knows.
    pub fn ended(&mut self, task: Id, took: Option<Duration>) {
        let (Some(one), Some(took)) = (self.on_way.remove(&task), took) else {
            return;
        };
        if self.known.len() >= KNOWN {
            self.known.clear();
        }
        let standing = if took <= PROMPT {
            Standing::Prompt
        } else {
            Standing::Slow
        };
        self.known.insert((one.account, one.host), standing);
    }

    /// A body that is larger than all places of its kind takes all of them.
    fn asks_for(&self, one: &Due) -> (u64, Standing) {
        let receiver = (one.account.clone(), one.host.clone());
        let standing = *self.known.get(&receiver).unwrap_or(&Standing::Unknown);
        let places = u64::from(one.bytes).div_ceil(self.unit).max(1);
        (places.min(standing.places()), standing)
    }

    fn to_host(&self, one: &Due) -> usize {
        let to_host = |way: &&OnWay| way.account == one.account && way.host == one.host;
        self.on_way.values().filter(to_host).count()
    }

    /// Places that are taken by those that stand so or worse: of an account, and of all.
    fn taken(&self, account: &AccountId, standing: Standing) -> (u64, u64) {
        let mut taken = (0, 0);
        for way in self.on_way.values().filter(|way| way.standing >= standing) {
            taken.1 += way.places;
            if way.account == *account {
                taken.0 += way.places;
            }
        }
        taken
    }

    /// To a large one that waits: first its own account makes room for it, then the others.
    fn gives_way(&self, one: &Due, standing: Standing) -> bool {
        self.held.as_ref().is_some_and(|(held, at)| {
            held.id != one.id
                && standing >= *at
                && (held.account == one.account || self.taken(&held.account, *at).0 == 0)
        })
    }
}

/// Accounts in turn, and of each its receivers in turn; the first due first.
pub fn in_turn(due: Vec<Due>) -> Vec<Due> {
    let mut of_host: HashMap<(AccountId, String), usize> = HashMap::new();
    let mut places: Vec<(usize, Due)> = Vec::with_capacity(due.len());
    for one in due {
        let place = of_host
            .entry((one.account.clone(), one.host.clone()))
            .or_default();
        places.push((*place, one));
        *place += 1;
    }
    places.sort_by_key(|(place, _)| *place);
    let mut of_account: HashMap<AccountId, usize> = HashMap::new();
    let mut turns: Vec<(usize, Due)> = Vec::with_capacity(places.len());
    for (_, one) in places {
        let turn = of_account.entry(one.account.clone()).or_default();
        turns.push((*turn, one));
        *turn += 1;
    }
    turns.sort_by_key(|(turn, _)| *turn);
    turns.into_iter().map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::JoinSet;

    const UNIT: u32 = 1000;

    /// Tasks that never end, for their ids.
    struct World {
        crowd: Crowd,
        tasks: JoinSet<()>,
    }

    impl World {
        fn new() -> Self {
            Self {
                crowd: Crowd::new(u64::from(UNIT) * PLACES),
                tasks: JoinSet::new(),
            }
        }

        fn begin(&mut self, one: Due) -> Option<Id> {
            let room = self.crowd.has_room(&one);
            room.then(|| {
                let task = self.tasks.spawn(std::future::pending()).id();
                self.crowd.began(task, one);
                task
            })
        }

        /// As many as go, each to another receiver.
        fn fill(&mut self, account: &str) -> Vec<Id> {
            let each = (0..1000).map(|n| due(account, &format!("{account}{n}"), 10));
            each.collect::<Vec<_>>()
                .into_iter()
                .filter_map(|one| self.begin(one))
                .collect()
        }

        fn know(&mut self, account: &str, host: &str, took: u64) {
            let task = self.begin(due(account, host, 10)).expect("room");
            self.crowd.ended(task, Some(Duration::from_secs(took)));
        }
    }

    fn due(account: &str, host: &str, bytes: u32) -> Due {
        Due {
            id: DeliveryId::from_uuid(uuid::Uuid::now_v7()),
            account: account.parse().expect("an account"),
            host: host.to_owned(),
            attempts: 0,
            tried_before: 0,
            bytes,
        }
    }

    #[tokio::test]
    async fn a_receiver_has_more_at_a_time_once_it_is_prompt() {
        let mut world = World::new();
        let first = world.begin(due("a", "h", 10)).expect("room");
        assert!(world.begin(due("a", "h", 10)).is_none(), "it is unknown");
        assert!(world.begin(due("b", "h", 10)).is_some(), "another's");
        world.crowd.ended(first, Some(Duration::from_millis(10)));
        let many: Vec<Id> = (0..9)
            .filter_map(|_| world.begin(due("a", "h", 10)))
            .collect();
        assert_eq!(many.len(), MOST_TO_HOST);
        world.crowd.ended(many[0], Some(Duration::from_secs(15)));
        assert!(world.begin(due("a", "h", 10)).is_none(), "it is slow");
        for one in &many[1..] {
            world.crowd.ended(*one, None);
        }
        assert!(world.begin(due("a", "h", 10)).is_some());
        assert!(world.begin(due("a", "h", 10)).is_none());
    }

    #[tokio::test]
    async fn accounts_share_and_leave_something_for_whoever_comes_next() {
        let mut world = World::new();
        world.know("good", "known", 0);
        let most = Standing::Unknown.places() as usize;
        assert_eq!(world.fill("a").len(), most / 4);
        for account in 0..10 {
            let begun = world.fill(&format!("a{account}")).len();
            assert!(begun >= 1, "{account} came later and has nothing");
        }
        // What ends is for those who have less.
        let first = world.crowd.on_way.iter();
        let first = first.filter(|(_, way)| way.account.as_str() == "a");
        let first: Vec<Id> = first.map(|(id, _)| *id).collect();
        for one in &first[..10] {
            world.crowd.ended(*one, None);
        }
        assert_eq!(world.fill("a").len(), 0);
        assert!(!world.fill("a9").is_empty());
        // However many unknown ones there are, who is known to be prompt has room.
        for account in 0..200 {
            world.fill(&format!("b{account}"));
        }
        assert_eq!(world.crowd.on_way.len(), most);
        assert!(world.begin(due("new", "unknown", 10)).is_none());
        for _ in 0..MOST_TO_HOST {
            assert!(world.begin(due("good", "known", 10)).is_some());
        }
    }

    #[tokio::test]
    async fn slow_ones_leave_room_for_unknown_ones() {
        let mut world = World::new();
        for account in 0..40 {
            for host in 0..10 {
                world.know(&format!("a{account}"), &format!("a{account}{host}"), 15);
            }
        }
        for account in 0..40 {
            for host in 0..10 {
                world.begin(due(
                    &format!("a{account}"),
                    &format!("a{account}{host}"),
                    10,
                ));
            }
        }
        assert_eq!(world.crowd.on_way.len() as u64, Standing::Slow.places());
        assert!(world.begin(due("a0", "unknown", 10)).is_some());
        assert!(world.begin(due("new", "unknown", 10)).is_some());
    }

    #[tokio::test]
    async fn bytes_are_bounded_and_the_largest_goes_in_the_end() {
        let mut world = World::new();
        for host in 0..8 {
            world.know("a", &host.to_string(), 0);
            world.know("b", &host.to_string(), 0);
            world.know("c", &host.to_string(), 0);
        }
        let budget = UNIT * PLACES as u32;
        let mut small = Vec::new();
        for (n, account) in ["a", "b"].into_iter().cycle().take(4).enumerate() {
            let one = due(account, &(n / 2).to_string(), budget / 10);
            small.extend(world.begin(one));
        }
        let there = |world: &World| {
            world
                .crowd
                .on_way
                .values()
                .map(|way| way.places)
                .sum::<u64>()
        };
        assert_eq!(small.len(), 4);
        assert!(world.crowd.held().is_none());
        assert!(there(&world) <= PLACES);
        // It waits for its own account to be done; the others go on meanwhile.
        let large = due("a", "7", 3 * budget);
        assert!(!world.crowd.has_room(&large));
        assert_eq!(world.crowd.held().map(|one| &one.id), Some(&large.id));
        assert!(world.begin(due("a", "6", 10)).is_none(), "it gives way");
        let other = world.begin(due("c", "6", 10)).expect("room");
        let of_a = |world: &World| -> Vec<Id> {
            let mine = world.crowd.on_way.iter();
            mine.filter(|(_, way)| way.account.as_str() == "a")
                .map(|(id, _)| *id)
                .collect()
        };
        for one in of_a(&world) {
            world.crowd.ended(one, Some(Duration::ZERO));
        }
        assert!(!world.crowd.has_room(&large));
        assert!(world.begin(due("c", "6", 10)).is_none(), "all give way");
        for one in small.into_iter().chain([other]) {
            world.crowd.ended(one, Some(Duration::ZERO));
        }
        assert_eq!(there(&world), 0);
        let task = world.begin(large).expect("its turn");
        assert!(world.crowd.held().is_none());
        assert!(world.begin(due("c", "6", 10)).is_none(), "it is alone");
        world.crowd.ended(task, Some(Duration::ZERO));
        assert!(world.begin(due("c", "6", 10)).is_some());
    }

    #[test]
    fn everybody_has_a_turn() {
        let all = [
            ("a", "x"),
            ("a", "x"),
            ("a", "x"),
            ("a", "y"),
            ("a", "z"),
            ("b", "x"),
            ("b", "x"),
        ];
        let all = all.map(|(account, host)| due(account, host, 1));
        let turns = in_turn(all.into());
        let turns: Vec<(&str, &str)> = turns
            .iter()
            .map(|one| (one.account.as_str(), one.host.as_str()))
            .collect();
        let expected = [
            ("a", "x"),
            ("b", "x"),
            ("a", "y"),
            ("b", "x"),
            ("a", "z"),
            ("a", "x"),
            ("a", "x"),
        ];
        assert_eq!(turns, expected);
    }
}
