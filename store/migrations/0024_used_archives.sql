-- When an executor last said that a version needs it; 0 before it was first said. What nobody needs any more is deleted. i/u executor.
ALTER TABLE environments ADD COLUMN used_at BIGINT NOT NULL DEFAULT 0;
