-- What became of redemptions, on its way to a stream in Redis; a published row is deleted. Written in the transaction of
-- the transition that it tells of: an event is there if, and only if, what it tells happened.
CREATE TABLE wallet.outbox (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payload    jsonb       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT, INSERT, DELETE ON wallet.outbox TO wallet_writer;
-- Claiming rows (FOR UPDATE SKIP LOCKED) needs the right to update a column; this one can't be set.
GRANT UPDATE (id) ON wallet.outbox TO wallet_writer;
