//! Numbers that look random and are the same for the same beginning: what a deployment chose once it chooses again.

use std::hash::{DefaultHasher, Hash, Hasher};

/// A source of numbers below what it is given (xorshift64*, Vigna 2016).
pub(crate) fn of(beginning: impl Hash) -> impl FnMut(usize) -> usize {
    let mut hasher = DefaultHasher::new();
    beginning.hash(&mut hasher);
    let mut state = hasher.finish() | 1;
    move |most| {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let drawn = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap_or(0) % most.max(1)
    }
}
