-- A version's packages of the system, resolved once as its Python lock is; empty where it has none. i/u deployer, with the rest of the row.
ALTER TABLE locks ADD COLUMN system TEXT NOT NULL DEFAULT '';
