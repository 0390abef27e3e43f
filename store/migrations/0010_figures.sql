-- executions: where the time went, a JSON list of eight figures in microseconds (domain::waterfall). Written with the end, and never
-- by itself; null where it has not ended, or ended under an older release.
ALTER TABLE executions ADD COLUMN waterfall TEXT;

-- instances: health checks of it that failed since it became ready; rollback triggers count them.
ALTER TABLE instances ADD COLUMN failed_checks BIGINT NOT NULL DEFAULT 0;
