-- i/u deployer. Who does what only one may do at a time. `epoch` grows with every acquisition, so that whoever held a lease
-- before and wakes up is told from its present holder. Times are the database's own.
CREATE TABLE leases (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    epoch      BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

-- Every node asks for its own with every beat, and retired rows stay.
CREATE INDEX envelopes_of_node ON envelopes (node_id) WHERE state <> 'retired';
CREATE INDEX instances_of_node ON instances (node_id) WHERE ended_at IS NULL;
