-- The codes of digital rewards. A code itself is never stored: HMAC(pepper, code) finds it, the last four
-- characters name it to a person.
CREATE TABLE tender.reward_code (
    business_id text        NOT NULL,
    code_hmac   bytea       NOT NULL,
    reward_id   uuid        NOT NULL,
    last_four   text        NOT NULL,
    -- A blocked reward answers like an unknown one.
    blocked     boolean     NOT NULL DEFAULT false,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Also how a code is resolved.
    CONSTRAINT reward_code_once PRIMARY KEY (business_id, code_hmac),
    -- One code per reward.
    CONSTRAINT reward_code_reward_once UNIQUE (reward_id),
    CONSTRAINT reward_code_hmac_is_sha256 CHECK (octet_length(code_hmac) = 32)
);

GRANT SELECT, INSERT ON tender.reward_code TO tender_writer;
GRANT UPDATE (blocked) ON tender.reward_code TO tender_writer;
