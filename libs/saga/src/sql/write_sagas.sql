-- New sagas, then transitions. The answer has a row for each that was written.
WITH inserted AS (
    INSERT INTO saga.saga (saga_id, business_id, operation, scope, key, request_hash, kind, version, legs_id, parent_id,
        plan, state, epoch, owner, key_cancelled, response_status, response, trace_id,
        created_at, deadline_at, budget_from, due_at, ended_at)
    SELECT u.saga_id, u.business_id, u.operation, u.scope, u.key, u.request_hash, u.kind, u.version, u.legs_id, u.parent_id,
        u.plan::jsonb, u.state, 1, $18, u.key_cancelled, u.response_status, u.response, u.trace_id,
        now.at, now.at + make_interval(secs => u.deadline_ms / 1000.0), now.at,
        now.at + make_interval(secs => u.due_ms / 1000.0), CASE WHEN u.state IN (2, 3, 5) THEN now.at END
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::smallint[], $8::uuid[],
        $9::uuid[], $10::text[], $11::smallint[], $12::boolean[], $13::smallint[], $14::bytea[], $15::text[],
        $16::bigint[], $17::bigint[], $19::smallint[])
        AS u(saga_id, business_id, operation, scope, key, request_hash, kind, legs_id, parent_id, plan, state,
            key_cancelled, response_status, response, trace_id, deadline_ms, due_ms, version),
        (SELECT clock_timestamp() AS at OFFSET 0) AS now
    -- The key, or the legs: what an operator has had taken back is nobody else's any more.
    ON CONFLICT DO NOTHING
    RETURNING saga_id, created_at, deadline_at
), moved AS (
    UPDATE saga.saga AS s SET
        state = u.to_state,
        epoch = s.epoch + CASE WHEN u.owner IS NULL THEN 0 ELSE 1 END,
        owner = coalesce(u.owner, s.owner),
        backward = s.backward OR u.backward,
        key_cancelled = s.key_cancelled OR u.cancel_key,
        poison = 0,
        cause = coalesce(u.cause::jsonb, s.cause),
        -- An answer that somebody has seen is the answer for ever.
        response_status =
            CASE WHEN s.answer_given THEN s.response_status ELSE coalesce(u.response_status, s.response_status) END,
        response = CASE WHEN s.answer_given THEN s.response ELSE coalesce(u.response, s.response) END,
        budget_from = CASE WHEN u.backward AND NOT s.backward THEN clock_timestamp() ELSE s.budget_from END,
        due_at = clock_timestamp() + make_interval(secs => u.due_ms / 1000.0),
        ended_at = CASE WHEN u.to_state IN (2, 3, 5) THEN clock_timestamp() END
    FROM unnest($20::uuid[], $21::smallint[], $22::bigint[], $23::smallint[], $24::uuid[], $25::boolean[],
        $26::boolean[], $27::text[], $28::smallint[], $29::bytea[], $30::bigint[])
        AS u(saga_id, from_state, epoch, to_state, owner, backward, cancel_key, cause, response_status, response,
            due_ms)
    WHERE s.saga_id = u.saga_id AND s.state = u.from_state AND s.epoch = u.epoch
    RETURNING s.saga_id, s.answer_given
)
SELECT saga_id, created_at, deadline_at, NULL::boolean AS answer_given FROM inserted
UNION ALL
SELECT saga_id, NULL, NULL, answer_given FROM moved
