UPDATE saga.saga AS s SET
    state = u.to_state,
    epoch = s.epoch + CASE WHEN u.owner IS NULL THEN 0 ELSE 1 END,
    owner = coalesce(u.owner, s.owner),
    backward = s.backward OR u.backward,
    key_cancelled = s.key_cancelled OR u.cancel_key,
    poison = 0,
    cause = coalesce(u.cause::jsonb, s.cause),
    -- An answer that somebody has seen is the answer for ever.
    response_status = CASE WHEN s.answer_given THEN s.response_status ELSE coalesce(u.response_status, s.response_status) END,
    response = CASE WHEN s.answer_given THEN s.response ELSE coalesce(u.response, s.response) END,
    budget_from = CASE WHEN u.backward AND NOT s.backward THEN clock_timestamp() ELSE s.budget_from END,
    due_at = clock_timestamp() + make_interval(secs => u.due_ms / 1000.0),
    ended_at = CASE WHEN u.to_state IN (2, 3, 5) THEN clock_timestamp() END
FROM unnest($1::uuid[], $2::smallint[], $3::bigint[], $4::smallint[], $5::uuid[], $6::boolean[], $7::boolean[],
    $8::text[], $9::smallint[], $10::bytea[], $11::bigint[])
    AS u(saga_id, from_state, epoch, to_state, owner, backward, cancel_key, cause, response_status, response, due_ms)
WHERE s.saga_id = u.saga_id AND s.state = u.from_state AND s.epoch = u.epoch
RETURNING s.saga_id, s.answer_given
