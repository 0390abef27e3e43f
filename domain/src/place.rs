//! Which nodes host a version.

use crate::id::NodeId;

/// What placement looks at.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub node_id: NodeId,
    pub alive: bool,
    /// Memory that instances may still be promised.
    pub free_mb: u64,
}

/// The nodes that shall host a version: those that already do and are alive, else the one with the most room.
pub fn choose(candidates: &[Candidate], hosting: &[NodeId]) -> Vec<NodeId> {
    let kept: Vec<NodeId> = candidates
        .iter()
        .filter(|c| c.alive && hosting.contains(&c.node_id))
        .map(|c| c.node_id.clone())
        .collect();
    if !kept.is_empty() {
        return kept;
    }
    let best = candidates
        .iter()
        .filter(|c| c.alive)
        .max_by_key(|c| c.free_mb);
    best.map(|c| c.node_id.clone()).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sticks_to_live_hosts_and_else_takes_the_roomiest() {
        let node = |n: u128| NodeId::from_uuid(uuid::Uuid::from_u128(n));
        let at = |n, alive, free_mb| Candidate {
            node_id: node(n),
            alive,
            free_mb,
        };
        let three = [at(1, true, 10), at(2, true, 30), at(3, false, 90)];
        assert_eq!(choose(&three, &[node(1)]), [node(1)]);
        assert_eq!(choose(&three, &[node(3)]), [node(2)]);
        assert_eq!(choose(&[], &[]), []);
    }
}
