-- offline: totals of redemptions become derived columns, which the version before writes, and the table is rewritten

-- The redemption's states, and its amounts leg by leg.

-- ── Where a redemption stands ────────────────────────────────────────────────────────────────────

-- A redemption that never took effect says how far it has gone back; one under review may have been parked on that way. Nothing
-- else has a reversal.
UPDATE wallet.redemption SET reversal = CASE WHEN status = 'declined' THEN coalesce(reversal, 'done') END;
ALTER TABLE wallet.redemption ADD CONSTRAINT redemption_reversal_fits CHECK (
    CASE status WHEN 'declined' THEN reversal IS NOT NULL
                WHEN 'under_review' THEN reversal IS NULL OR reversal = 'pending'
                ELSE reversal IS NULL END);

-- What is on its way back holds no sequence, parked or not: the cashier's next attempt has the same one, and parking a saga must
-- not fail for it. The predicate is that of the guard in front of it (`redemption::status::holds_sequence`).
DROP INDEX wallet.redemption_sequence;
CREATE UNIQUE INDEX redemption_sequence
    ON wallet.redemption (business_id, location_id, terminal_id, order_id, sequence)
    WHERE sequence IS NOT NULL
      AND status IN ('pending', 'authorized', 'capturing', 'completed', 'partially_refunded', 'refunded', 'under_review')
      AND reversal IS NULL;

-- Redemptions that were not parked with their saga are looked for every second among dead letters, the newest first.
CREATE INDEX dead_letter_unfinished_by_time ON saga.dead_letter (opened_at, dead_letter_id) WHERE closed_at IS NULL;

-- ── What each leg took, and what of it goes back ─────────────────────────────────────────────────

-- Minor units by leg number, of which a request may name ten. Being returned reserves amounts here, in the transaction that writes
-- the saga which returns them, so that nothing else can give the same value back.
ALTER TABLE wallet.redemption
    ADD COLUMN leg_taken bigint[] NOT NULL DEFAULT '{}',
    ADD COLUMN leg_returned bigint[] NOT NULL DEFAULT '{}';
UPDATE wallet.redemption AS r SET leg_taken = legs.taken, leg_returned = CASE WHEN r.returned > 0 THEN legs.taken ELSE '{}' END
FROM (
    SELECT redemption_id, array_agg(coalesce(given.amount, 0) ORDER BY leg) AS taken
    FROM wallet.redemption,
        LATERAL (SELECT max((t ->> 'leg')::integer) AS last FROM jsonb_array_elements(tenders) AS t) AS of,
        LATERAL generate_series(0, of.last) AS leg
        LEFT JOIN LATERAL (
            SELECT (t ->> 'amount')::bigint AS amount FROM jsonb_array_elements(tenders) AS t WHERE (t ->> 'leg')::integer = leg
        ) AS given ON true
    GROUP BY redemption_id
) AS legs
WHERE legs.redemption_id = r.redemption_id;

-- No leg gives back more than it took: refunds and reversals together, here first.
ALTER TABLE wallet.redemption ADD CONSTRAINT redemption_legs_returned_within_taken CHECK (
    coalesce(leg_returned[1], 0) BETWEEN 0 AND coalesce(leg_taken[1], 0)
    AND coalesce(leg_returned[2], 0) BETWEEN 0 AND coalesce(leg_taken[2], 0)
    AND coalesce(leg_returned[3], 0) BETWEEN 0 AND coalesce(leg_taken[3], 0)
    AND coalesce(leg_returned[4], 0) BETWEEN 0 AND coalesce(leg_taken[4], 0)
    AND coalesce(leg_returned[5], 0) BETWEEN 0 AND coalesce(leg_taken[5], 0)
    AND coalesce(leg_returned[6], 0) BETWEEN 0 AND coalesce(leg_taken[6], 0)
    AND coalesce(leg_returned[7], 0) BETWEEN 0 AND coalesce(leg_taken[7], 0)
    AND coalesce(leg_returned[8], 0) BETWEEN 0 AND coalesce(leg_taken[8], 0)
    AND coalesce(leg_returned[9], 0) BETWEEN 0 AND coalesce(leg_taken[9], 0)
    AND coalesce(leg_returned[10], 0) BETWEEN 0 AND coalesce(leg_taken[10], 0));
-- Both are lists that begin with leg 0 and have no position that the comparison above does not see.
ALTER TABLE wallet.redemption ADD CONSTRAINT redemption_legs_are_at_most_ten CHECK (
    cardinality(leg_taken) = coalesce(array_upper(leg_taken, 1), 0) AND cardinality(leg_taken) <= 10
    AND cardinality(leg_returned) = coalesce(array_upper(leg_returned, 1), 0) AND cardinality(leg_returned) <= 10);

-- The totals are the sums of the legs, and cannot disagree with them.
ALTER TABLE wallet.redemption DROP COLUMN redeemed, DROP COLUMN returned;
ALTER TABLE wallet.redemption
    ADD COLUMN redeemed bigint NOT NULL GENERATED ALWAYS AS (
        coalesce(leg_taken[1], 0) + coalesce(leg_taken[2], 0) + coalesce(leg_taken[3], 0) + coalesce(leg_taken[4], 0)
        + coalesce(leg_taken[5], 0) + coalesce(leg_taken[6], 0) + coalesce(leg_taken[7], 0) + coalesce(leg_taken[8], 0)
        + coalesce(leg_taken[9], 0) + coalesce(leg_taken[10], 0)) STORED,
    ADD COLUMN returned bigint NOT NULL GENERATED ALWAYS AS (
        coalesce(leg_returned[1], 0) + coalesce(leg_returned[2], 0) + coalesce(leg_returned[3], 0)
        + coalesce(leg_returned[4], 0) + coalesce(leg_returned[5], 0) + coalesce(leg_returned[6], 0)
        + coalesce(leg_returned[7], 0) + coalesce(leg_returned[8], 0) + coalesce(leg_returned[9], 0)
        + coalesce(leg_returned[10], 0)) STORED,
    -- The wallet never covers more than the till asked for.
    ADD CONSTRAINT redemption_redeemed_within_amount CHECK (redeemed BETWEEN 0 AND amount);

-- ── Holds that outlived their saga ───────────────────────────────────────────────────────────────

-- Which capture, void or return takes a leg further is asked for legs that are held past their end, by the id under which tenders
-- know them, since their redemption may be lost. What takes nothing further is not in it.
CREATE INDEX saga_takes_further ON saga.saga ((plan ->> 'of')) WHERE kind = 1;

-- ── Answers ──────────────────────────────────────────────────────────────────────────────────────

-- An answer is for ever: none may be stored that says nothing. A saga whose answer cannot be written is parked instead.
ALTER TABLE saga.saga ADD CONSTRAINT saga_answer_not_empty CHECK (length(response) > 0);
