-- Code and environments outside of the rows. Below 0001's comments: who inserts (i) and who updates (u).

-- i/u gateway. `stored` says where the bytes are: 'row', or 'blob' (then `bytes` are empty); `size` is NULL in rows from before it.
ALTER TABLE artifacts ADD COLUMN stored TEXT NOT NULL DEFAULT 'row';
ALTER TABLE artifacts ADD COLUMN size BIGINT;

-- i/u executor. Environments that a node has built and packed for the others, by lock and interpreter (`digest`) and C library;
-- `archive` is the digest of the packed bytes. Of no account, like the folders on a node.
CREATE TABLE environments (
    digest     TEXT NOT NULL,
    libc       TEXT NOT NULL,
    archive    TEXT NOT NULL,
    size       BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (digest, libc)
);
