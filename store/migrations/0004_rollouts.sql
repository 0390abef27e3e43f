-- i gateway. What a caller asks of a deployment on its way; deployer reads it, in the sequence of `at` and `id`.
CREATE TABLE deployment_orders (
    id            TEXT PRIMARY KEY,
    account       TEXT NOT NULL,
    deployment_id TEXT NOT NULL,
    word          TEXT NOT NULL,
    created_by    TEXT NOT NULL,
    at            BIGINT NOT NULL
);
CREATE INDEX orders_of_deployment ON deployment_orders (deployment_id, at, id);
