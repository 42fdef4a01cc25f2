-- offline: builds indexes on dead letters and actions in the plain way
--
-- What operators do with many dead letters at once, and with tenders; and what their lists and gauges read.

-- Lists of dead letters, oldest first.
CREATE INDEX dead_letter_of_business ON saga.dead_letter (business_id, opened_at, dead_letter_id);
DROP INDEX saga.dead_letter_by_time; -- nobody lists the dead letters of all businesses
-- Of these there are few: what is asked for most, and counted every few seconds.
CREATE INDEX dead_letter_unfinished ON saga.dead_letter (business_id, opened_at, dead_letter_id) WHERE closed_at IS NULL;
CREATE INDEX dead_letter_open_code ON saga.dead_letter (code) WHERE closed_at IS NULL;
-- All dead letters of one saga.
CREATE INDEX dead_letter_saga ON saga.dead_letter (saga_id, opened_at);

-- An action may be about a participant in the place of a dead letter.
ALTER TABLE saga.operator_action ADD COLUMN participant text;
CREATE INDEX operator_action_of_business ON saga.operator_action (business_id, action_id);
CREATE INDEX operator_action_dead_letter ON saga.operator_action (dead_letter_id) WHERE dead_letter_id IS NOT NULL;
-- The caller's operation id acts once where it is not about one dead letter; what was refused may be tried again.
CREATE UNIQUE INDEX operator_action_alone ON saga.operator_action (business_id, operation_id)
    WHERE accepted AND dead_letter_id IS NULL;

-- A replay of many dead letters. Its members are fixed when it is made; whichever process owns it carries it out.
CREATE TABLE saga.bulk_replay (
    bulk_id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    business_id  text        NOT NULL,
    operation_id text        NOT NULL,
    request_hash bytea       NOT NULL,
    filter       jsonb       NOT NULL,                 -- as it was asked for
    rate         integer     NOT NULL,                 -- dead letters a second, at most
    actor        text        NOT NULL,
    reason       text        NOT NULL,
    matched      bigint      NOT NULL,                 -- members
    truncated    boolean     NOT NULL,                 -- more matched than a replay may have
    owner        uuid,                                 -- a saga.process; null: nobody, free to claim
    started_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at  timestamptz,
    CONSTRAINT bulk_replay_rate CHECK (rate BETWEEN 1 AND 500),
    -- The caller's operation id makes one, ever.
    CONSTRAINT bulk_replay_once UNIQUE (business_id, operation_id)
);
CREATE INDEX bulk_replay_running ON saga.bulk_replay (bulk_id) WHERE finished_at IS NULL;
GRANT SELECT, INSERT, UPDATE (owner, finished_at) ON saga.bulk_replay TO wallet_writer;

CREATE TABLE saga.bulk_replay_item (
    bulk_id        bigint      NOT NULL REFERENCES saga.bulk_replay,
    dead_letter_id uuid        NOT NULL REFERENCES saga.dead_letter,
    position       integer     NOT NULL,               -- oldest first
    outcome        text,                               -- null: not yet its turn
    detail         text,                               -- why it was refused
    done_at        timestamptz,
    PRIMARY KEY (bulk_id, dead_letter_id),
    CONSTRAINT bulk_replay_item_outcome CHECK (outcome IN ('replayed', 'already_closed', 'refused')),
    CONSTRAINT bulk_replay_item_done CHECK ((outcome IS NULL) = (done_at IS NULL)),
    CONSTRAINT bulk_replay_item_refused_why CHECK ((outcome = 'refused') = (detail IS NOT NULL))
);
-- Whose turn it is.
CREATE INDEX bulk_replay_item_open ON saga.bulk_replay_item (bulk_id, position) WHERE outcome IS NULL;
-- How many were done within the last second: the pace is kept across processes.
CREATE INDEX bulk_replay_item_pace ON saga.bulk_replay_item (bulk_id, done_at) WHERE done_at IS NOT NULL;
GRANT SELECT, INSERT, UPDATE (outcome, detail, done_at) ON saga.bulk_replay_item TO wallet_writer;

-- Tenders that a business has taken out of service for new redemptions. Who did so, and who put them back, is in
-- saga.operator_action.
CREATE TABLE wallet.paused_tender (
    business_id text        NOT NULL,
    tender      text        NOT NULL,
    paused_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor       text        NOT NULL,
    reason      text        NOT NULL,
    PRIMARY KEY (business_id, tender)
);
GRANT SELECT, INSERT, DELETE ON wallet.paused_tender TO wallet_writer;
