-- What operations took, with the lots that it goes back to. A lot that is missing leaves its allocation in the answer.
SELECT p.operation_id, p.position, p.lot_id AS taken_from, p.amount, p.reversed, l.*
FROM unnest($1::uuid[]) AS u(id)
CROSS JOIN LATERAL (SELECT account_no FROM tender.operation WHERE operation_id = u.id OFFSET 0) o
CROSS JOIN LATERAL (SELECT * FROM tender.allocation WHERE operation_id = u.id ORDER BY position OFFSET 0) p
LEFT JOIN LATERAL (
    SELECT account_no, lot_id, original, remaining, held, expires_at, grace_until, funding, kind,
           operation_id AS issued_by, reward_id, times_expired
    FROM tender.lot WHERE account_no = o.account_no AND lot_id = p.lot_id OFFSET 0
) l ON true
ORDER BY p.operation_id, p.position
