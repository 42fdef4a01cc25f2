-- Each account's spendable lots in the order of spending, up to a limit that few accounts reach.
SELECT l.*
FROM unnest($1::bigint[]) AS u(account_no)
CROSS JOIN LATERAL (
    SELECT account_no, lot_id, original, remaining, held, expires_at, grace_until, funding, kind,
           operation_id AS issued_by, reward_id
    FROM tender.lot
    WHERE account_no = u.account_no AND NOT spent AND remaining > 0
      AND coalesce(grace_until, expires_at, 'infinity') > $2
    ORDER BY expires_at, lot_id
    LIMIT $3
) l
