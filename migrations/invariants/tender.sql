-- What must always be true of a tender's database. Each rule: its name, one line that says it, and a
-- query that returns the rows that break it. Each runs in a snapshot of its own.

-- check: operations_balance
-- I10: The entries of every operation sum to zero, per asset.
SELECT operation_id, asset, sum(amount) AS off_by
FROM tender.entry
GROUP BY operation_id, asset
HAVING sum(amount) <> 0;

-- check: posted_equals_entries
-- I4: An account's posted balance is the sum of its entries, which is what the last of them says.
SELECT a.account_no, a.posted, coalesce(e.total, 0) AS entries, e.last_balance
FROM tender.account a
LEFT JOIN (
    SELECT account_no, sum(amount) AS total, (array_agg(balance_after ORDER BY version DESC))[1] AS last_balance
    FROM tender.entry
    WHERE account_no IS NOT NULL
    GROUP BY account_no
) e USING (account_no)
WHERE a.posted <> coalesce(e.total, 0) OR a.posted <> coalesce(e.last_balance, 0);

-- check: posted_equals_lots
-- I4: An account's posted balance is the sum of its lots, and what it holds is the sum of what they hold.
SELECT a.account_no, a.posted, a.held, coalesce(l.value, 0) AS lots, coalesce(l.held, 0) AS lots_held
FROM tender.account a
LEFT JOIN (
    SELECT account_no, sum(remaining + held) AS value, sum(held) AS held
    FROM tender.lot
    GROUP BY account_no
) l USING (account_no)
WHERE a.posted <> coalesce(l.value, 0) OR a.held <> coalesce(l.held, 0);

-- check: nothing_is_negative
-- I4: No account, and no lot, is below zero.
SELECT 'account' AS what, account_no, NULL::uuid AS lot_id FROM tender.account WHERE posted < 0 OR held < 0
UNION ALL
SELECT 'lot', account_no, lot_id FROM tender.lot WHERE remaining < 0 OR held < 0;

-- check: versions_have_no_gaps
-- I4: An account's entries are numbered from 1 to its version, each once, and each follows from the one before.
SELECT account_no, version, amount, balance_after, balance_before, previous
FROM (
    SELECT e.account_no, e.version, e.amount, e.balance_after,
           lag(e.balance_after, 1, 0::bigint) OVER w AS balance_before,
           lag(e.version, 1, 0::bigint) OVER w AS previous,
           lead(e.version) OVER w AS next,
           a.version AS last
    FROM tender.entry e
    LEFT JOIN tender.account a USING (account_no)
    WHERE e.account_no IS NOT NULL
    WINDOW w AS (PARTITION BY e.account_no ORDER BY e.version)
) numbered
WHERE version <> previous + 1
   OR balance_after <> balance_before + amount
   OR (next IS NULL AND version IS DISTINCT FROM last)
UNION ALL
SELECT account_no, version, NULL, NULL, NULL, NULL
FROM tender.account a
WHERE version > 0 AND NOT EXISTS (SELECT FROM tender.entry e WHERE e.account_no = a.account_no);

-- check: reversals_add_up
-- I6: What went back to a lot is what the single returns add up to, and never more than was taken.
SELECT a.operation_id, a.position, a.amount, a.reversed, coalesce(r.returned, 0) AS returned
FROM tender.allocation a
LEFT JOIN (
    SELECT operation_id, position, sum(amount) AS returned
    FROM tender.allocation_reversal
    GROUP BY operation_id, position
) r USING (operation_id, position)
WHERE a.reversed <> coalesce(r.returned, 0) OR a.reversed > a.amount;

-- check: returns_have_an_origin
-- I6: Nothing went back that was never taken.
SELECT r.*
FROM tender.allocation_reversal r
LEFT JOIN tender.allocation a USING (operation_id, position)
WHERE a.operation_id IS NULL;

-- check: operations_in_force_match_allocations
-- I8: What an applied or held operation has in force is what its lots still owe it; one that is out of force has nothing.
SELECT o.operation_id, o.kind, o.state, o.amount, coalesce(a.in_force, 0) AS in_force
FROM tender.operation o
LEFT JOIN (
    SELECT operation_id, sum(amount - reversed) AS in_force
    FROM tender.allocation
    GROUP BY operation_id
) a USING (operation_id)
WHERE o.kind IN ('debit', 'hold', 'expire')
  AND CASE WHEN o.state IN ('applied', 'held') THEN coalesce(a.in_force, 0) > o.amount
           ELSE coalesce(a.in_force, 0) <> 0 END;

-- check: holds_match_lots
-- I4: What lots hold is what operations in state held have set aside.
SELECT coalesce(l.lot_id, h.lot_id) AS lot_id, coalesce(l.held, 0) AS held, coalesce(h.set_aside, 0) AS set_aside
FROM (SELECT lot_id, held FROM tender.lot WHERE held > 0) l
FULL JOIN (
    SELECT a.lot_id, sum(a.amount - a.reversed) AS set_aside
    FROM tender.allocation a
    JOIN tender.operation o USING (operation_id)
    WHERE o.state = 'held'
    GROUP BY a.lot_id
    HAVING sum(a.amount - a.reversed) > 0
) h ON h.lot_id = l.lot_id
WHERE coalesce(l.held, 0) <> coalesce(h.set_aside, 0);

-- check: lots_account_for_their_value
-- I1: What is left of a lot is what it began with, less what operations took of it and did not give back.
SELECT l.account_no, l.lot_id, l.original, l.remaining, l.held, coalesce(a.taken, 0) AS taken
FROM tender.lot l
LEFT JOIN (
    SELECT lot_id, sum(amount - reversed) AS taken
    FROM tender.allocation
    GROUP BY lot_id
) a USING (lot_id)
WHERE l.remaining <> l.original - coalesce(a.taken, 0);

-- check: expiries_are_counted
-- I1: A lot was expired as often as it says, and only what has an end is.
SELECT coalesce(l.lot_id, e.lot_id) AS lot_id, l.times_expired, coalesce(e.times, 0) AS expiries
FROM (SELECT lot_id, times_expired FROM tender.lot WHERE times_expired > 0) l
FULL JOIN (
    SELECT a.lot_id, count(*) AS times
    FROM tender.operation o
    JOIN tender.allocation a USING (operation_id)
    WHERE o.kind = 'expire'
    GROUP BY a.lot_id
) e ON e.lot_id = l.lot_id
WHERE l.times_expired IS DISTINCT FROM e.times;

-- check: conservation
-- I1: Per business and asset, what all accounts hold is what was issued, less what was redeemed or expired, plus what came back.
SELECT coalesce(a.business_id, e.business_id) AS business_id, coalesce(a.asset, e.asset) AS asset,
       coalesce(a.held_by_accounts, 0) AS accounts, coalesce(e.programme, 0) AS programme
FROM (SELECT business_id, asset, sum(posted) AS held_by_accounts FROM tender.account GROUP BY 1, 2) a
FULL JOIN (
    SELECT business_id, asset, -sum(amount) AS programme FROM tender.entry WHERE contra IS NOT NULL GROUP BY 1, 2
) e ON e.business_id = a.business_id AND e.asset = a.asset
WHERE coalesce(a.held_by_accounts, 0) <> coalesce(e.programme, 0);

-- check: entries_have_an_operation
-- I2: Every entry belongs to a stored operation, so that no key had an effect that it cannot answer for.
SELECT e.operation_id, e.kind, e.amount
FROM tender.entry e
LEFT JOIN tender.operation o USING (operation_id)
WHERE o.operation_id IS NULL;

-- check: refusals_moved_nothing
-- I2: An operation that was declined, expired, or cancelled before it came has no entry and no allocation.
SELECT o.operation_id, o.state
FROM tender.operation o
WHERE o.state IN ('declined', 'expired', 'tombstoned')
  AND (EXISTS (SELECT FROM tender.entry e WHERE e.operation_id = o.operation_id)
       OR EXISTS (SELECT FROM tender.allocation a WHERE a.operation_id = o.operation_id));

-- check: no_account_no_value
-- I2: What was recorded for an account that is not stored, under a number below zero, took nothing.
SELECT operation_id, account_no, kind, state, amount
FROM tender.operation
WHERE account_no < 0 AND amount <> 0;
