//! Making and migrating the four databases.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, ensure};
use clap::Args;
use percent_encoding::percent_decode_str;
use reqwest::Url;
use schema::{Database, Target};
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

use crate::{environment::Environment, output};

/// What `walletctl migrate` takes.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    /// Drop the databases first (development only).
    #[arg(long)]
    fresh: bool,
    /// Print the services' database URLs, one NAME=value a line.
    #[arg(long)]
    print_env: bool,
    /// Seconds that the migrations of a database may take, waits for locks included.
    #[arg(long, default_value_t = schema::WITHIN.as_secs())]
    within: u64,
}

/// The password of every role in `docker-compose.yml`: no secret.
pub const DEVELOPMENT_PASSWORD: &str = "development";

/// Makes and migrates the databases that the `…_DATABASE_URL`s name, on the server and with the rights of
/// `ADMIN_DATABASE_URL`. Where a service has no URL yet it gets one, with a password of its own.
///
/// # Errors
/// When the server cannot be used, a migration cannot be applied, or a service's password is the one that everybody knows.
pub async fn migrate(environment: &Environment, arguments: &MigrateArgs) -> anyhow::Result<()> {
    let admin = environment.require("ADMIN_DATABASE_URL")?;
    let server = PgConnectOptions::from_str(&admin).ok().context("ADMIN_DATABASE_URL cannot be read")?;
    for database in Database::ALL {
        let name = database.url_variable();
        let url = match environment.get(name) {
            Some(url) => url,
            None => service_url(&admin, database)?,
        };
        let login = Login::of(&url).with_context(|| format!("{name} cannot be read"))?;
        if login.password == DEVELOPMENT_PASSWORD {
            environment.require_development("the password in docker-compose.yml")?;
        }
        if arguments.fresh {
            environment.require_development("--fresh")?;
            drop_database(&server, &login.database).await?;
        }
        let target = Target { database, name: &login.database, role: &login.role, password: &login.password };
        let applied = schema::provision(&server, &target, Duration::from_secs(arguments.within)).await?;
        for one in applied {
            // Standard output is for what a shell sources.
            eprintln!("{}: {} applied, attempts: {}", database.name(), one.name, one.attempts);
        }
        if arguments.print_env {
            output::line(format!("{name}={url}"));
        }
    }
    Ok(())
}

/// The admin's URL, with the service's own role, a new password and its own database.
fn service_url(admin: &str, database: Database) -> anyhow::Result<String> {
    let mut url = Url::parse(admin).ok().context("ADMIN_DATABASE_URL is not a URL")?;
    let password = uuid::Uuid::new_v4().simple().to_string();
    let is_set = url.set_username(database.name()).and_then(|()| url.set_password(Some(&password)));
    ensure!(is_set.is_ok(), "ADMIN_DATABASE_URL has no host");
    url.set_path(database.name());
    Ok(url.into())
}

#[derive(Debug, PartialEq, Eq)]
struct Login {
    role: String,
    password: String,
    database: String,
}

impl Login {
    fn of(url: &str) -> anyhow::Result<Self> {
        let url = Url::parse(url).ok().context("not a URL")?;
        let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        let login = Self {
            role: decode(url.username())?,
            password: decode(url.password().context("without a password")?)?,
            database: decode(url.path().trim_start_matches('/'))?,
        };
        ensure!(!login.role.is_empty() && !login.database.is_empty(), "without a role or a database");
        Ok(login)
    }
}

async fn drop_database(server: &PgConnectOptions, name: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect_with(server).await.context("cannot connect to the server")?;
    let statement: String =
        sqlx::query_scalar("SELECT format('DROP DATABASE IF EXISTS %I WITH (FORCE)', $1::text)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
    connection.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_password_of_development_stays_there() {
        let compose = include_str!("../../../docker-compose.yml");
        assert!(
            compose.contains(&format!("postgres://wallet:{DEVELOPMENT_PASSWORD}@")),
            "it is the one in use"
        );
        let url = |database: Database| {
            format!("{}=postgres://a:{DEVELOPMENT_PASSWORD}@127.0.0.1:1/a\n", database.url_variable())
        };
        let urls: String = Database::ALL.into_iter().map(url).collect();
        let arguments = MigrateArgs { fresh: false, print_env: false, within: 1 };
        let refused = async |app_env| {
            let admin = "ADMIN_DATABASE_URL=postgres://postgres@127.0.0.1:1/postgres";
            let environment = Environment::of(&format!("APP_ENV={app_env}\n{admin}\n{urls}"));
            format!("{:#}", migrate(&environment, &arguments).await.unwrap_err())
        };
        assert!(refused("production").await.contains("the password in docker-compose.yml"));
        assert!(refused("development").await.contains("cannot connect to the server"));
    }

    #[test]
    fn a_service_gets_a_login_of_its_own_on_the_admins_server() {
        let url =
            service_url("postgres://root:secret@db.example:5433/postgres?sslmode=require", Database::Points)
                .unwrap();
        assert!(url.contains("@db.example:5433/points?sslmode=require"), "{url}");
        assert!(!url.contains("secret"), "{url}");
        let login = Login::of(&url).unwrap();
        assert_eq!((login.role.as_str(), login.database.as_str()), ("points", "points"));
        assert_eq!(Login::of("postgres://a:p%40ss@h/d").unwrap().password, "p@ss");
        assert!(Login::of("postgres://a@h/d").is_err());
    }
}
