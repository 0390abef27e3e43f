-- executions.
-- Only for what says `accepted_at >= 0`, which is all there is: lists. What names one execution must find it by its key. A planner that
-- has no statistics yet believes that the index before this one, (account, agent_id, accepted_at, id), is as good for that, and reads
-- all executions of an agent for each one; Postgres keeps such a plan for as long as a connection lives.
DROP INDEX executions_accepted;
CREATE INDEX executions_listed ON executions (account, agent_id, accepted_at, id) WHERE accepted_at >= 0;
