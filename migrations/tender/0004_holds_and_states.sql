-- offline: adds a generated column to operations, which rewrites them, and builds indexes in the plain way
--
-- Holds in force can be found by their end, and the database itself guards what an operation came to.

ALTER TABLE tender.operation
    -- Until when it holds, while it does. Null for debits from the first to the last, so that their changes of state remain
    -- heap-only updates.
    ADD COLUMN held_until timestamptz GENERATED ALWAYS AS (CASE WHEN state = 'held' THEN hold_until END) STORED;
-- Holds in force by their end, over all accounts: for the wallet's search for what nobody ends any more.
CREATE INDEX operation_holds_by_end ON tender.operation (held_until, operation_id) WHERE held_until IS NOT NULL;
-- Holds in force of one account: a refusal says when value becomes free.
CREATE INDEX operation_holds_of_account ON tender.operation (account_no, held_until) WHERE held_until IS NOT NULL;

-- What is in force ends once, and a hold may be captured first. Nothing else about an operation ever changes: a refusal never
-- becomes an effect, and an answer stands for as long as its state.
CREATE TRIGGER operation_state_guarded BEFORE UPDATE ON tender.operation
    FOR EACH ROW
    WHEN (NOT (OLD.state = 'held' AND NEW.state IN ('applied', 'reversed')
               OR OLD.state = 'applied' AND NEW.state = 'reversed'))
    EXECUTE FUNCTION tender.refuse_change();
ALTER TABLE tender.operation ENABLE ALWAYS TRIGGER operation_state_guarded;

-- Room for the one or two updates that captures and cancels make of some rows: those of debits and allocations are heap-only, and
-- those of holds, whose `held_until` is indexed, stay on their page.
ALTER TABLE tender.operation SET (fillfactor = 90);
ALTER TABLE tender.allocation SET (fillfactor = 90);

ALTER TABLE tender.operation
    -- A hold of nothing has no end: nobody has to look for it.
    ADD CONSTRAINT operation_hold_of_nothing_has_no_end
        CHECK (state <> 'held' OR amount > 0 OR hold_until IS NULL),
    -- What was recorded for an account that is not stored says whose that would be: its number, below zero, tells it to nobody.
    ADD CONSTRAINT operation_of_no_account_names_its_owner
        CHECK (account_no > 0 OR (details ->> 'owner' IS NOT NULL AND details ->> 'asset' IS NOT NULL));
