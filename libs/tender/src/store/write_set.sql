operation AS (
    INSERT INTO tender.operation (operation_id, business_id, account_no, kind, state, amount, request_hash, response,
                                  legs_id, leg, reverses_id, hold_until, epoch, order_id, details, created_at,
                                  updated_at, hash_version)
    SELECT u.id, u.business_id, u.account_no, u.kind, u.state, u.amount, u.request_hash, u.response::json, u.legs_id,
           u.leg, u.reverses_id, u.hold_until, u.epoch, u.order_id, u.details, $11, $11, u.hash_version
    FROM unnest($14::uuid[], $15::text[], $16::bigint[], $17::text[], $18::text[], $19::bigint[], $20::bytea[],
                $21::text[], $22::uuid[], $23::int[], $24::uuid[], $25::timestamptz[], $26::bigint[], $27::text[],
                $28::jsonb[], $44::smallint[])
         AS u(id, business_id, account_no, kind, state, amount, request_hash, response, legs_id, leg, reverses_id,
              hold_until, epoch, order_id, details, hash_version)
), allocation AS (
    INSERT INTO tender.allocation (operation_id, position, lot_id, amount, reversed)
    SELECT * FROM unnest($29::uuid[], $30::smallint[], $31::uuid[], $32::bigint[], $33::bigint[])
), lot AS (
    UPDATE tender.lot l SET remaining = u.remaining, held = u.held, times_expired = u.times_expired
    FROM unnest($34::bigint[], $35::uuid[], $36::bigint[], $37::bigint[], $38::int[])
         AS u(account_no, lot_id, remaining, held, times_expired)
    WHERE l.account_no = u.account_no AND l.lot_id = u.lot_id
    RETURNING 1
), account AS (
    UPDATE tender.account a SET posted = u.posted, held = u.held, version = u.version
    FROM unnest($39::bigint[], $40::bigint[], $41::bigint[], $42::bigint[]) AS u(account_no, posted, held, version)
    WHERE a.account_no = u.account_no
    RETURNING 1
), outbox AS (
    INSERT INTO tender.outbox (payload) SELECT $43::text::json WHERE $43 IS NOT NULL
)
SELECT (SELECT count(*) FROM lot) AS lots, (SELECT count(*) FROM account) AS accounts
