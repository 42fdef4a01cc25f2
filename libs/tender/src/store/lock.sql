-- Locks the accounts in the order of their numbers, which no two batches take differently. A statement of
-- its own: one that both waits for a lock and reads would read what was there before the wait. The clock is
-- read behind the materialised rows, so after the last lock.
WITH locked AS MATERIALIZED (
    SELECT a.account_no, a.business_id, a.owner, a.asset, a.posted, a.held, a.version, a.status
    FROM tender.account a
    WHERE a.account_no = ANY (ARRAY(
        SELECT k.account_no
        FROM unnest($1::text[], $2::text[], $3::text[]) AS u(business_id, owner, asset)
        CROSS JOIN LATERAL (
            SELECT account_no FROM tender.account
            WHERE business_id = u.business_id AND owner = u.owner AND asset = u.asset OFFSET 0
        ) k
    ))
    ORDER BY a.account_no
    FOR UPDATE
)
SELECT locked.*, clock_timestamp() AS now FROM locked
