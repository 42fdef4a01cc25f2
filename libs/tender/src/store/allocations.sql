-- What operations took, with the lots that it goes back to.
SELECT p.operation_id, p.amount, p.reversed, l.account_no, l.lot_id, l.original, l.remaining, l.held,
       l.expires_at, l.grace_until, l.funding, l.kind, l.operation_id AS issued_by, l.reward_id
FROM unnest($1::uuid[]) AS u(id)
CROSS JOIN LATERAL (SELECT account_no FROM tender.operation WHERE operation_id = u.id OFFSET 0) o
CROSS JOIN LATERAL (SELECT * FROM tender.allocation WHERE operation_id = u.id ORDER BY position OFFSET 0) p
CROSS JOIN LATERAL (
    SELECT * FROM tender.lot WHERE account_no = o.account_no AND lot_id = p.lot_id OFFSET 0
) l
ORDER BY p.operation_id, p.position
