//! A code for each new reward.

use api::BusinessId;
use futures_util::future::BoxFuture;
use service::ApiError;
use sqlx::PgPool;
use tender::rules::{Issued, Issuer};
use uuid::Uuid;

use crate::code::{Pepper, last_four};

const KEEP: &str = "
INSERT INTO tender.reward_code (business_id, code_hmac, reward_id, last_four)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING";

/// Derives codes, and keeps their hashes before the value exists: a code without value answers like an unknown
/// one, value without a code would be lost to its bearer.
#[derive(Debug, Clone)]
pub struct CodeIssuer {
    pool: PgPool,
    pepper: Pepper,
}

impl CodeIssuer {
    /// Codes under this pepper, kept in the service's own database.
    #[must_use]
    pub fn new(pool: PgPool, pepper: Pepper) -> Self {
        Self { pool, pepper }
    }

    async fn keep(&self, business: &BusinessId, reward_id: Uuid) -> Result<Issued, ApiError> {
        let code = self.pepper.code(reward_id);
        let hash = self.pepper.hash(business, &code);
        sqlx::query(KEEP)
            .bind(business.as_str())
            .bind(hash.as_ref().map(<[u8; 32]>::as_slice))
            .bind(reward_id)
            .bind(last_four(&code))
            .execute(&self.pool)
            .await?;
        Ok(Issued { reward_id, code })
    }
}

impl Issuer for CodeIssuer {
    fn issue<'a>(
        &'a self,
        business_id: &'a BusinessId,
        reward_id: Uuid,
    ) -> BoxFuture<'a, Result<Issued, ApiError>> {
        Box::pin(self.keep(business_id, reward_id))
    }
}
