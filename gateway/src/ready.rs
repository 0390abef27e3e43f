//! Whether requests should come here: said by who started us, shown by `/readyz`.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// A switch, off at first; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::SeqCst);
    }

    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
