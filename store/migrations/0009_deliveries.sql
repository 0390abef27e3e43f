-- Signed webhooks on their way: of alerts, and of whatever else has a receiver. Below 0001's comments: who inserts (i) and updates (u).

-- i whoever has something to tell, in the transaction of what happened; u monitor. `subject` is the alert, `round` how often it came back; `id` is the `webhook-id`.
-- `secret` is sealed for `sealed_for`. `due_at` is NULL once it is over; while an attempt is made it is when another one may be.
-- Kept as long as executions after the last attempt.
CREATE TABLE deliveries (
    id          TEXT PRIMARY KEY,
    account     TEXT NOT NULL,
    subject     TEXT NOT NULL,
    event       TEXT NOT NULL,
    level       BIGINT NOT NULL,
    round       BIGINT NOT NULL,
    url         TEXT NOT NULL,
    body        TEXT NOT NULL,
    secret      BYTEA NOT NULL,
    sealed_for  TEXT NOT NULL,
    status      TEXT NOT NULL,
    attempts    BIGINT NOT NULL,
    created_at  BIGINT NOT NULL,
    due_at      BIGINT,
    UNIQUE (subject, event, level, round, url)
);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_by_time ON deliveries (created_at);

-- i monitor, once an attempt has ended. Goes with its delivery. `status` is NULL where nobody answered.
CREATE TABLE delivery_attempts (
    delivery_id TEXT NOT NULL,
    account     TEXT NOT NULL,
    attempt     BIGINT NOT NULL,
    at          BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    status      BIGINT,
    error       TEXT,
    PRIMARY KEY (delivery_id, attempt)
);
