-- What other processes have to know before one of them may say that a key was not used and never will be.

-- Keys under which this process may still insert, as hashes, of those that were not settled within a moment before the beat;
-- null: too many to name, so any key may be one of them. Rewritten by every beat, and empty while commits are answered.
-- A process that does not write the column says nothing of its keys.
ALTER TABLE saga.process ADD COLUMN pending_keys bigint[];
