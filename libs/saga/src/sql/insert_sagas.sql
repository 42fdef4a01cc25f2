INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, parent_id,
    plan, state, epoch, owner, key_cancelled, response_status, response, trace_id,
    created_at, deadline_at, budget_from, due_at, ended_at)
SELECT u.saga_id, u.business_id, u.operation, u.scope, u.key, u.request_hash, u.kind, $19, u.legs_id, u.parent_id,
    u.plan::jsonb, u.state, 1, $18, u.key_cancelled, u.response_status, u.response, u.trace_id,
    now.at, now.at + make_interval(secs => u.deadline_ms / 1000.0), now.at,
    now.at + make_interval(secs => u.due_ms / 1000.0), CASE WHEN u.state IN (2, 3, 5) THEN now.at END
FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::smallint[], $8::uuid[],
    $9::uuid[], $10::text[], $11::smallint[], $12::boolean[], $13::smallint[], $14::bytea[], $15::text[],
    $16::bigint[], $17::bigint[])
    AS u(saga_id, business_id, operation, scope, key, request_hash, kind, legs_id, parent_id, plan, state,
        key_cancelled, response_status, response, trace_id, deadline_ms, due_ms),
    (SELECT clock_timestamp() AS at OFFSET 0) AS now
-- Legs that an operator is having taken back belong to nobody else until they are back.
WHERE NOT EXISTS (
    SELECT FROM saga.saga orphan
    WHERE orphan.legs_id = u.legs_id AND orphan.operation = 'orphan' AND orphan.state IN (0, 1))
ON CONFLICT ON CONSTRAINT saga_key DO NOTHING
RETURNING saga_id, created_at, deadline_at
