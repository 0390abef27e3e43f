-- How instances are doing, and whose they are. Below 0001's comments: who inserts (i) and who updates (u).

-- u executor. `health` is NULL while nothing is wrong; `session_id` of an instance that belongs to one session alone.
ALTER TABLE instances ADD COLUMN health TEXT;
ALTER TABLE instances ADD COLUMN complaint TEXT;
ALTER TABLE instances ADD COLUMN session_id TEXT;

-- i/u executor. Versions whose every start leads nowhere, where they do. Deleted when one lives again, or is let go of.
CREATE TABLE crash_loops (
    version_id TEXT NOT NULL,
    node_id    TEXT NOT NULL,
    account    TEXT NOT NULL,
    agent_id   TEXT NOT NULL,
    crashes    BIGINT NOT NULL,
    since      BIGINT NOT NULL,
    retry_at   BIGINT NOT NULL,
    failure    TEXT NOT NULL,
    PRIMARY KEY (version_id, node_id)
);
CREATE INDEX crash_loops_of_agent ON crash_loops (account, agent_id);
CREATE INDEX crash_loops_of_node ON crash_loops (node_id);
