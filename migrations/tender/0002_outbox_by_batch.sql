-- offline: rewrites the outbox, which the version before writes in another form
--
-- One row of the outbox for each batch, a list of the messages of its accounts: a row for each message cost more than the
-- entries that it told of.
--
-- The old columns stay: nobody writes them.

ALTER TABLE tender.outbox
    ALTER COLUMN business_id DROP NOT NULL,
    ALTER COLUMN owner DROP NOT NULL,
    ALTER COLUMN asset DROP NOT NULL,
    ALTER COLUMN version DROP NOT NULL,
    ALTER COLUMN payload TYPE json USING json_build_array(payload);
