//! Whether processes of a service use a database, and keeping them out of it.

use std::time::Duration;

use anyhow::ensure;
use sqlx::{AssertSqlSafe, PgConnection};

/// How often it is looked for sessions before it is believed that there are none: a process whose connections just broke is
/// back within a second.
const LOOKS: u32 = 3;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Sessions of login roles that act as the service.
const SESSIONS: &str = "
    SELECT DISTINCT format('%s as %s from %s', coalesce(nullif(a.application_name, ''), 'a session'), a.usename,
                           coalesce(host(a.client_addr), 'a local socket'))
    FROM pg_stat_activity a
    JOIN pg_auth_members m ON m.member = a.usesysid
    JOIN pg_roles w ON w.oid = m.roleid
    WHERE w.rolname = $1 AND a.datname = current_database() AND a.pid <> pg_backend_pid()
    ORDER BY 1 LIMIT 20";

/// Who may connect, as far as the service's login roles may by it: they themselves, their group, and everybody; quoted.
const MAY_CONNECT: &str = "
    SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
    FROM pg_database d
    CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) acl
    JOIN pg_roles w ON w.rolname = $1
    LEFT JOIN pg_auth_members m ON m.roleid = w.oid AND m.member = acl.grantee
    WHERE d.datname = current_database() AND acl.privilege_type = 'CONNECT'
      AND (acl.grantee IN (0, w.oid) OR m.member IS NOT NULL)
    ORDER BY 1";

/// The right to connect, taken from the service for now.
#[derive(Debug)]
pub(super) struct RevokedConnect {
    /// The roles that had it, quoted.
    grantees: Vec<String>,
}

/// Sees to it that no process of the service uses the database, and that none comes.
///
/// # Errors
/// While one does, with the names of its sessions; nothing is changed then.
pub(super) async fn revoke_connect(owner: &mut PgConnection, writer: &str) -> anyhow::Result<RevokedConnect> {
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        refuse_while_used(owner, writer).await?;
    }
    let grantees = sqlx::query_scalar(MAY_CONNECT).bind(writer).fetch_all(&mut *owner).await?;
    let revoked = RevokedConnect { grantees };
    revoked.apply(owner, "REVOKE CONNECT ON DATABASE %I FROM %s").await?;
    // A process may have come between the last look and the revocation.
    if let Err(error) = refuse_while_used(owner, writer).await {
        return Err(revoked.give_back_after(owner, error).await);
    }
    Ok(revoked)
}

async fn refuse_while_used(owner: &mut PgConnection, writer: &str) -> anyhow::Result<()> {
    let sessions: Vec<String> = sqlx::query_scalar(SESSIONS).bind(writer).fetch_all(owner).await?;
    ensure!(
        sessions.is_empty(),
        "stop every process of the service first; connected are: {}",
        sessions.join(", ")
    );
    Ok(())
}

impl RevokedConnect {
    /// Lets the service in again.
    pub(super) async fn give_back(&self, owner: &mut PgConnection) -> sqlx::Result<()> {
        self.apply(owner, "GRANT CONNECT ON DATABASE %I TO %s").await
    }

    /// Lets the service in again after an error, which is what is told.
    pub(super) async fn give_back_after(
        &self,
        owner: &mut PgConnection,
        error: anyhow::Error,
    ) -> anyhow::Error {
        match self.give_back(owner).await {
            Ok(()) => error,
            Err(shut) => {
                error.context(format!("the service may not connect until the next migration ({shut})"))
            }
        }
    }

    /// For all of them or for none.
    async fn apply(&self, owner: &mut PgConnection, template: &str) -> sqlx::Result<()> {
        if self.grantees.is_empty() {
            return Ok(());
        }
        let statement: String = sqlx::query_scalar("SELECT format($1, current_database(), $2::text)")
            .bind(template)
            .bind(self.grantees.join(", "))
            .fetch_one(&mut *owner)
            .await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(owner).await.map(drop)
    }
}
