//! A code for each new reward.

use api::BusinessId;
use futures_util::future::BoxFuture;
use service::ApiError;
use sqlx::PgPool;
use tender::rules::{Issued, Issuer};
use uuid::Uuid;

use crate::{
    code::{Pepper, last_four},
    pepper::{Peppers, RecordError},
};

/// Tries to keep a code: the first code of a pepper, made by two processes at once, takes the slower one two.
const TRIES: u32 = 2;

/// A code and, if it is the first, its pepper's record; nothing if the record is that of another secret, or if the reward has a code. A
/// record that another process writes at this moment is not seen: the next try sees it.
const KEEP: &str = "
WITH recorded AS (
    INSERT INTO tender.reward_pepper (version, fingerprint)
    SELECT $5::smallint, $6::bytea WHERE NOT EXISTS (SELECT FROM tender.reward_code WHERE reward_id = $3::uuid)
    ON CONFLICT DO NOTHING RETURNING version
)
INSERT INTO tender.reward_code (business_id, code_hmac, reward_id, last_four, pepper_version)
SELECT $1::text, $2::bytea, $3::uuid, $4::text, $5::smallint
WHERE EXISTS (SELECT FROM recorded)
   OR EXISTS (SELECT FROM tender.reward_pepper WHERE version = $5::smallint AND fingerprint = $6::bytea)
ON CONFLICT (reward_id) DO NOTHING";

/// Under which pepper a reward's code was made when it was made first.
const MADE_WITH: &str = "SELECT pepper_version FROM tender.reward_code WHERE reward_id = $1";

/// Derives codes, and keeps their hashes before the value exists: a code without value answers like an unknown
/// one, value without a code would be lost to its bearer.
#[derive(Debug, Clone)]
pub struct CodeIssuer {
    pool: PgPool,
    peppers: Peppers,
}

impl CodeIssuer {
    /// New codes under the first of these peppers, kept in the service's own database.
    #[must_use]
    pub fn new(pool: PgPool, peppers: impl Into<Peppers>) -> Self {
        Self { pool, peppers: peppers.into() }
    }

    async fn issue(&self, business: &BusinessId, reward_id: Uuid) -> Result<Issued, ApiError> {
        let (version, pepper) = self.peppers.issuing();
        let code = pepper.code(reward_id);
        for _ in 0..TRIES {
            if self.keep(business, reward_id, &code, version, pepper).await? {
                return Ok(Issued { reward_id, code });
            }
            let made_with: Option<i16> =
                sqlx::query_scalar(MADE_WITH).bind(reward_id).fetch_optional(&self.pool).await?;
            if let Some(version) = made_with {
                return self.shown(reward_id, version);
            }
        }
        Err(ApiError::internal(&RecordError::Other(version)))
    }

    /// It was issued before: a repeated request shows the code that was shown then, whichever pepper is for new codes now.
    fn shown(&self, reward_id: Uuid, version: i16) -> Result<Issued, ApiError> {
        let pepper = self.peppers.version(version);
        let pepper = pepper.ok_or_else(|| ApiError::internal(&RecordError::Missing(version)))?;
        Ok(Issued { reward_id, code: pepper.code(reward_id) })
    }

    /// False if nothing was kept.
    async fn keep(
        &self,
        business: &BusinessId,
        reward_id: Uuid,
        code: &str,
        version: i16,
        pepper: &Pepper,
    ) -> sqlx::Result<bool> {
        let hash = pepper.hash(business, code);
        let kept = sqlx::query(KEEP)
            .bind(business.as_str())
            .bind(hash.as_ref().map(<[u8; 32]>::as_slice))
            .bind(reward_id)
            .bind(last_four(code))
            .bind(version)
            .bind(pepper.fingerprint().as_slice())
            .execute(&self.pool)
            .await?;
        Ok(kept.rows_affected() > 0)
    }
}

impl Issuer for CodeIssuer {
    fn issue<'a>(
        &'a self,
        business_id: &'a BusinessId,
        reward_id: Uuid,
    ) -> BoxFuture<'a, Result<Issued, ApiError>> {
        Box::pin(self.issue(business_id, reward_id))
    }
}
