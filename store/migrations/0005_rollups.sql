-- What is kept of ended executions when they are gone, and read instead of them. Below 0001's comments: who inserts (i) and who
-- updates (u).

-- i/u monitor, under the lease `roller`. Per version and span ('minute', 'hour', 'day', and 'ever' at 0); `cell` is all of it, the
-- columns before it are what is read without its sketches. Kept by span, as configured.
CREATE TABLE rollups (
    account     TEXT NOT NULL,
    agent_id    TEXT NOT NULL,
    version_id  TEXT NOT NULL,
    span        TEXT NOT NULL,
    start_at    BIGINT NOT NULL,
    total       BIGINT NOT NULL,
    failed      BIGINT NOT NULL,
    cancelled   BIGINT NOT NULL,
    ran         BIGINT NOT NULL,
    duration_ms DOUBLE PRECISION NOT NULL,
    first_at    BIGINT NOT NULL,
    cell        TEXT NOT NULL,
    PRIMARY KEY (account, agent_id, span, start_at, version_id)
);
CREATE INDEX rollups_by_time ON rollups (span, start_at);

-- u monitor, under the lease `roller`. One row: executions that ended before `at` are in `rollups`; `rev` grows with every change of
-- them, in the same transaction. Executions that ended before `raw_from` are deleted, and cells that began before the other three.
CREATE TABLE rollup_position (
    id           BIGINT PRIMARY KEY,
    at           BIGINT NOT NULL,
    rev          BIGINT NOT NULL,
    raw_from     BIGINT NOT NULL,
    minutes_from BIGINT NOT NULL,
    hours_from   BIGINT NOT NULL,
    days_from    BIGINT NOT NULL
);
INSERT INTO rollup_position (id, at, rev, raw_from, minutes_from, hours_from, days_from) VALUES (1, 0, 0, 0, 0, 0, 0);
