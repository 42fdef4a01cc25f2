-- offline: builds the index of the key anew under a lock that nobody passes
--
-- The same key, with its columns in the order in which they are known: whoever asks for a saga by its key alone, as an operator
-- does with what a till's receipt shows, finds it by the index that guards it.
ALTER TABLE saga.saga
    DROP CONSTRAINT saga_key,
    ADD CONSTRAINT saga_key UNIQUE (business_id, key, operation, scope);
