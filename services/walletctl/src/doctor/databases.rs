//! The four databases: reachable, up to date, and in the hands of roles that may do no more than they must.

use std::{str::FromStr, time::Duration};

use schema::Database;
use service::Clock;
use sqlx::{PgConnection, postgres::PgConnectOptions};

use super::{About, Check, clock};
use crate::{databases::DEVELOPMENT_PASSWORD, environment::Environment};

/// How long connecting may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a service's role must not be, as columns of pg_roles.
const ATTRIBUTES: &str = "SELECT a.name FROM pg_roles r CROSS JOIN LATERAL (VALUES
         ('superuser', r.rolsuper), ('createdb', r.rolcreatedb), ('createrole', r.rolcreaterole),
         ('replication', r.rolreplication), ('bypassrls', r.rolbypassrls)) AS a(name, has)
     WHERE r.rolname = current_user AND a.has";

/// Tables that the role owns, by itself or through a role that it is a member of: an owner may drop its triggers.
const OWNED: &str =
    "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND n.nspname NOT LIKE 'pg\\_%'
       AND pg_has_role(current_user, c.relowner, 'MEMBER')";

/// What a trigger of history refuses, the role must not be granted in the first place.
const GRANTED: &str = "SELECT DISTINCT privilege.name || ' on ' || c.oid::regclass
     FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
     CROSS JOIN LATERAL (VALUES ('DELETE', 8), ('UPDATE', 16), ('TRUNCATE', 32)) AS privilege(name, bit)
     WHERE t.tgname ~ '(_append_only|_kept|_no_truncate)$' AND t.tgtype & privilege.bit <> 0
       AND (has_table_privilege(current_user, c.oid, privilege.name)
            OR (privilege.name = 'UPDATE' AND has_any_column_privilege(current_user, c.oid, 'UPDATE')))
     ORDER BY 1";

/// Triggers of history that a session could switch off.
const WEAK: &str =
    "SELECT c.oid::regclass || '.' || t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
     WHERE t.tgname ~ '(_append_only|_kept|_no_truncate)$' AND t.tgenabled <> 'A' ORDER BY 1";

/// Settings without which an acknowledged commit may be lost.
const UNSAFE: &str = "SELECT name FROM pg_settings
     WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit') AND setting = 'off'";

/// Looks at every database.
pub(super) async fn check(environment: &Environment) -> Vec<Check> {
    let mut checks = Vec::new();
    for database in Database::ALL {
        checks.extend(one(environment, database).await);
        checks.push(migrations(environment, database).await);
    }
    checks
}

async fn one(environment: &Environment, database: Database) -> Vec<Check> {
    const REACHABLE: &str = "reachable";
    let subject = format!("database {}", database.name());
    let (about, variable) = (About(&subject), database.url_variable());
    let Some(url) = environment.get(variable) else {
        return vec![about.skipped(REACHABLE, format!("{variable} is not set"))];
    };
    let mut connection = match connect(&url).await {
        Ok(connection) => connection,
        Err(error) => {
            let mend = format!(
                "Start PostgreSQL, or correct {variable}; walletctl migrate makes databases and roles."
            );
            return vec![about.wrong(REACHABLE, error.to_string(), mend)];
        }
    };
    let mut checks = vec![about.ok(REACHABLE, "connected with the service's role")];
    checks.push(password(&about, &url, environment.require_development("").is_ok()));
    match facts(environment, &about, &mut connection).await {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(about.wrong(
            "its catalogue can be read",
            error.to_string(),
            "Look at the server's log.",
        )),
    }
    checks
}

/// What is in the repository is no secret.
fn password(about: &About<'_>, url: &str, is_development: bool) -> Check {
    const CHECK: &str = "its password is a secret";
    let known = format!(":{DEVELOPMENT_PASSWORD}@");
    if is_development || !url.contains(&known) {
        return about.ok(CHECK, "not the one in docker-compose.yml");
    }
    let mend = "Put another password into its URL; walletctl migrate gives it to the role.";
    about.wrong(CHECK, "the one in docker-compose.yml", mend)
}

async fn connect(url: &str) -> sqlx::Result<PgConnection> {
    let connecting = <PgConnection as sqlx::Connection>::connect(url);
    tokio::time::timeout(TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())))
}

async fn facts(
    environment: &Environment,
    about: &About<'_>,
    connection: &mut PgConnection,
) -> sqlx::Result<Vec<Check>> {
    let before = Clock.now().timestamp_millis();
    let theirs: i64 = sqlx::query_scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        .fetch_one(&mut *connection)
        .await?;
    let mut checks = vec![clock(about, theirs, before, Clock.now().timestamp_millis())];
    for (check, query, mend) in [
        (
            "its role has no special rights",
            ATTRIBUTES,
            "ALTER ROLE … NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS, or use the role that walletctl migrate makes.",
        ),
        (
            "its role owns no tables",
            OWNED,
            "Migrate as an administrator (ADMIN_DATABASE_URL), and give the tables to that role: ALTER TABLE … OWNER TO …",
        ),
        (
            "its role cannot change history",
            GRANTED,
            "REVOKE what is named from the role and from the roles that it is a member of.",
        ),
        ("triggers that keep history are always on", WEAK, "ALTER TABLE … ENABLE ALWAYS TRIGGER …"),
    ] {
        let found: Vec<String> = sqlx::query_scalar(query).fetch_all(&mut *connection).await?;
        checks.push(about.none(check, &found, mend));
    }
    let off: Vec<String> = sqlx::query_scalar(UNSAFE).fetch_all(connection).await?;
    checks.push(durable(about, &off, environment.require_development("").is_ok()));
    Ok(checks)
}

fn durable(about: &About<'_>, off: &[String], is_development: bool) -> Check {
    const CHECK: &str = "commits are durable";
    match off {
        [] => about.ok(CHECK, "fsync, full_page_writes and synchronous_commit are on"),
        off if is_development => about.ok(CHECK, format!("{} off, in development", off.join(", "))),
        off => about.wrong(
            CHECK,
            format!("{} off", off.join(", ")),
            "Switch it on in postgresql.conf: what was acknowledged may be lost otherwise.",
        ),
    }
}

/// Which migrations were applied is the administrator's to see.
async fn migrations(environment: &Environment, database: Database) -> Check {
    const CHECK: &str = "migrations up to date";
    let subject = format!("database {}", database.name());
    let about = About(&subject);
    let (Some(admin), Some(url)) =
        (environment.get("ADMIN_DATABASE_URL"), environment.get(database.url_variable()))
    else {
        return about.skipped(CHECK, format!("ADMIN_DATABASE_URL or {} is not set", database.url_variable()));
    };
    let pending = async {
        let name = PgConnectOptions::from_str(&url)?.get_database().map(str::to_owned);
        let options = PgConnectOptions::from_str(&admin)?.database(&name.unwrap_or_default());
        let connecting = <PgConnection as sqlx::Connection>::connect_with(&options);
        schema::pending(&mut connecting.await?, database).await
    };
    let mend = "Run walletctl migrate with the version that is to serve.";
    match tokio::time::timeout(TIMEOUT, pending).await {
        Ok(Ok(pending)) => about.none(CHECK, &pending, mend),
        Ok(Err(error)) => about.wrong(CHECK, format!("cannot be read: {error:#}"), mend),
        Err(_) => about.wrong(CHECK, "no answer in time", "Look at the server's log."),
    }
}
