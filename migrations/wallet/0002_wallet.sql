-- The redemption: what a till sees. Moved only by its sagas, inside their transactions.

CREATE SCHEMA wallet;
GRANT USAGE ON SCHEMA wallet TO wallet_writer;

CREATE TABLE wallet.redemption (
    redemption_id   uuid        PRIMARY KEY,           -- the id of the saga that made it
    business_id     text        NOT NULL,
    customer_id     text        NOT NULL,
    order_id        text        NOT NULL,
    location_id     text,
    terminal_id     text,
    operator_id     text,
    sequence        bigint,
    currency        text        NOT NULL,
    amount          bigint      NOT NULL,              -- minor units that the till asked for
    redeemed        bigint      NOT NULL DEFAULT 0,    -- minor units that the legs cover
    returned        bigint      NOT NULL DEFAULT 0,    -- minor units reserved for, or done by, refunds and reversals
    status          text        NOT NULL,
    reversal        text,                              -- of a declined one: pending | done
    hold_expires_at timestamptz,
    cancel_requested boolean    NOT NULL DEFAULT false,-- give it back once what it is in the middle of is done
    tenders         jsonb       NOT NULL DEFAULT '[]', -- the legs, as the till sees them
    metadata        jsonb       NOT NULL DEFAULT '{}',
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at    timestamptz,
    CONSTRAINT redemption_amount_positive CHECK (amount > 0),
    CONSTRAINT redemption_redeemed_within_amount CHECK (redeemed BETWEEN 0 AND amount),
    -- The sum of refunds never exceeds what was redeemed, here first.
    CONSTRAINT redemption_returned_within_redeemed CHECK (returned BETWEEN 0 AND redeemed),
    CONSTRAINT redemption_status_known CHECK (status IN ('pending', 'completed', 'authorized', 'capturing', 'partially_refunded',
        'refunded', 'voided', 'expired', 'declined', 'reversing', 'reversed', 'under_review', 'resolved')),
    CONSTRAINT redemption_reversal_known CHECK (reversal IN ('pending', 'done'))
);
-- A till's second guard: it retries with another key, but with the same sequence.
CREATE UNIQUE INDEX redemption_sequence
    ON wallet.redemption (business_id, location_id, terminal_id, order_id, sequence)
    WHERE sequence IS NOT NULL AND status IN ('pending', 'authorized', 'capturing', 'completed', 'under_review');
-- Pages of a customer's redemptions, newest first (the id is a UUIDv7).
CREATE INDEX redemption_customer ON wallet.redemption (business_id, customer_id, redemption_id);
CREATE INDEX redemption_order ON wallet.redemption (business_id, order_id, redemption_id);
-- Holds that ran out are looked for every second.
CREATE INDEX redemption_holds ON wallet.redemption (hold_expires_at) WHERE status = 'authorized';
CREATE INDEX redemption_cancel_requested ON wallet.redemption (redemption_id) WHERE cancel_requested;
-- A balance shows what unfinished redemptions of the customer may have taken.
CREATE INDEX redemption_open ON wallet.redemption (business_id, customer_id)
    WHERE status IN ('pending', 'capturing', 'reversing', 'under_review') OR reversal = 'pending';
GRANT SELECT, INSERT, UPDATE ON wallet.redemption TO wallet_writer;

-- How far each tender's legs were compared with sagas.
CREATE TABLE wallet.reconciliation (
    tender      text        PRIMARY KEY,
    cursor      text        NOT NULL,
    compared_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT SELECT, INSERT, UPDATE ON wallet.reconciliation TO wallet_writer;
