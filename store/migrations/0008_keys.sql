-- keys: i/u gateway.
-- After `rotate_at` a key is due for rotation; null: it never is. What replaced it, and when it was last used (to about ten seconds).
ALTER TABLE keys ADD COLUMN rotate_at BIGINT;
ALTER TABLE keys ADD COLUMN replaced_by TEXT;
ALTER TABLE keys ADD COLUMN last_used_at BIGINT;
CREATE INDEX keys_of_account ON keys (account, created_at, id);
