-- offline: adds a checked column to operations, which old processes do not write
--
-- Hashes of requests carry the version of the rules that they were made by: a retry is judged by the rules of its first use.
ALTER TABLE tender.operation
    -- Of `api::derive::RequestHash`; null for a tombstone, which came of no request.
    ADD COLUMN hash_version smallint,
    -- No hash is without its version: it could be compared with nothing.
    ADD CONSTRAINT operation_hash_has_version CHECK ((request_hash IS NULL) = (hash_version IS NULL)),
    -- A hash is a SHA-256: what is shorter could be another request's.
    ADD CONSTRAINT operation_hash_is_whole CHECK (octet_length(request_hash) = 32);
