-- Each account's spendable lots in the order of spending, until their sum covers what the batch needs, and at
-- least the first: its row carries what can be spent in all.
SELECT l.*
FROM unnest($1::bigint[], $2::bigint[]) AS u(account_no, need)
CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT account_no, lot_id, original, remaining, held, expires_at, grace_until, funding, kind,
               operation_id AS issued_by, reward_id,
               (sum(remaining) OVER (ORDER BY expires_at, lot_id) - remaining)::bigint AS before,
               (sum(remaining) OVER ())::bigint AS available
        FROM tender.lot
        WHERE account_no = u.account_no AND NOT spent AND remaining > 0
          AND coalesce(grace_until, expires_at, 'infinity') > $3
        ORDER BY expires_at, lot_id
        LIMIT $4
    ) in_order
    WHERE before < greatest(u.need, 1)
    OFFSET 0
) l
ORDER BY l.account_no, l.expires_at, l.lot_id
