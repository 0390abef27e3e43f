-- i gateway (first start), or whoever reseals, whichever comes first; u whoever reseals. Of the installation, like the master key: one
-- row, what hashes of keys are keyed with, sealed.
CREATE TABLE peppers (
    id         TEXT PRIMARY KEY,
    sealed     BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);
