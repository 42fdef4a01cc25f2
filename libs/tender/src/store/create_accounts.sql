INSERT INTO tender.account (business_id, owner, asset)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) AS u(business_id, owner, asset)
ORDER BY 1, 2, 3
ON CONFLICT (business_id, owner, asset) DO NOTHING
