-- no-transaction
-- Which peppers codes were made with is asked every second by each process: one look-up for each version.
CREATE INDEX CONCURRENTLY IF NOT EXISTS reward_code_pepper ON tender.reward_code (pepper_version);
