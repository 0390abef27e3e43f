-- executions: where the time went, a JSON list of eight figures in microseconds (domain::waterfall). Written with the end, and never
-- by itself; null where it has not ended, or ended under an older release.
ALTER TABLE executions ADD COLUMN waterfall TEXT;
