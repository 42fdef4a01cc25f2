SELECT r.business_id, r.kind, r.reference, r.operation_id
FROM unnest($1::text[], $2::text[], $3::text[]) AS u(business_id, kind, reference)
CROSS JOIN LATERAL (
    SELECT * FROM tender.credit_reference
    WHERE business_id = u.business_id AND kind = u.kind AND reference = u.reference OFFSET 0
) r
