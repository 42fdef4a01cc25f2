-- Rewards, each with whether it is blocked: read behind the lock of its account, so that nothing is taken of a reward whose block was
-- committed before. One that has no code cannot be blocked. Only a tender of rewards has the table of codes, and only its legs name rewards.
SELECT l.account_no, l.lot_id, l.original, l.remaining, l.held, l.expires_at, l.grace_until, l.funding, l.kind,
       l.operation_id AS issued_by, l.reward_id, l.times_expired, coalesce(c.blocked, false) AS blocked
FROM unnest($1::bigint[], $2::uuid[]) AS u(account_no, reward_id)
CROSS JOIN LATERAL (
    SELECT * FROM tender.lot WHERE reward_id = u.reward_id AND account_no = u.account_no OFFSET 0
) l
LEFT JOIN LATERAL (
    SELECT blocked FROM tender.reward_code WHERE reward_id = u.reward_id OFFSET 0
) c ON true
