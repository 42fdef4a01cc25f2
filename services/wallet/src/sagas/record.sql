-- New redemptions and moves of redemptions, with one row of the outbox for the events that they make: a list. The id of an
-- event is drawn here, once, so that whoever hears of it twice can tell.
WITH opened AS (
    INSERT INTO wallet.redemption (redemption_id, business_id, customer_id, order_id, location_id, terminal_id,
        operator_id, sequence, currency, amount, status, reversal, metadata, created_at)
    SELECT u.redemption_id, u.business_id, u.customer_id, u.order_id, u.location_id, u.terminal_id, u.operator_id,
        u.sequence, u.currency, u.amount, u.status, CASE WHEN u.status = 'declined' THEN 'done' END, u.metadata::jsonb,
        s.created_at
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[],
        $9::text[], $10::bigint[], $11::text[], $12::text[])
        AS u(redemption_id, business_id, customer_id, order_id, location_id, terminal_id, operator_id, sequence,
            currency, amount, status, metadata)
    CROSS JOIN LATERAL (SELECT created_at FROM saga.saga WHERE saga_id = u.redemption_id OFFSET 0) AS s
    RETURNING redemption_id, business_id, customer_id, order_id, status, reversal, currency, amount, redeemed
), moved AS (
    UPDATE wallet.redemption AS r SET
        status = u.status,
        reversal = u.reversal,
        redeemed = coalesce(u.redeemed, r.redeemed),
        -- Being returned reserves everything, so that nothing else can give the same value back.
        returned = CASE WHEN u.status IN ('reversing', 'reversed', 'voided', 'expired')
                   THEN coalesce(u.redeemed, r.redeemed) ELSE r.returned END,
        cancel_requested = r.cancel_requested AND u.status NOT IN ('reversed', 'voided', 'expired', 'resolved'),
        tenders = coalesce(u.tenders::jsonb, r.tenders),
        completed_at = coalesce(u.completed_at, r.completed_at),
        hold_expires_at = coalesce(u.hold_expires_at, r.hold_expires_at)
    FROM unnest($13::uuid[], $14::text[], $15::text[], $16::bigint[], $17::text[], $18::timestamptz[],
        $19::timestamptz[], $20::text[], $21::text[])
        AS u(redemption_id, status, reversal, redeemed, tenders, completed_at, hold_expires_at, event, trace_id)
    WHERE r.redemption_id = u.redemption_id
    RETURNING r.redemption_id, r.business_id, r.customer_id, r.order_id, r.status, r.reversal, r.currency, r.amount,
        r.redeemed, u.event, u.trace_id
), event AS (
    SELECT * FROM moved WHERE event IS NOT NULL
    UNION ALL
    -- What planning refuses is over as soon as it is there.
    SELECT o.*, o.status, s.trace_id
    FROM opened AS o
    CROSS JOIN LATERAL (SELECT trace_id FROM saga.saga WHERE saga_id = o.redemption_id OFFSET 0) AS s
    WHERE o.status = 'declined'
)
INSERT INTO wallet.outbox (payload)
SELECT json_agg(json_strip_nulls(json_build_object(
        'event_id', gen_random_uuid(), 'type', 'wallet.redemption_' || event, 'redemption_id', redemption_id,
        'business_id', business_id, 'customer_id', customer_id, 'order_id', order_id, 'status', status,
        'reversal', reversal, 'currency', currency, 'amount', amount, 'redeemed', redeemed, 'trace_id', trace_id,
        'at', to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')))
    ORDER BY redemption_id)
FROM event HAVING count(*) > 0
