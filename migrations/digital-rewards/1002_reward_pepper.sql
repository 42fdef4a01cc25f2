-- offline: the version before issues codes without saying under which pepper
--
-- A pepper can be replaced: beside each code stands the version of the pepper that it was made with. New codes are made with the one that
-- the configuration names first.

-- The peppers that codes were made with. The fingerprint, a MAC under the pepper, shows a process that was given another
-- secret under a known version: with it, no code of that version would be found. Append only.
CREATE TABLE tender.reward_pepper (
    version     smallint    PRIMARY KEY,
    fingerprint bytea       NOT NULL,
    first_used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT reward_pepper_version_positive CHECK (version > 0),
    CONSTRAINT reward_pepper_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32)
);
CREATE TRIGGER reward_pepper_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON tender.reward_pepper
    FOR EACH STATEMENT EXECUTE FUNCTION tender.refuse_change();
ALTER TABLE tender.reward_pepper ENABLE ALWAYS TRIGGER reward_pepper_append_only;
GRANT SELECT, INSERT ON tender.reward_pepper TO tender_writer;

-- Until now there was one pepper, which counts as version 1.
ALTER TABLE tender.reward_code ADD COLUMN pepper_version smallint NOT NULL DEFAULT 1;
ALTER TABLE tender.reward_code ALTER COLUMN pepper_version DROP DEFAULT;
-- No code is made with a pepper that is not on record. Not validated: the record of version 1 is made by the first process
-- that has its pepper.
ALTER TABLE tender.reward_code ADD CONSTRAINT reward_code_pepper_on_record
    FOREIGN KEY (pepper_version) REFERENCES tender.reward_pepper (version) NOT VALID;
