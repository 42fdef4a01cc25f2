SELECT o.operation_id, o.account_no, o.kind, o.state, o.amount, o.request_hash, o.hash_version, o.response::text AS response
FROM unnest($1::uuid[]) AS u(id)
CROSS JOIN LATERAL (SELECT * FROM tender.operation WHERE operation_id = u.id OFFSET 0) o
