//! What can be watched while it happens: one feed per streamed or followed execution, one per followed agent.
//!
//! A feed is a bounded ring: writers never wait for readers, and a reader that is too slow is told how much it missed.

use domain::{
    id::{AccountId, AgentId, ExecutionId},
    log::Line,
};
use proto::{convert, v1};
use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use store::executions::Key;
use tokio::sync::Notify;

const RING_EVENTS: usize = 4096;
const RING_BYTES: usize = 8 * 1024 * 1024;
/// For how long a reader may come back to a feed that has ended.
const KEPT: Duration = Duration::from_secs(60);
/// What ended feeds may hold together; the oldest go first.
const KEPT_BYTES: usize = 256 * 1024 * 1024;

/// All feeds of this executor.
#[derive(Default)]
pub struct Hub {
    executions: Mutex<HashMap<Key, Arc<Feed>>>,
    agents: Mutex<HashMap<(AccountId, AgentId), Arc<Feed>>>,
    /// Feeds in either map: nothing is looked up while nobody watches.
    open: AtomicUsize,
}

/// One ring of events, numbered from 1.
pub struct Feed {
    state: Mutex<Ring>,
    changed: Notify,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<(v1::WatchEvent, usize)>,
    bytes: usize,
    last: u64,
    ended: Option<Instant>,
}

/// What a reader gets next.
pub enum Next {
    Event(Box<v1::WatchEvent>),
    /// So many events are gone before the one after this.
    Lost(u64),
    End,
}

impl Hub {
    /// The feed of an execution, made if there is none.
    pub fn execution(&self, key: &Key) -> Arc<Feed> {
        let mut feeds = self
            .executions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Arc::clone(feeds.entry(key.clone()).or_insert_with(|| {
            self.open.fetch_add(1, Ordering::Relaxed);
            Arc::new(Feed::new())
        }))
    }

    pub fn agent(&self, account: &AccountId, agent: &AgentId) -> Arc<Feed> {
        let mut feeds = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(
            feeds
                .entry((account.clone(), agent.clone()))
                .or_insert_with(|| {
                    self.open.fetch_add(1, Ordering::Relaxed);
                    Arc::new(Feed::new())
                }),
        )
    }

    /// Tells whoever watches this execution or its agent. With the execution comes the place of the first line.
    pub fn log(
        &self,
        account: &AccountId,
        agent: &AgentId,
        execution: Option<(&ExecutionId, i64)>,
        lines: &[Line],
    ) {
        if self.open.load(Ordering::Relaxed) == 0 {
            return;
        }
        let agents = self
            .agents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(account.clone(), agent.clone()))
            .cloned();
        let of_execution = execution.and_then(|(id, _)| {
            self.known(&Key {
                account: account.clone(),
                agent_id: agent.clone(),
                id: id.clone(),
            })
        });
        for feed in agents.into_iter().chain(of_execution) {
            for (at, line) in lines.iter().enumerate() {
                let place =
                    execution.map_or(0, |(_, first)| first + i64::try_from(at).unwrap_or(0));
                let event = v1::watch_event::Event::Log(convert::log_line(line));
                feed.push_at(execution.map(|(id, _)| id), place, event);
            }
        }
    }

    pub fn push(&self, key: &Key, event: v1::watch_event::Event) {
        if self.open.load(Ordering::Relaxed) == 0 {
            return;
        }
        if let Some(feed) = self.known(key) {
            feed.push(Some(&key.id), event);
        }
    }

    pub fn end(&self, key: &Key, outcome: v1::Outcome) {
        if let Some(feed) = self.known(key) {
            feed.push(Some(&key.id), v1::watch_event::Event::Result(outcome));
            feed.end();
        }
    }

    /// The feed of an execution, if there is one.
    pub fn find(&self, key: &Key) -> Option<Arc<Feed>> {
        self.known(key)
    }

    pub fn is_watched(&self, key: &Key) -> bool {
        self.open.load(Ordering::Relaxed) > 0 && self.known(key).is_some()
    }

    /// Drops a feed that was made for nothing.
    pub fn forget(&self, key: &Key) {
        if self
            .executions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key)
            .is_some()
        {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn known(&self, key: &Key) -> Option<Arc<Feed>> {
        self.executions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Forgets feeds that ended a while ago, or hold too much together, and those of agents that nobody reads.
    pub fn tidy(&self) {
        let mut dropped = 0;
        let mut executions = self
            .executions
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut ended: Vec<(Duration, usize, Key)> = executions
            .iter()
            .filter_map(|(key, feed)| {
                let (since, bytes) = feed.ended()?;
                Some((since, bytes, key.clone()))
            })
            .collect();
        ended.sort_by_key(|(since, ..)| *since);
        let mut held = 0;
        for (since, bytes, key) in ended {
            held += bytes;
            if since > KEPT || held > KEPT_BYTES {
                executions.remove(&key);
                dropped += 1;
            }
        }
        drop(executions);
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.retain(|_, feed| {
            let keep = Arc::strong_count(feed) > 1;
            dropped += usize::from(!keep);
            keep
        });
        self.open.fetch_sub(dropped, Ordering::Relaxed);
    }
}

impl Feed {
    fn new() -> Self {
        Self {
            state: Mutex::default(),
            changed: Notify::new(),
        }
    }

    fn push(&self, execution: Option<&ExecutionId>, event: v1::watch_event::Event) {
        self.push_at(execution, 0, event);
    }

    fn push_at(&self, execution: Option<&ExecutionId>, place: i64, event: v1::watch_event::Event) {
        let size = match &event {
            v1::watch_event::Event::Chunk(data) => data.len(),
            v1::watch_event::Event::Log(line) => line.message.len() + line.context.len(),
            v1::watch_event::Event::Result(outcome) => outcome.output.len(),
            v1::watch_event::Event::Progress(_) | v1::watch_event::Event::Lost(_) => 8,
        } + 64;
        let mut ring = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if ring.ended.is_some() {
            return;
        }
        ring.last += 1;
        let event = v1::WatchEvent {
            seq: ring.last,
            execution_id: execution
                .map(|id| id.as_str().to_owned())
                .unwrap_or_default(),
            place,
            event: Some(event),
        };
        ring.events.push_back((event, size));
        ring.bytes += size;
        while ring.events.len() > RING_EVENTS || (ring.bytes > RING_BYTES && ring.events.len() > 1)
        {
            if let Some((_, size)) = ring.events.pop_front() {
                ring.bytes -= size;
            }
        }
        drop(ring);
        self.changed.notify_waiters();
    }

    fn end(&self) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ended
            .get_or_insert_with(Instant::now);
        self.changed.notify_waiters();
    }

    /// For how long it has ended, and what it holds.
    fn ended(&self) -> Option<(Duration, usize)> {
        let ring = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        ring.ended.map(|at| (at.elapsed(), ring.bytes))
    }

    /// The first event after `after`; waits for it.
    pub async fn next(&self, after: u64) -> Next {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between.
            changed.as_mut().enable();
            if let Some(next) = self.look(after) {
                return next;
            }
            changed.await;
        }
    }

    fn look(&self, after: u64) -> Option<Next> {
        let ring = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.events.front().map(|(event, _)| event.seq)?;
        if after + 1 < first {
            return Some(Next::Lost(first - 1 - after));
        }
        let at = usize::try_from(after + 1 - first).unwrap_or(usize::MAX);
        match ring.events.get(at) {
            Some((event, _)) => Some(Next::Event(Box::new(event.clone()))),
            None if ring.ended.is_some() => Some(Next::End),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key {
            account: AccountId::default_account(),
            agent_id: "echo".parse().expect("an id"),
            id: "e1".parse().expect("an id"),
        }
    }

    #[tokio::test]
    async fn a_late_reader_gets_what_is_kept_and_learns_what_is_not() {
        let hub = Hub::default();
        let feed = hub.execution(&key());
        for n in 0..RING_EVENTS + 10 {
            hub.push(&key(), v1::watch_event::Event::Progress(n as f64));
        }
        assert!(matches!(feed.next(0).await, Next::Lost(10)));
        assert!(matches!(feed.next(10).await, Next::Event(event) if event.seq == 11));
        hub.end(&key(), v1::Outcome::default());
        let last = (RING_EVENTS + 11) as u64;
        assert!(matches!(feed.next(last - 1).await, Next::Event(event) if event.seq == last));
        assert!(matches!(feed.next(last).await, Next::End));
    }

    #[tokio::test]
    async fn ended_feeds_hold_a_bounded_amount() {
        let hub = Hub::default();
        for n in 0..80 {
            let key = Key {
                id: format!("e{n}").parse().expect("an id"),
                ..key()
            };
            hub.execution(&key);
            for _ in 0..8 {
                hub.push(
                    &key,
                    v1::watch_event::Event::Chunk(vec![b'x'; 1024 * 1024 - 100].into()),
                );
            }
            hub.end(&key, v1::Outcome::default());
        }
        hub.tidy();
        let kept = hub.executions.lock().expect("no panic").len();
        assert!(
            (20..=40).contains(&kept),
            "{kept} feeds of about 8 MB are kept"
        );
        assert_eq!(hub.open.load(Ordering::Relaxed), kept);
    }

    #[tokio::test]
    async fn large_events_push_others_out() {
        let hub = Hub::default();
        let feed = hub.execution(&key());
        for _ in 0..20 {
            hub.push(
                &key(),
                v1::watch_event::Event::Chunk(vec![b'x'; 1024 * 1024].into()),
            );
        }
        assert!(matches!(feed.next(0).await, Next::Lost(lost) if lost >= 12));
    }
}
