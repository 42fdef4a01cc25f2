-- offline: adds generated columns to lots, which rewrites them, and builds indexes in the plain way
--
-- Work on an account is bounded whatever it has: what a batch looks for among its lots is found by an index that holds
-- nothing else, and what was left of a lot at its end is moved out by an operation of its own.

ALTER TABLE tender.lot
    -- From then on nothing can be spent of it; a lot without an end never lapses.
    ADD COLUMN ends_at timestamptz GENERATED ALWAYS AS (coalesce(grace_until, expires_at)) STORED,
    -- Something of it can be taken, or lapse. Like `spent` it changes once in a lot's life (and back by a return), so that
    -- the partial indexes below cost a heap-only update nothing while a lot is being spent.
    ADD COLUMN free boolean NOT NULL GENERATED ALWAYS AS (remaining > 0) STORED,
    -- How often what was left of it has been moved out: a return may give back to a lot that has lapsed, which lapses again.
    -- The operation's id is derived from the lot and this number.
    ADD COLUMN times_expired integer NOT NULL DEFAULT 0,
    ADD CONSTRAINT lot_expired_only_with_an_end CHECK (times_expired >= 0 AND (times_expired = 0 OR expires_at IS NOT NULL));

-- What can be taken, in the order of spending: lots that are held to their last unit are not passed over on the way.
CREATE INDEX lot_free ON tender.lot (account_no, expires_at, lot_id) WHERE free;
-- What has lapsed and is still in its account's balance.
CREATE INDEX lot_ends ON tender.lot (account_no, ends_at, lot_id) WHERE free AND ends_at IS NOT NULL;

GRANT UPDATE (times_expired) ON tender.lot TO tender_writer;

-- An operation `expire` takes what was left of one lot at its end; its entry's other side is `expired`.
ALTER TABLE tender.operation
    DROP CONSTRAINT operation_kind_known,
    ADD CONSTRAINT operation_kind_known
        CHECK (kind IN ('credit', 'debit', 'hold', 'reverse', 'cancel', 'expire')),
    -- Of value that is gone there is nothing to decide.
    ADD CONSTRAINT operation_expire_applied CHECK (kind <> 'expire' OR (state = 'applied' AND amount > 0));
ALTER TABLE tender.entry
    DROP CONSTRAINT entry_kind_known,
    ADD CONSTRAINT entry_kind_known
        CHECK (kind IN ('credit', 'debit', 'hold', 'release', 'capture', 'reverse', 'cancel', 'expire'));
