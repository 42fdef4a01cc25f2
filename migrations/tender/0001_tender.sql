-- What a tender stores: the same schema in the databases of points, store credit and digital rewards.
--
-- posted = sum of the account's entries = sum of its lots (remaining + held), always.
-- There are no foreign keys between these tables: the executor locks the account before it writes
-- anything that belongs to it, nothing here is ever deleted, and a key check per row would be a fifth of
-- a redemption's cost. The invariants (migrations/invariants/tender.sql) look for dangling rows.

CREATE SCHEMA IF NOT EXISTS tender;

-- One owner's value in one asset. Owner is a customer, or a reward that belongs to whoever bears it.
CREATE TABLE tender.account (
    account_no  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    business_id text        NOT NULL,
    owner       text        NOT NULL,
    asset       text        NOT NULL,
    posted      bigint      NOT NULL DEFAULT 0,
    held        bigint      NOT NULL DEFAULT 0,
    version     bigint      NOT NULL DEFAULT 0,
    status      text        NOT NULL DEFAULT 'active',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- One account per owner and asset; also how a command finds its account.
    CONSTRAINT account_owner_once UNIQUE (business_id, owner, asset),
    -- Value never goes below zero, and nobody holds more than there is.
    CONSTRAINT account_held_within_posted CHECK (0 <= held AND held <= posted),
    CONSTRAINT account_version_not_negative CHECK (version >= 0),
    CONSTRAINT account_status_known CHECK (status IN ('active', 'frozen', 'closed'))
) WITH (fillfactor = 70); -- Every posting updates its account: room for heap-only updates.

-- A parcel of value with one origin, funding and expiry. `lot_id` is a UUIDv7: its order is age.
CREATE TABLE tender.lot (
    account_no   bigint      NOT NULL,
    lot_id       uuid        NOT NULL,
    original     bigint      NOT NULL,
    remaining    bigint      NOT NULL,
    held         bigint      NOT NULL DEFAULT 0,
    expires_at   timestamptz,
    grace_until  timestamptz,
    funding      text        NOT NULL,
    kind         text        NOT NULL,
    operation_id uuid        NOT NULL,
    reward_id    uuid,
    created_at   timestamptz NOT NULL,
    -- True once nothing is left. It changes once in a lot's life (and back by a reversal), so the partial
    -- index below costs a heap-only update nothing while a lot is being spent.
    spent        boolean     NOT NULL GENERATED ALWAYS AS (remaining + held = 0) STORED,
    PRIMARY KEY (account_no, lot_id),
    CONSTRAINT lot_remaining_not_negative CHECK (remaining >= 0),
    CONSTRAINT lot_held_not_negative CHECK (held >= 0),
    -- What comes back to a lot is at most what left it.
    CONSTRAINT lot_remaining_within_original CHECK (remaining <= original - held),
    CONSTRAINT lot_original_positive CHECK (original > 0),
    CONSTRAINT lot_grace_after_expiry CHECK (grace_until IS NULL OR grace_until >= expires_at),
    CONSTRAINT lot_funding_known CHECK (funding IN ('paid', 'promo', 'refund'))
) WITH (fillfactor = 70);
-- Lots in the order of spending: soonest-expiring first (none last), then oldest. Spent lots are left
-- out, so that the cost of a redemption does not grow with a customer's history.
CREATE INDEX lot_unspent ON tender.lot (account_no, expires_at, lot_id) WHERE NOT spent;
-- A reward is one lot.
CREATE UNIQUE INDEX lot_reward_once ON tender.lot (reward_id) WHERE reward_id IS NOT NULL;

-- One row per idempotent command, declines included. The id is derived from the command's unique scope, so
-- the primary key is the idempotency key: unique for ever, and the only index that a look-up needs.
CREATE TABLE tender.operation (
    operation_id uuid        PRIMARY KEY,
    business_id  text        NOT NULL,
    account_no   bigint      NOT NULL,
    kind         text        NOT NULL,
    state        text        NOT NULL,
    amount       bigint      NOT NULL,
    -- Of the command's plan; null for a tombstone, which refuses whatever comes.
    request_hash bytea,
    -- The answer as it was given: json, not jsonb, keeps it byte for byte.
    response     json        NOT NULL,
    legs_id      uuid,
    leg          integer,
    -- The operation that a reversal gives back.
    reverses_id  uuid,
    -- Until when a hold is kept.
    hold_until   timestamptz,
    -- The saga's epoch when the leg came: for diagnosis, it decides nothing.
    epoch        bigint,
    order_id     text,
    -- Who and why: reference, reason, actor, metadata.
    details      jsonb,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    CONSTRAINT operation_amount_not_negative CHECK (amount >= 0),
    CONSTRAINT operation_kind_known CHECK (kind IN ('credit', 'debit', 'hold', 'reverse', 'cancel')),
    CONSTRAINT operation_state_known
        CHECK (state IN ('applied', 'held', 'declined', 'expired', 'reversed', 'tombstoned')),
    CONSTRAINT operation_leg_whole CHECK ((legs_id IS NULL) = (leg IS NULL))
);
-- Legs by age, for the wallet's search for legs without a saga. `state` stays out of it, so that its
-- changes remain heap-only updates.
CREATE INDEX operation_legs_by_age ON tender.operation (created_at, operation_id) WHERE legs_id IS NOT NULL;

-- A credit's reference in the retailer's books, used at most once per kind.
CREATE TABLE tender.credit_reference (
    business_id  text NOT NULL,
    kind         text NOT NULL,
    reference    text NOT NULL,
    operation_id uuid NOT NULL,
    CONSTRAINT credit_reference_once PRIMARY KEY (business_id, kind, reference)
);

-- Which lots an operation took or holds, in the order of taking, so that a reversal returns to exactly
-- those. `reversed` counts what went back; it only grows.
CREATE TABLE tender.allocation (
    operation_id uuid     NOT NULL,
    position     smallint NOT NULL,
    lot_id       uuid     NOT NULL,
    amount       bigint   NOT NULL,
    reversed     bigint   NOT NULL DEFAULT 0,
    PRIMARY KEY (operation_id, position),
    CONSTRAINT allocation_amount_positive CHECK (amount > 0),
    CONSTRAINT allocation_reversed_within_amount CHECK (0 <= reversed AND reversed <= amount)
);

-- Each return to a lot: by a reversal (another operation), or by a cancel, a release or a capture's rest
-- (the operation itself).
CREATE TABLE tender.allocation_reversal (
    operation_id    uuid        NOT NULL, -- the operation that took
    position        smallint    NOT NULL,
    by_operation_id uuid        NOT NULL, -- the operation that gave back
    amount          bigint      NOT NULL,
    created_at      timestamptz NOT NULL,
    CONSTRAINT allocation_reversal_amount_positive CHECK (amount > 0)
);
-- Not unique: a captured hold gives its rest back, and a later cancel the remainder, under one id.
CREATE INDEX allocation_reversal_of ON tender.allocation_reversal (operation_id, position);

-- The double-entry ledger. A movement of value is two rows: the account's (account_no, version, balances
-- after) and the programme's (contra). Contra rows are appended only: no row there is ever locked.
-- A hold or a release moves nothing between accounts, but changes what is available: one row of amount 0
-- on the account's side, so that the account's version counts it.
CREATE TABLE tender.entry (
    operation_id  uuid        NOT NULL,
    business_id   text        NOT NULL,
    asset         text        NOT NULL,
    kind          text        NOT NULL,
    amount        bigint      NOT NULL, -- signed; every operation sums to zero per asset
    account_no    bigint,
    version       bigint,
    balance_after bigint,               -- posted
    held_after    bigint,
    contra        text,                 -- 'redeemed', 'issued:paid', 'issued:promo', 'issued:refund'
    created_at    timestamptz NOT NULL,
    CONSTRAINT entry_one_side CHECK (num_nonnulls(account_no, contra) = 1),
    CONSTRAINT entry_account_side_whole
        CHECK (num_nonnulls(account_no, version, balance_after, held_after) IN (0, 4)),
    CONSTRAINT entry_kind_known
        CHECK (kind IN ('credit', 'debit', 'hold', 'release', 'capture', 'reverse', 'cancel')),
    CONSTRAINT entry_balance_not_negative CHECK (0 <= held_after AND held_after <= balance_after)
);
-- No version of an account twice: with versions counted up under the account's lock, none is missing.
-- It is also how a customer's history is read.
CREATE UNIQUE INDEX entry_version_once ON tender.entry (account_no, version) WHERE account_no IS NOT NULL;

-- Balance changes on their way to Redis; a published row is deleted.
CREATE TABLE tender.outbox (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    business_id text        NOT NULL,
    owner       text        NOT NULL,
    asset       text        NOT NULL,
    version     bigint      NOT NULL,
    payload     jsonb       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- ── What the database itself refuses ────────────────────────────────────────────────────────────────

CREATE FUNCTION tender.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on %.% is refused: it is append only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

-- Per statement, so that even a change that matches no row is refused, and TRUNCATE with it.
CREATE TRIGGER entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tender.entry
    FOR EACH STATEMENT EXECUTE FUNCTION tender.refuse_change();
CREATE TRIGGER allocation_reversal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tender.allocation_reversal
    FOR EACH STATEMENT EXECUTE FUNCTION tender.refuse_change();
CREATE TRIGGER credit_reference_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tender.credit_reference
    FOR EACH STATEMENT EXECUTE FUNCTION tender.refuse_change();
CREATE TRIGGER allocation_kept BEFORE DELETE OR TRUNCATE ON tender.allocation
    FOR EACH STATEMENT EXECUTE FUNCTION tender.refuse_change();
CREATE TRIGGER operation_kept BEFORE DELETE OR TRUNCATE ON tender.operation
    FOR EACH STATEMENT EXECUTE FUNCTION tender.refuse_change();
CREATE TRIGGER lot_kept BEFORE DELETE OR TRUNCATE ON tender.lot
    FOR EACH STATEMENT EXECUTE FUNCTION tender.refuse_change();
CREATE TRIGGER account_kept BEFORE DELETE OR TRUNCATE ON tender.account
    FOR EACH STATEMENT EXECUTE FUNCTION tender.refuse_change();

CREATE FUNCTION tender.check_allocation_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.reversed < OLD.reversed
       OR (NEW.operation_id, NEW.position, NEW.lot_id, NEW.amount)
          IS DISTINCT FROM (OLD.operation_id, OLD.position, OLD.lot_id, OLD.amount) THEN
        RAISE EXCEPTION 'an allocation may only be reversed further' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER allocation_only_reversed BEFORE UPDATE ON tender.allocation
    FOR EACH ROW EXECUTE FUNCTION tender.check_allocation_update();

CREATE FUNCTION tender.check_entries_balance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added GROUP BY operation_id, asset HAVING sum(amount) <> 0) THEN
        RAISE EXCEPTION 'the entries of an operation do not sum to zero' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER entry_balanced AFTER INSERT ON tender.entry
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION tender.check_entries_balance();

-- ALWAYS: also where session_replication_role would switch triggers off.
ALTER TABLE tender.entry ENABLE ALWAYS TRIGGER entry_append_only;
ALTER TABLE tender.entry ENABLE ALWAYS TRIGGER entry_balanced;
ALTER TABLE tender.allocation_reversal ENABLE ALWAYS TRIGGER allocation_reversal_append_only;
ALTER TABLE tender.credit_reference ENABLE ALWAYS TRIGGER credit_reference_append_only;
ALTER TABLE tender.allocation ENABLE ALWAYS TRIGGER allocation_kept;
ALTER TABLE tender.allocation ENABLE ALWAYS TRIGGER allocation_only_reversed;
ALTER TABLE tender.operation ENABLE ALWAYS TRIGGER operation_kept;
ALTER TABLE tender.lot ENABLE ALWAYS TRIGGER lot_kept;
ALTER TABLE tender.account ENABLE ALWAYS TRIGGER account_kept;

-- ── Least privilege ─────────────────────────────────────────────────────────────────────────────────

-- Roles belong to the whole cluster, so another tender's migration may be creating it at this moment.
DO $$ BEGIN
    CREATE ROLE tender_writer NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END $$;

GRANT USAGE ON SCHEMA tender TO tender_writer;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA tender TO tender_writer;
GRANT UPDATE (posted, held, version, status) ON tender.account TO tender_writer;
GRANT UPDATE (remaining, held, expires_at, grace_until) ON tender.lot TO tender_writer;
GRANT UPDATE (state, amount, response, updated_at) ON tender.operation TO tender_writer;
GRANT UPDATE (reversed) ON tender.allocation TO tender_writer;
GRANT DELETE ON tender.outbox TO tender_writer;
-- Claiming rows (FOR UPDATE SKIP LOCKED) needs the right to update a column; this one can't be set.
GRANT UPDATE (id) ON tender.outbox TO tender_writer;
