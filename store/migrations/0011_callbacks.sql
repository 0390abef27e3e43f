-- Callbacks of executions, and receivers that are gone. Below 0001's comments: who inserts (i) and who updates (u).

-- executions: 1 from its acceptance until its callback is in `deliveries`; NULL where none was asked for, or it is there. Taken away in the
-- transaction that inserts it: u gateway. The index holds those that have ended, for a moment each.
ALTER TABLE executions ADD COLUMN callback_owed BIGINT;
CREATE INDEX executions_owed ON executions (completed_at) WHERE callback_owed IS NOT NULL AND completed_at IS NOT NULL;

-- deliveries: i gateway, for callbacks; u gateway, where one is to be sent again. `agent_id` and `execution_id` are '' for alerts. `host` is what is
-- connected, so that a slow one holds up nobody else. `tried_before` are attempts of before it was to be sent again. Where `secret` is empty, the
-- agent whose incarnation is `sealed_for` has it.
ALTER TABLE deliveries ADD COLUMN agent_id TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN execution_id TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE deliveries ADD COLUMN tried_before BIGINT NOT NULL DEFAULT 0;
CREATE INDEX deliveries_of_agent ON deliveries (account, agent_id, created_at, id) WHERE agent_id <> '';
CREATE INDEX deliveries_of_execution ON deliveries (account, agent_id, execution_id) WHERE execution_id <> '';
CREATE INDEX deliveries_to ON deliveries (account, url) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_in_time ON deliveries (created_at, id);

-- i monitor: whoever answered 410 is sent nothing any more; u gateway and monitor (`used_at`, when something was withheld). Deleted by the gateway where it is
-- configured anew, and by monitor where nothing was withheld for as long as executions are kept, unless an alert policy names it. `owner`
-- is that policy, or the agent's incarnation.
CREATE TABLE gone_receivers (
    account TEXT NOT NULL,
    owner   TEXT NOT NULL,
    url     TEXT NOT NULL,
    gone_at BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (account, owner, url)
);
