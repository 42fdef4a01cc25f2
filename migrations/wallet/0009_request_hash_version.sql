-- offline: adds checked columns to sagas and replays, which old processes do not write
--
-- Hashes of requests carry the version of the rules that they were made by: a retry is judged by the rules of its first use.

-- A tombstone, a return and a stub came of no request that could be repeated: they have no hash, and version 0.
ALTER TABLE saga.saga
    -- Of `api::derive::RequestHash`.
    ADD COLUMN hash_version smallint NOT NULL DEFAULT 0,
    -- No hash is without its version, and a hash is a SHA-256: what is shorter could be another request's.
    ADD CONSTRAINT saga_hash_has_version CHECK (octet_length(request_hash) = CASE hash_version WHEN 0 THEN 0 ELSE 32 END);

ALTER TABLE saga.bulk_replay
    -- Of `api::derive::RequestHash`.
    ADD COLUMN hash_version smallint NOT NULL,
    -- A hash is a SHA-256: what is shorter could be another order's.
    ADD CONSTRAINT bulk_replay_hash_is_whole CHECK (octet_length(request_hash) = 32);
