-- Of each account the lots that have lapsed and are still in its balance, at most $3; then those that can be spent, in the order
-- of spending, at most $4. What has lapsed comes first in that order too: the inner limit is how much is passed over at most.
SELECT l.*
FROM unnest($1::bigint[]) AS u(account_no)
CROSS JOIN LATERAL (
    (SELECT true AS lapsed, account_no, lot_id, original, remaining, held, expires_at, grace_until, funding, kind,
            operation_id AS issued_by, reward_id, times_expired
     FROM tender.lot
     WHERE account_no = u.account_no AND free AND ends_at <= $2
     ORDER BY ends_at, lot_id
     LIMIT $3)
    UNION ALL
    (SELECT false, account_no, lot_id, original, remaining, held, expires_at, grace_until, funding, kind,
            operation_id, reward_id, times_expired
     FROM (SELECT * FROM tender.lot
           WHERE account_no = u.account_no AND free
           ORDER BY expires_at, lot_id
           LIMIT $3 + $4) in_order
     WHERE coalesce(ends_at, 'infinity') > $2
     LIMIT $4)
) l
