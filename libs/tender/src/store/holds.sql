-- What the open holds of each account have set aside, the first to end first: at most $2 holds of an account.
SELECT h.account_no, h.operation_id, h.held_until, p.lot_id, p.amount - p.reversed AS units
FROM unnest($1::bigint[]) AS u(account_no)
CROSS JOIN LATERAL (
    SELECT account_no, operation_id, held_until FROM tender.operation
    WHERE account_no = u.account_no AND held_until IS NOT NULL
    ORDER BY held_until
    LIMIT $2
) h
CROSS JOIN LATERAL (SELECT * FROM tender.allocation WHERE operation_id = h.operation_id OFFSET 0) p
