-- i/u monitor, under the lease `roller`. One row, of no account: up to when minutes have been judged for alerts.
CREATE TABLE alert_position (
    name TEXT PRIMARY KEY,
    at   BIGINT NOT NULL
);
