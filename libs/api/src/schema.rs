//! What the OpenAPI documents say of types that know nothing of them.

use utoipa::ToSchema;

/// ISO 4217 code of the currency of all amounts beside it, which are in its minor units.
#[derive(Debug, ToSchema)]
#[schema(pattern = "^[A-Z]{3}$", example = "USD")]
pub struct CurrencyCode(#[expect(dead_code, reason = "only its schema is used")] String);
