-- Locks the accounts in the order in which they are given, which is that of their keys: no two batches take them
-- differently. A statement of its own: one that both waits for a lock and reads would read what was there before the
-- wait. The clock is read behind each lock; the latest is behind them all.
SELECT a.*, clock_timestamp() AS now
FROM unnest($1::text[], $2::text[], $3::text[]) AS u(business_id, owner, asset)
CROSS JOIN LATERAL (
    SELECT account_no, business_id, owner, asset, posted, held, version, status
    FROM tender.account
    WHERE business_id = u.business_id AND owner = u.owner AND asset = u.asset
    FOR UPDATE
) a
