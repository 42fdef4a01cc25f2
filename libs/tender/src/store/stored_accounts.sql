SELECT a.*
FROM unnest($1::text[], $2::text[], $3::text[]) AS u(business_id, owner, asset)
CROSS JOIN LATERAL (
    SELECT business_id, owner, asset FROM tender.account
    WHERE business_id = u.business_id AND owner = u.owner AND asset = u.asset OFFSET 0
) a
