//! What an executor is asked to keep running of one version. Orders carry a generation; an older one is refused.

use crate::id::VersionId;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    pub version_id: VersionId,
    /// Grows with every order; an executor refuses one that is older than what it has.
    pub generation: i64,
    pub state: State,
    pub min_instances: u32,
    pub max_instances: u32,
}

crate::words! {
    pub enum State {
        /// Listen, scale between min and max.
        Serving = "serving",
        /// Finish what runs and what waits, then let go.
        Retiring = "retiring",
        /// Let go: nothing of it may be left.
        Retired = "retired",
    }
}
