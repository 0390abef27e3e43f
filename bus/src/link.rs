//! The connection to the bus's server, for those whose answers may have been lost with it.

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    pub up: bool,
    /// How often it broke.
    pub breaks: u64,
}

/// Cheap to clone; each clone sees what changes from when it was made.
#[derive(Debug, Clone)]
pub struct Link(pub(crate) watch::Receiver<State>);

impl Link {
    /// One that stands, and who says when it breaks; in memory nobody does.
    pub(crate) fn standing() -> (watch::Sender<State>, Self) {
        let (sender, receiver) = watch::channel(State {
            up: true,
            breaks: 0,
        });
        (sender, Self(receiver))
    }

    pub fn is_up(&self) -> bool {
        self.0.borrow().up
    }

    /// Returns when it breaks; never where it cannot.
    pub async fn broken(&mut self) {
        let begun = self.0.borrow().breaks;
        let broke = |state: &State| !state.up || state.breaks != begun;
        if self.0.wait_for(broke).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Returns when it stands.
    pub async fn stands(&mut self) {
        if self.0.wait_for(|state| state.up).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
