-- Webhooks that are due, found receiver by receiver: so one look costs the same however many are due.

CREATE INDEX deliveries_in_turn ON deliveries (account, host, due_at, id) WHERE due_at IS NOT NULL;
