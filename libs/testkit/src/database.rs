//! A fresh, migrated database for one test.

use std::str::FromStr;

use anyhow::Context;
use schema::{Database, Target};
use service::config::Secret;
use sqlx::{AssertSqlSafe, Connection, PgConnection, postgres::PgConnectOptions};

/// Password of the roles that tests log in with.
const PASSWORD: &str = "test";

/// As `schema::provision`'s, but for templates: copying one while another session makes it would fail.
const TEMPLATE_LOCK: i64 = 0x0074_6573_7464_6200;

/// A database that lives as long as this value. When it is dropped, its invariants are checked first,
/// unless the test has failed already or asked for it not to be.
pub struct TestDatabase {
    database: Database,
    name: String,
    server: String,
    is_checked: bool,
}

impl TestDatabase {
    /// A new, empty, migrated database on the server that `TEST_DATABASE_URL` names.
    ///
    /// # Panics
    /// When `TEST_DATABASE_URL` is not set, or the server cannot be used.
    pub async fn create(database: Database) -> Self {
        let server = std::env::var("TEST_DATABASE_URL").expect(
            "TEST_DATABASE_URL is not set: name a PostgreSQL server on which tests may create databases, or run script/test",
        );
        Self::create_on(server, database).await
    }

    /// The same on a server of the caller's choice: a copy of a template that is made once for each set of migrations.
    ///
    /// # Panics
    /// When the server cannot be used.
    pub async fn create_on(server: String, database: Database) -> Self {
        let name = format!("t_{}_{}", database.name(), uuid::Uuid::new_v4().simple());
        let made = copy_template(&server, database, &name).await;
        made.unwrap_or_else(|error| panic!("cannot make a test database: {error:#}"));
        Self { database, name, server, is_checked: true }
    }

    /// For tests that break invariants on purpose.
    #[must_use]
    pub fn without_checks(mut self) -> Self {
        self.is_checked = false;
        self
    }

    /// URL with the service's own role, which may do what the service does and no more.
    ///
    /// # Panics
    /// When the server's URL cannot be read.
    #[must_use]
    pub fn url(&self) -> Secret {
        let options = options(&self.server, &self.name).expect("the server's URL");
        let role = role(self.database);
        let host = options.get_socket().map_or_else(
            || options.get_host().to_owned(),
            |socket| socket.to_string_lossy().replace('/', "%2F"),
        );
        let url = format!("postgres://{role}:{PASSWORD}@{host}:{}/{}", options.get_port(), self.name);
        Secret::from_str(&url).unwrap_or_else(|never| match never {})
    }

    /// Connection options of the owner, who may do everything.
    ///
    /// # Panics
    /// When the server's URL cannot be read.
    #[must_use]
    pub fn admin(&self) -> PgConnectOptions {
        options(&self.server, &self.name).expect("the server's URL")
    }

    /// Checks all invariants now.
    ///
    /// # Panics
    /// When one is broken, naming it and its rows.
    pub async fn verify(&self) {
        if let Err(error) = verify(&self.admin(), self.database).await {
            panic!("{error:#}");
        }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let is_checked = self.is_checked && !std::thread::panicking();
        let (admin, database, server, name) =
            (self.admin(), self.database, self.server.clone(), self.name.clone());
        // The test's own runtime may be the one that runs this: another thread has one to wait on.
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let checked = if is_checked { verify(&admin, database).await } else { Ok(()) };
                drop_database(&server, &name).await?;
                checked
            })
        };
        let result =
            std::thread::spawn(work).join().unwrap_or_else(|_| Err(anyhow::anyhow!("the clean-up panicked")));
        if let Err(error) = result
            && !std::thread::panicking()
        {
            panic!("{error:#}");
        }
    }
}

fn role(database: Database) -> String {
    format!("test_{}", database.name())
}

fn options(server: &str, name: &str) -> anyhow::Result<PgConnectOptions> {
    Ok(PgConnectOptions::from_str(server).context("the server's URL")?.database(name))
}

async fn verify(admin: &PgConnectOptions, database: Database) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect_with(admin).await?;
    for finding in schema::check(&mut connection, database).await? {
        anyhow::ensure!(
            finding.violations == 0,
            "{} ({}) is broken by {} rows: {:#?}",
            finding.name,
            finding.statement,
            finding.violations,
            finding.rows
        );
    }
    Ok(())
}

async fn copy_template(server: &str, database: Database, name: &str) -> anyhow::Result<()> {
    let admin = PgConnectOptions::from_str(server).context("the server's URL")?;
    let role = role(database);
    let template = format!("tpl_{}_{}", database.name(), database.fingerprint());
    let mut connection = PgConnection::connect_with(&admin).await.context("cannot connect to the server")?;
    sqlx::query("SELECT pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut connection).await?;
    // A template is finished once it is marked as one: a run that was killed half-way left none.
    let is_made: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1 AND datistemplate)")
            .bind(&template)
            .fetch_one(&mut connection)
            .await?;
    if !is_made {
        let target = Target { database, name: &template, role: &role, password: PASSWORD };
        schema::provision(&admin, &target, schema::WITHIN).await?;
        run(
            &mut connection,
            format!("ALTER DATABASE {template} WITH IS_TEMPLATE true ALLOW_CONNECTIONS false"),
        )
        .await?;
    }
    run(&mut connection, format!("CREATE DATABASE {name} TEMPLATE {template}")).await?;
    run(&mut connection, format!("REVOKE CONNECT, TEMPORARY ON DATABASE {name} FROM PUBLIC")).await?;
    run(&mut connection, format!("GRANT CONNECT ON DATABASE {name} TO {role}")).await?;
    connection.close().await?;
    Ok(())
}

async fn drop_database(server: &str, name: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect_with(&PgConnectOptions::from_str(server)?).await?;
    run(&mut connection, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
    connection.close().await?;
    Ok(())
}

/// Names come from this file: letters, digits and underscores.
async fn run(connection: &mut PgConnection, statement: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statement)).execute(connection).await.map(drop)
}
