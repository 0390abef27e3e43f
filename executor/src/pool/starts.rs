//! Who starts next on this node: everybody in turn, so many at a time.

use domain::{
    id::{AccountId, AgentId},
    scale::Turns,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

type Agent = (AccountId, AgentId);

pub struct Starts(Mutex<State>);

struct State {
    free: usize,
    turns: Turns<Agent, oneshot::Sender<Turn>>,
}

/// Given on to the next when dropped.
pub struct Turn(Option<Arc<Starts>>);

impl Starts {
    pub fn new(at_once: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            free: at_once.max(1),
            turns: Turns::default(),
        })))
    }

    pub async fn turn(self: &Arc<Self>, agent: Agent) -> Turn {
        let turn = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Turn(Some(Arc::clone(self)));
            }
            let (give, turn) = oneshot::channel();
            state.turns.push(agent, give);
            turn
        };
        // The sender lies in what `self` holds, until it sends.
        turn.await.unwrap_or(Turn(None))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(starts) = self.0.take() else { return };
        loop {
            let next = {
                let mut state = starts.state();
                let next = state.turns.pop();
                if next.is_none() {
                    state.free += 1;
                }
                next
            };
            let Some(next) = next else { return };
            match next.send(Self(Some(Arc::clone(&starts)))) {
                Ok(()) => return,
                // Whoever waited is gone; dropping the turn here would come back to this loop.
                Err(mut unwanted) => unwanted.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(name: &str) -> Agent {
        (
            AccountId::default_account(),
            name.parse().expect("an agent id"),
        )
    }

    #[tokio::test]
    async fn in_turn_and_never_lost() {
        let starts = Starts::new(1);
        let first = starts.turn(agent("burst")).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let wait = |name: &'static str| {
            let (starts, order) = (Arc::clone(&starts), Arc::clone(&order));
            async move {
                let _turn = starts.turn(agent(name)).await;
                order.lock().expect("no panic").push(name);
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        let gone = tasks.spawn(wait("gone"));
        tokio::task::yield_now().await;
        for _ in 0..5 {
            tasks.spawn(wait("burst"));
        }
        tokio::task::yield_now().await;
        tasks.spawn(wait("other"));
        tokio::task::yield_now().await;
        gone.abort();
        let aborted = tasks.join_next().await.expect("a task");
        aborted.expect_err("it was aborted");
        drop(first);
        tasks.join_all().await;
        let order = order.lock().expect("no panic").clone();
        assert_eq!(
            order,
            ["burst", "other", "burst", "burst", "burst", "burst"]
        );
        assert_eq!(starts.state().free, 1);
    }
}
