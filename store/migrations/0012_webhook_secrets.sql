-- agents: u gateway. The secret of before the last rotation, which signs beside the new one until then.
ALTER TABLE agents ADD COLUMN webhook_secret_before BYTEA;
ALTER TABLE agents ADD COLUMN webhook_secret_until BIGINT;
