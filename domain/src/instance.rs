//! One running process of one version: its states and what may follow.

use crate::words;

words! {
    pub enum State {
        /// Its process starts, imports and initialises.
        Starting = "starting",
        Ready = "ready",
        /// Takes no more work; what runs may finish.
        Draining = "draining",
        /// Its processes are gone.
        Stopped = "stopped",
        /// It never became ready.
        Failed = "failed",
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Ready,
    Drain,
    /// Seen empty.
    Gone,
}

pub fn step(state: State, input: Input) -> Option<State> {
    match (state, input) {
        (State::Starting, Input::Ready) => Some(State::Ready),
        (State::Starting | State::Ready, Input::Drain) => Some(State::Draining),
        (State::Starting, Input::Gone) => Some(State::Failed),
        (State::Ready | State::Draining, Input::Gone) => Some(State::Stopped),
        (State::Ready | State::Draining, Input::Ready)
        | (State::Draining, Input::Drain)
        | (State::Stopped | State::Failed, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gone_is_final() {
        for state in [State::Stopped, State::Failed] {
            for input in [Input::Ready, Input::Drain, Input::Gone] {
                assert_eq!(step(state, input), None);
            }
        }
        assert_eq!(step(State::Starting, Input::Gone), Some(State::Failed));
        assert_eq!(step(State::Ready, Input::Gone), Some(State::Stopped));
    }
}
