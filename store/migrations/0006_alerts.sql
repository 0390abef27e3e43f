-- When people are told of bad figures, and of which. Below 0001's comments: who inserts (i) and who updates (u).

-- i/u gateway. `agent_id` is '' for the account's own; `secret` signs what its webhooks are sent, sealed for `id`.
CREATE TABLE alert_policies (
    account    TEXT NOT NULL,
    agent_id   TEXT NOT NULL,
    id         TEXT NOT NULL,
    policy     TEXT NOT NULL,
    secret     BYTEA NOT NULL,
    updated_at BIGINT NOT NULL,
    updated_by TEXT NOT NULL,
    PRIMARY KEY (account, agent_id)
);

-- i/u monitor, under the lease `roller`; u gateway: the three columns of an acknowledgement, once. `alert` is the rest. Kept as
-- long as executions after they are over.
CREATE TABLE alerts (
    id                TEXT PRIMARY KEY,
    account           TEXT NOT NULL,
    agent_id          TEXT NOT NULL,
    incarnation       TEXT NOT NULL,
    rule              TEXT NOT NULL,
    opened_at         BIGINT NOT NULL,
    level             BIGINT NOT NULL,
    resolved_at       BIGINT,
    acknowledged_at   BIGINT,
    acknowledged_by   TEXT,
    acknowledged_note TEXT,
    alert             TEXT NOT NULL,
    rev               BIGINT NOT NULL
);
CREATE UNIQUE INDEX open_alerts ON alerts (account, agent_id, rule) WHERE resolved_at IS NULL;
CREATE INDEX alerts_by_time ON alerts (account, opened_at);
CREATE INDEX alerts_by_end ON alerts (resolved_at);
