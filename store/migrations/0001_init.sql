-- One text for SQLite and Postgres. Times are BIGINT milliseconds since the epoch, documents are JSON in TEXT.
-- Every row belongs to an account. Above each table: who inserts (i) and who updates (u) its rows.

-- i gateway (first start)
CREATE TABLE accounts (
    account     TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    created_at  BIGINT NOT NULL
);

-- i/u gateway. Only a keyed hash of the secret is kept.
CREATE TABLE keys (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    hash        BYTEA NOT NULL,
    name        TEXT NOT NULL,
    permissions TEXT NOT NULL,
    agents      TEXT,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    revoked_at  BIGINT
);
CREATE UNIQUE INDEX keys_by_hash ON keys (hash);

-- i gateway · u deployer (deleted_at). An id may be used again after its agent is deleted: then it is a new row.
CREATE TABLE agents (
    account        TEXT NOT NULL,
    agent_id       TEXT NOT NULL,
    environment    TEXT NOT NULL,
    name           TEXT NOT NULL,
    created_by     TEXT NOT NULL,
    created_at     BIGINT NOT NULL,
    webhook_secret BYTEA NOT NULL,
    deleted_at     BIGINT,
    incarnation    TEXT PRIMARY KEY
);
CREATE UNIQUE INDEX agents_living ON agents (account, agent_id) WHERE deleted_at IS NULL;

-- i gateway. Immutable. `secrets` are the sealed environment variables, `digest` is of everything the caller sent.
CREATE TABLE versions (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    agent_id    TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    version     TEXT NOT NULL,
    spec        TEXT NOT NULL,
    artifact    TEXT NOT NULL,
    secrets     BYTEA NOT NULL,
    digest      TEXT NOT NULL,
    created_at  BIGINT NOT NULL
);
CREATE UNIQUE INDEX versions_by_name ON versions (incarnation, version);

-- i gateway. What `versions` hold as tags, for filtering.
CREATE TABLE version_tags (
    version_id TEXT NOT NULL,
    tag        TEXT NOT NULL,
    PRIMARY KEY (version_id, tag)
);

-- i gateway. Code by content.
CREATE TABLE artifacts (
    account    TEXT NOT NULL,
    digest     TEXT NOT NULL,
    bytes      BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (account, digest)
);

-- i/u deployer. The lock that a version runs with, resolved once.
CREATE TABLE locks (
    version_id TEXT PRIMARY KEY,
    account    TEXT NOT NULL,
    lock       TEXT NOT NULL,
    digest     TEXT NOT NULL
);

-- i gateway · u deployer (state, rev).
CREATE TABLE deployments (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    agent_id    TEXT NOT NULL,
    incarnation TEXT NOT NULL,
    version_id  TEXT,
    kind        TEXT NOT NULL,
    status      TEXT NOT NULL,
    state       TEXT NOT NULL,
    rev         BIGINT NOT NULL,
    created_by  TEXT NOT NULL,
    created_at  BIGINT NOT NULL,
    updated_at  BIGINT NOT NULL
);
CREATE INDEX deployments_of_agent ON deployments (incarnation, created_at, id);
CREATE INDEX deployments_unfinished ON deployments (created_at) WHERE status = 'deploying';

-- i/u deployer. Who answers: weights per version.
CREATE TABLE traffic (
    incarnation TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    agent_id    TEXT NOT NULL,
    routes      TEXT NOT NULL,
    updated_at  BIGINT NOT NULL
);

-- i/u deployer. What a node shall keep running of a version.
CREATE TABLE envelopes (
    version_id    TEXT NOT NULL,
    node_id       TEXT NOT NULL,
    account       TEXT NOT NULL,
    generation    BIGINT NOT NULL,
    state         TEXT NOT NULL,
    min_instances BIGINT NOT NULL,
    max_instances BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    PRIMARY KEY (version_id, node_id)
);

-- i/u executor. One row a node; `boot_id` changes with every start of its process.
CREATE TABLE nodes (
    id           TEXT PRIMARY KEY,
    boot_id      TEXT NOT NULL,
    address      TEXT NOT NULL,
    capacity     TEXT NOT NULL,
    started_at   BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL
);

-- i/u executor.
CREATE TABLE instances (
    id         TEXT PRIMARY KEY,
    account    TEXT NOT NULL,
    agent_id   TEXT NOT NULL,
    version_id TEXT NOT NULL,
    node_id    TEXT NOT NULL,
    boot_id    TEXT NOT NULL,
    state      TEXT NOT NULL,
    pid        BIGINT,
    created_at BIGINT NOT NULL,
    ready_at   BIGINT,
    ended_at   BIGINT,
    failure    TEXT
);
CREATE INDEX instances_living ON instances (version_id) WHERE ended_at IS NULL;
CREATE INDEX instances_ended ON instances (ended_at);

-- i/u executor.
CREATE TABLE scaling_events (
    id             TEXT PRIMARY KEY,
    account        TEXT NOT NULL,
    agent_id       TEXT NOT NULL,
    version_id     TEXT NOT NULL,
    node_id        TEXT NOT NULL,
    at             BIGINT NOT NULL,
    action         TEXT NOT NULL,
    reason         TEXT NOT NULL,
    from_instances BIGINT NOT NULL,
    to_instances   BIGINT NOT NULL
);
CREATE INDEX scaling_events_of_agent ON scaling_events (account, agent_id, at);

-- i gateway · u executor. `body_digest` makes the caller's id an idempotency key; `attempts` is a bounded list.
CREATE TABLE executions (
    account        TEXT NOT NULL,
    agent_id       TEXT NOT NULL,
    id             TEXT NOT NULL,
    version_id     TEXT NOT NULL,
    mode           TEXT NOT NULL,
    priority       TEXT NOT NULL,
    status         TEXT NOT NULL,
    body_digest    TEXT,
    session_id     TEXT,
    caller         TEXT NOT NULL,
    options        TEXT NOT NULL,
    input          TEXT NOT NULL,
    accepted_at    BIGINT NOT NULL,
    due_at         BIGINT NOT NULL,
    started_at     BIGINT,
    completed_at   BIGINT,
    attempt        BIGINT NOT NULL,
    losses         BIGINT NOT NULL,
    attempts       TEXT NOT NULL,
    node_id        TEXT,
    boot_id        TEXT,
    instance_id    TEXT,
    progress       DOUBLE PRECISION,
    output         TEXT,
    error          TEXT,
    duration_ms    DOUBLE PRECISION,
    queue_ms       DOUBLE PRECISION,
    cpu_ms         DOUBLE PRECISION,
    memory_peak_mb DOUBLE PRECISION,
    tokens         BIGINT,
    metrics        TEXT,
    logs_dropped   BIGINT NOT NULL,
    PRIMARY KEY (account, agent_id, id)
);
CREATE INDEX executions_accepted ON executions (account, agent_id, accepted_at, id);
CREATE INDEX executions_completed ON executions (account, agent_id, completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX executions_ended ON executions (completed_at) WHERE completed_at IS NOT NULL;
CREATE INDEX executions_open ON executions (due_at) WHERE status IN ('queued', 'running');

-- i executor. `execution_id` is empty for what an instance says outside of any execution.
CREATE TABLE logs (
    account      TEXT NOT NULL,
    agent_id     TEXT NOT NULL,
    execution_id TEXT NOT NULL,
    at           BIGINT NOT NULL,
    seq          BIGINT NOT NULL,
    level        TEXT NOT NULL,
    message      TEXT NOT NULL,
    context      TEXT
);
CREATE INDEX logs_of_execution ON logs (account, agent_id, execution_id, seq);
CREATE INDEX logs_of_agent ON logs (account, agent_id, at);
CREATE INDEX logs_by_time ON logs (at);

-- i gateway. Every change that was asked for, and how it ended.
CREATE TABLE audit (
    id         TEXT PRIMARY KEY,
    account    TEXT NOT NULL,
    at         BIGINT NOT NULL,
    key_id     TEXT,
    action     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    remote     TEXT,
    request_id TEXT NOT NULL,
    outcome    TEXT NOT NULL
);
CREATE INDEX audit_of_account ON audit (account, at, id);
