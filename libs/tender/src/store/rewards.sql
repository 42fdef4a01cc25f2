SELECT l.account_no, l.lot_id, l.original, l.remaining, l.held, l.expires_at, l.grace_until, l.funding, l.kind,
       l.operation_id AS issued_by, l.reward_id, l.times_expired
FROM unnest($1::bigint[], $2::uuid[]) AS u(account_no, reward_id)
CROSS JOIN LATERAL (
    SELECT * FROM tender.lot WHERE reward_id = u.reward_id AND account_no = u.account_no OFFSET 0
) l
