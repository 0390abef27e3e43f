-- keys: i/u gateway. Limits as JSON, NULL: none. The only environments that a key reaches, as JSON; NULL: all. `auto_rotation` is NULL in
-- rows of releases before this one: then it is on where `rotate_at` is set.
ALTER TABLE keys ADD COLUMN limits TEXT;
ALTER TABLE keys ADD COLUMN environments TEXT;
ALTER TABLE keys ADD COLUMN auto_rotation BOOLEAN;

-- i/u gateway. How often an agent may be executed; no row: as often as it can.
CREATE TABLE agent_limits (
    incarnation TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    agent_id    TEXT NOT NULL,
    limits      TEXT NOT NULL,
    updated_by  TEXT NOT NULL,
    updated_at  BIGINT NOT NULL
);

-- i/u gateway. What was taken of the limits of a subject (a key, an incarnation of an agent), for all gateways. Deleted when nobody took
-- anything for 40 days: then no bucket is empty and no quota begun.
CREATE TABLE spent (
    account    TEXT NOT NULL,
    subject    TEXT NOT NULL,
    full_at_us BIGINT NOT NULL,
    day        BIGINT NOT NULL,
    day_used   BIGINT NOT NULL,
    month      BIGINT NOT NULL,
    month_used BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (account, subject)
);
CREATE INDEX spent_by_time ON spent (updated_at);

-- agents: whether an id ever lived, and in which environments.
CREATE INDEX agents_by_id ON agents (account, agent_id, environment);
