-- What must always be true of the wallet's database. Each rule: its name, one line that says it, and a
-- query that returns the rows that break it. All run in one snapshot.

-- check: dead_letter_is_open
-- I9: A saga in the dead-letter state has exactly one open dead letter, and no other saga has any.
SELECT s.saga_id, s.state, count(d.dead_letter_id) AS open
FROM saga.saga s
LEFT JOIN saga.dead_letter d ON d.saga_id = s.saga_id AND d.closed_at IS NULL
GROUP BY s.saga_id, s.state
HAVING count(d.dead_letter_id) <> (s.state = 4)::int;
