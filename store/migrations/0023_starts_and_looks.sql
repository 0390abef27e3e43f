-- instances: i executor. Whether it was forked from a template or spawned; NULL where an older release made it, or where it never became ready.
ALTER TABLE instances ADD COLUMN start TEXT;

-- Looks that read all there is of what grows (store/tests/conformance/plans.rs): what is too old of scaling, how long an account's deployments
-- took, what belongs to a session or an agent, among all of the account's, and keys that are still good.
-- Executions without a session are in no index more.
CREATE INDEX scaling_events_by_time ON scaling_events (at);
CREATE INDEX deployments_of_account ON deployments (account, created_at) WHERE kind = 'deploy' AND status = 'deployed';
CREATE INDEX executions_of_session ON executions (account, agent_id, session_id, accepted_at, id) WHERE session_id IS NOT NULL;
CREATE INDEX alerts_of_agent ON alerts (account, agent_id, opened_at, id);
CREATE INDEX keys_living ON keys (account, created_at, id) WHERE revoked_at IS NULL;
