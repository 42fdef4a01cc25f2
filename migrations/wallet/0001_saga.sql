-- Sagas, their owners, their history and their dead letters. No word of wallets: the plan is the domain's.
--
-- Roles: `wallet_writer` is what the wallet's processes act as. It owns nothing, and has no DELETE or TRUNCATE where
-- history is kept.

CREATE SCHEMA saga;

DO $$
BEGIN
    CREATE ROLE wallet_writer NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- roles belong to the cluster: another database's migration may have been first
END $$;
GRANT USAGE ON SCHEMA saga TO wallet_writer;

-- One heartbeat row a process, instead of a lease a saga: the happy path renews nothing.
CREATE TABLE saga.process (
    process_id uuid PRIMARY KEY,                       -- fresh at every start, so that a restart never looks alive
    name       text        NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    beat_at    timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
GRANT SELECT, INSERT, UPDATE, DELETE ON saga.process TO wallet_writer;

CREATE TABLE saga.saga (
    saga_id         uuid        PRIMARY KEY,           -- UUIDv7: neighbours in time are neighbours on disk
    business_id     text        NOT NULL,
    operation       text        NOT NULL,
    scope           text        NOT NULL,              -- '' or the customer whose own token it was
    key             text        NOT NULL,
    request_hash    bytea       NOT NULL,
    kind            smallint    NOT NULL,              -- 0 compensable, 1 forward-only
    version         smallint    NOT NULL,              -- of the plan's format
    legs_id         uuid        NOT NULL,              -- under which participants know the legs
    parent_id       uuid,                              -- the saga whose effect this one takes further (a reversal's redemption)
    plan            jsonb       NOT NULL,
    state           smallint    NOT NULL,              -- 0 running, 1 compensating, 2 completed, 3 compensated, 4 dead letter, 5 resolved
    backward        boolean     NOT NULL DEFAULT false,-- the direction, once decided; write-once
    epoch           bigint      NOT NULL,
    owner           uuid,                              -- a saga.process; null: nobody, free to claim
    poison          smallint    NOT NULL DEFAULT 0,    -- owners that died while running this
    key_cancelled   boolean     NOT NULL DEFAULT false,-- the key was cancelled: no answer but that one, ever
    answer_given    boolean     NOT NULL DEFAULT false,-- a caller has seen `response`: it is frozen
    cause           jsonb,                             -- why it was turned back
    response_status smallint,
    response        bytea,
    trace_id        text,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    deadline_at     timestamptz NOT NULL,
    budget_from     timestamptz NOT NULL,              -- where the time that unreachable participants may cost begins
    due_at          timestamptz NOT NULL,              -- past this a task that still runs counts as stuck
    ended_at        timestamptz,
    CONSTRAINT saga_state_known CHECK (state BETWEEN 0 AND 5),
    CONSTRAINT saga_direction_fits CHECK (
        (state <> 1 OR backward)                       -- compensating is the backward direction
        AND (state <> 2 OR NOT backward)               -- nothing turned back completes
        AND (kind = 0 OR NOT backward)),               -- forward-only never turns back
    CONSTRAINT saga_epoch_positive CHECK (epoch > 0),
    -- A key acts once, for ever.
    CONSTRAINT saga_key UNIQUE (business_id, operation, scope, key)
);
-- Recovery and rescans read the live sagas only, of which there are few.
CREATE INDEX saga_live ON saga.saga (owner) WHERE state IN (0, 1);
-- Reconciliation asks whether legs that a participant holds belong to a saga.
CREATE INDEX saga_legs ON saga.saga (legs_id);
CREATE INDEX saga_parent ON saga.saga (parent_id) WHERE parent_id IS NOT NULL;
GRANT SELECT, INSERT, UPDATE ON saga.saga TO wallet_writer;

-- What left the happy path. With the plan and the answers it draws a saga's timeline. Append only.
CREATE TABLE saga.saga_event (
    event_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    saga_id  uuid        NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    epoch    bigint      NOT NULL,
    owner    uuid,
    event    text        NOT NULL,
    detail   jsonb       NOT NULL DEFAULT '{}'
);
CREATE INDEX saga_event_saga ON saga.saga_event (saga_id, event_id);
GRANT SELECT, INSERT ON saga.saga_event TO wallet_writer;

CREATE TABLE saga.dead_letter (
    dead_letter_id uuid        PRIMARY KEY DEFAULT gen_random_uuid(),
    saga_id        uuid        NOT NULL REFERENCES saga.saga,
    business_id    text        NOT NULL,
    code           text        NOT NULL,
    participant    text,
    detail         jsonb       NOT NULL,
    opened_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    closed_at      timestamptz,
    closed_as      text,
    CONSTRAINT dead_letter_closed_once CHECK ((closed_at IS NULL) = (closed_as IS NULL)),
    CONSTRAINT dead_letter_closing_known CHECK (closed_as IN ('replayed', 'resolved'))
);
-- An exhausted saga has exactly one open dead letter.
CREATE UNIQUE INDEX dead_letter_open ON saga.dead_letter (saga_id) WHERE closed_at IS NULL;
CREATE INDEX dead_letter_by_time ON saga.dead_letter (opened_at, dead_letter_id);
GRANT SELECT, INSERT, UPDATE (closed_at, closed_as) ON saga.dead_letter TO wallet_writer;

-- Everything that an operator did, or was refused. Append only.
CREATE TABLE saga.operator_action (
    action_id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    business_id    text        NOT NULL,
    operation_id   text        NOT NULL,
    at             timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor          text        NOT NULL,
    action         text        NOT NULL,
    dead_letter_id uuid,
    saga_id        uuid,
    reason         text        NOT NULL,
    reference      text,
    accepted       boolean     NOT NULL,
    before         jsonb       NOT NULL,
    after          jsonb       NOT NULL
);
-- The caller's operation id acts once on a dead letter; what was refused may be tried again.
CREATE UNIQUE INDEX operator_action_once ON saga.operator_action (business_id, operation_id, dead_letter_id) WHERE accepted;
GRANT SELECT, INSERT ON saga.operator_action TO wallet_writer;

CREATE FUNCTION saga.append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER saga_event_append_only BEFORE UPDATE OR DELETE ON saga.saga_event
    FOR EACH ROW EXECUTE FUNCTION saga.append_only();
CREATE TRIGGER saga_event_no_truncate BEFORE TRUNCATE ON saga.saga_event
    FOR EACH STATEMENT EXECUTE FUNCTION saga.append_only();
CREATE TRIGGER operator_action_append_only BEFORE UPDATE OR DELETE ON saga.operator_action
    FOR EACH ROW EXECUTE FUNCTION saga.append_only();
CREATE TRIGGER operator_action_no_truncate BEFORE TRUNCATE ON saga.operator_action
    FOR EACH STATEMENT EXECUTE FUNCTION saga.append_only();
-- Also for sessions that set session_replication_role.
ALTER TABLE saga.saga_event ENABLE ALWAYS TRIGGER saga_event_append_only;
ALTER TABLE saga.saga_event ENABLE ALWAYS TRIGGER saga_event_no_truncate;
ALTER TABLE saga.operator_action ENABLE ALWAYS TRIGGER operator_action_append_only;
ALTER TABLE saga.operator_action ENABLE ALWAYS TRIGGER operator_action_no_truncate;

-- Rules of a saga row that no writer may break, whatever its code says.
CREATE FUNCTION saga.saga_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.epoch < OLD.epoch THEN
        RAISE EXCEPTION 'a saga''s epoch never decreases' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.backward AND NOT NEW.backward THEN
        RAISE EXCEPTION 'a saga''s direction is write-once' USING ERRCODE = 'restrict_violation';
    END IF;
    IF OLD.state IN (2, 3, 5) AND NEW.state <> OLD.state THEN
        RAISE EXCEPTION 'a terminal saga stays as it is' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER saga_guard BEFORE UPDATE ON saga.saga FOR EACH ROW EXECUTE FUNCTION saga.saga_guard();
