-- offline: builds indexes on sagas and redemptions in the plain way, and rewrites the outbox
--
-- What every redemption paid for, though few need it.

-- The rules of a saga's row as before, but judged by conditions: the function runs only for a row that breaks one.
DROP TRIGGER saga_guard ON saga.saga;
DROP FUNCTION saga.saga_guard();
CREATE FUNCTION saga.refuse_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER saga_epoch_never_decreases BEFORE UPDATE ON saga.saga FOR EACH ROW
    WHEN (NEW.epoch < OLD.epoch)
    EXECUTE FUNCTION saga.refuse_transition('a saga''s epoch never decreases');
CREATE TRIGGER saga_direction_is_write_once BEFORE UPDATE ON saga.saga FOR EACH ROW
    WHEN (OLD.backward AND NOT NEW.backward)
    EXECUTE FUNCTION saga.refuse_transition('a saga''s direction is write-once');
CREATE TRIGGER saga_terminal_stays BEFORE UPDATE ON saga.saga FOR EACH ROW
    WHEN (OLD.state IN (2, 3, 5) AND NEW.state <> OLD.state)
    EXECUTE FUNCTION saga.refuse_transition('a terminal saga stays as it is');

-- Which legs operators are having taken back is asked once a batch; there are few, ever.
CREATE INDEX saga_orphans ON saga.saga (legs_id) WHERE operation = 'orphan';

-- Lists by state or status: of what did not simply complete. What completed is found at the end of the table, and pays for none
-- of these.
CREATE INDEX saga_of_state ON saga.saga (business_id, state, saga_id) WHERE state NOT IN (0, 1, 2);
CREATE INDEX redemption_of_status ON wallet.redemption (business_id, status, redemption_id)
    WHERE status NOT IN ('pending', 'completed');

-- One row of the outbox for each batch: a list of its events.
ALTER TABLE wallet.outbox ALTER COLUMN payload TYPE json USING json_build_array(payload);
