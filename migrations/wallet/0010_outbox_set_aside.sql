-- Rows of the outbox that no relay could read, moved here in the transaction that takes them, so that one such row never stops
-- the others. Nothing reads this table: its rows are evidence, and an operator deletes them when their cause is mended.
CREATE TABLE wallet.outbox_set_aside (
    id           bigint      PRIMARY KEY,              -- as it was in the outbox: a row is set aside once
    payload      json        NOT NULL,
    error        text        NOT NULL,                 -- what could not be read
    set_aside_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT, INSERT ON wallet.outbox_set_aside TO wallet_writer;
