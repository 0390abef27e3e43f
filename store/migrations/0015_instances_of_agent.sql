-- instances: what one agent has now, among those of all.
CREATE INDEX instances_of_agent ON instances (account, agent_id) WHERE ended_at IS NULL;
