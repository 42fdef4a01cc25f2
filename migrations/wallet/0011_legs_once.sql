-- The legs under an id belong to one saga, for ever. Where a saga was lost, the till's retry of its key meets its own legs; an operator
-- who has such a leg taken back writes a row of operation `taken_back` under their id first, in the same transaction. Each of the
-- two waits at this index for the other's transaction, so that one of them is told no, and nobody keeps what was given back.
-- An orphan's own stub names legs that are not its own: it is no saga of theirs.
CREATE UNIQUE INDEX saga_legs_once ON saga.saga (legs_id) WHERE operation <> 'orphan';
DROP INDEX saga.saga_legs;
