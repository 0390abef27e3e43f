//! How a thing is doing, and how a whole is doing by its parts.

use crate::words;

words! {
    /// Ordered from best to worst.
    pub enum Health { Healthy = "healthy", Degraded = "degraded", Unhealthy = "unhealthy", }
}

/// The worst of the parts; a whole without parts is healthy.
pub fn worst(parts: impl IntoIterator<Item = Health>) -> Health {
    parts.into_iter().max().unwrap_or(Health::Healthy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_part_counts() {
        assert_eq!(
            worst([Health::Healthy, Health::Unhealthy, Health::Degraded]),
            Health::Unhealthy
        );
        assert_eq!(worst([]), Health::Healthy);
    }
}
