-- What must always be true of the wallet's database. Each rule: its name, one line that says it, and a
-- query that returns the rows that break it. Each runs in a snapshot of its own.

-- check: dead_letter_is_open
-- I9: A saga in the dead-letter state has exactly one open dead letter, and no other saga has any.
SELECT s.saga_id, s.state, count(d.dead_letter_id) AS open
FROM saga.saga s
LEFT JOIN saga.dead_letter d ON d.saga_id = s.saga_id AND d.closed_at IS NULL
GROUP BY s.saga_id, s.state
HAVING count(d.dead_letter_id) <> (s.state = 4)::int;

-- check: dead_letter_closing_is_on_record
-- I9: Whoever closed a dead letter is on record, once.
SELECT d.dead_letter_id, d.closed_as, count(a.action_id) AS actions
FROM saga.dead_letter d
LEFT JOIN saga.operator_action a ON a.dead_letter_id = d.dead_letter_id AND a.accepted
WHERE d.closed_at IS NOT NULL
GROUP BY d.dead_letter_id, d.closed_as
HAVING count(a.action_id) <> 1;

-- check: bulk_replay_is_whole
-- I9: A replay of many has the members that it began with, and is finished only once each was dealt with.
SELECT b.bulk_id, b.matched, count(i.dead_letter_id) AS members, count(i.outcome) AS done, b.finished_at
FROM saga.bulk_replay b
LEFT JOIN saga.bulk_replay_item i USING (bulk_id)
GROUP BY b.bulk_id
HAVING count(i.dead_letter_id) <> b.matched OR (b.finished_at IS NOT NULL AND count(i.outcome) < b.matched);

-- check: bulk_replay_members_are_on_record
-- I9: What a replay of many took up again, it took up under its own name.
SELECT i.bulk_id, i.dead_letter_id
FROM saga.bulk_replay_item i
JOIN saga.bulk_replay b USING (bulk_id)
WHERE i.outcome = 'replayed'
  AND NOT EXISTS (
      SELECT FROM saga.operator_action a
      WHERE a.dead_letter_id = i.dead_letter_id AND a.operation_id = b.operation_id
        AND a.business_id = b.business_id AND a.action = 'replay' AND a.accepted);

-- check: ended_means_terminal
-- I5: A saga has an end exactly if it is completed, compensated or resolved.
SELECT saga_id, state, ended_at
FROM saga.saga
WHERE (state IN (2, 3, 5)) <> (ended_at IS NOT NULL);

-- check: unfinished_sagas_are_owned
-- I7: While a wallet lives, no unfinished saga is without a live owner for half a minute.
SELECT s.saga_id, s.state, s.owner, p.beat_at
FROM saga.saga s
LEFT JOIN saga.process p ON p.process_id = s.owner
WHERE s.state IN (0, 1)
  AND s.created_at < clock_timestamp() - interval '30 s'
  AND (p.beat_at IS NULL OR p.beat_at < clock_timestamp() - interval '30 s')
  AND EXISTS (SELECT FROM saga.process alive
              WHERE alive.beat_at > clock_timestamp() - interval '2 s'
                AND alive.started_at < clock_timestamp() - interval '30 s');

-- check: given_answers_are_stored
-- I19: What a caller was answered is stored, so that the same bytes can be given again.
SELECT saga_id, state
FROM saga.saga
WHERE answer_given AND response IS NULL;

-- check: redemption_fits_its_saga
-- I12: What a redemption is shown as is what its saga came to, and parked on its way back it holds no sequence.
SELECT r.redemption_id, r.status, r.reversal, s.state, s.backward
FROM wallet.redemption r
LEFT JOIN saga.saga s ON s.saga_id = r.redemption_id
WHERE s.saga_id IS NULL
   OR NOT CASE s.state
       WHEN 0 THEN r.status = 'pending'
       WHEN 1 THEN r.status = 'declined' AND r.reversal = 'pending'
       WHEN 2 THEN r.status NOT IN ('pending', 'declined')
       WHEN 3 THEN r.status = 'declined' AND r.reversal = 'done'
       WHEN 4 THEN r.status = 'under_review' AND (r.reversal IS NOT NULL) = s.backward
       WHEN 5 THEN r.status = 'resolved'
   END;

-- check: redemption_follows_what_moves_it
-- I12: While a saga takes a redemption further, that is what the redemption is shown as; once the saga is parked, as under review.
SELECT r.redemption_id, r.status, r.reversal, s.saga_id, s.state, s.plan ->> 'type' AS work
FROM saga.saga s
JOIN wallet.redemption r ON r.redemption_id = s.parent_id
WHERE s.kind = 1 AND s.state IN (0, 4)
  AND NOT CASE
      WHEN s.state = 4 THEN r.status = 'under_review' AND (r.reversal IS NOT NULL) = (s.plan ->> 'type' = 'reversal')
      WHEN s.plan ->> 'type' = 'capture' THEN r.status = 'capturing'
      ELSE r.status = 'reversing'
  END;

-- check: legs_sum_to_redeemed
-- I17: What a redemption covers is what its legs gave, leg by leg.
SELECT r.redemption_id, r.status, r.leg_taken, legs.given
FROM wallet.redemption r
CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(leg ->> 'leg', (leg ->> 'amount')::bigint) FILTER (WHERE (leg ->> 'amount')::bigint > 0) AS given
    FROM jsonb_array_elements(r.tenders) AS leg
) legs
CROSS JOIN LATERAL (
    SELECT jsonb_object_agg((number - 1)::text, amount) FILTER (WHERE amount > 0) AS taken
    FROM unnest(r.leg_taken) WITH ORDINALITY AS t(amount, number)
) legs_taken
WHERE legs.given IS DISTINCT FROM legs_taken.taken;

-- check: returned_within_redeemed
-- I6: No leg of a redemption gives back more than it took.
SELECT redemption_id, leg_taken, leg_returned
FROM wallet.redemption
WHERE EXISTS (
    SELECT FROM unnest(leg_taken, leg_returned) AS leg(taken, returned)
    WHERE coalesce(returned, 0) > coalesce(taken, 0));

-- check: reversed_means_all_is_returned
-- I8: A redemption that was reversed, voided or has expired has given back everything, and one on that way has reserved it.
SELECT redemption_id, status, leg_taken, leg_returned
FROM wallet.redemption
WHERE status IN ('reversing', 'reversed', 'voided', 'expired', 'refunded') AND returned <> redeemed;

-- check: children_are_in_their_redemptions_bucket
-- I7: What takes a redemption further is in its bucket: where the redemption is, there is all that may move it.
SELECT saga_id, parent_id, legs_id
FROM saga.saga
WHERE parent_id IS NOT NULL
  AND (get_byte(uuid_send(saga_id), 15) <> get_byte(uuid_send(parent_id), 15)
       OR (legs_id <> saga_id AND get_byte(uuid_send(legs_id), 0) <> get_byte(uuid_send(parent_id), 15)));
