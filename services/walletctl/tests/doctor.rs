//! `walletctl doctor` on real databases: silent about what is right, and clear about each thing that is not.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use schema::Database;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testkit::TestDatabase;

/// The databases, and a folder without a `.run/env`.
struct Patient {
    databases: Vec<(Database, TestDatabase)>,
    dir: PathBuf,
    variables: Vec<(String, String)>,
}

impl Drop for Patient {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Patient {
    async fn new() -> Self {
        let mut databases = Vec::new();
        let mut variables = vec![("APP_ENV".to_owned(), "development".to_owned())];
        for database in Database::ALL {
            let made = TestDatabase::create(database).await;
            variables.push((database.url_variable().to_owned(), made.url().expose().to_owned()));
            databases.push((database, made));
        }
        let server = std::env::var("TEST_DATABASE_URL").expect("TestDatabase asked for it");
        variables.push(("ADMIN_DATABASE_URL".to_owned(), server));
        variables.extend(std::env::var("TEST_REDIS_URL").map(|url| ("REDIS_URL".to_owned(), url)));
        let dir = std::env::temp_dir().join(format!("patient-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).expect("a folder");
        Self { databases, dir, variables }
    }

    fn command(&self, changes: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_walletctl"));
        command.args(["doctor", "--json"]).current_dir(&self.dir).env_clear();
        command.envs(self.variables.clone()).envs(changes.iter().copied());
        command
    }

    /// The exit code, and (subject, check) of everything that has to be mended; each says how.
    fn wrong(&self, changes: &[(&str, &str)]) -> (Option<i32>, Vec<(String, String)>) {
        let output = self.command(changes).output().expect("it runs");
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let checks = report["checks"].as_array().expect("checks");
        let wrong: Vec<_> = checks.iter().filter(|check| check["outcome"] == "wrong").collect();
        assert_eq!(report["ok"], wrong.is_empty());
        assert!(wrong.iter().all(|check| check["mend"].is_string()), "{wrong:?}");
        let text = |check: &Value, name: &str| check[name].as_str().expect("text").to_owned();
        let wrong = wrong.into_iter().map(|check| (text(check, "subject"), text(check, "check"))).collect();
        (output.status.code(), wrong)
    }

    async fn execute(&self, database: Database, statement: &str) {
        let (_, made) = self.databases.iter().find(|(of, _)| *of == database).expect("all were made");
        let mut admin = PgConnection::connect_with(&made.admin()).await.expect("a connection");
        sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut admin).await.expect("done");
        admin.close().await.expect("closed");
    }
}

fn found(wrong: &[(&str, &str)]) -> (Option<i32>, Vec<(String, String)>) {
    (Some(1), wrong.iter().map(|(subject, check)| ((*subject).to_owned(), (*check).to_owned())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_right_is_not_complained_about() {
    let patient = Patient::new().await;
    assert_eq!(patient.wrong(&[]), (Some(0), Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_thing_that_is_wrong_is_found_and_nothing_else() {
    let patient = Patient::new().await;
    let points = "database points";
    let role = "test_points";

    patient.execute(Database::Points, &format!("GRANT TRUNCATE ON tender.entry TO {role}")).await;
    assert_eq!(patient.wrong(&[]), found(&[(points, "its role cannot change history")]));
    patient.execute(Database::Points, &format!("REVOKE TRUNCATE ON tender.entry FROM {role}")).await;

    patient.execute(Database::Points, "ALTER TABLE tender.entry ENABLE TRIGGER entry_append_only").await;
    assert_eq!(patient.wrong(&[]), found(&[(points, "triggers that keep history are always on")]));
    patient
        .execute(Database::Points, "ALTER TABLE tender.entry ENABLE ALWAYS TRIGGER entry_append_only")
        .await;

    patient
        .execute(
            Database::Points,
            &format!("CREATE TABLE public.own (); ALTER TABLE public.own OWNER TO {role}"),
        )
        .await;
    assert_eq!(patient.wrong(&[]), found(&[(points, "its role owns no tables")]));
    patient.execute(Database::Points, "DROP TABLE public.own").await;

    let last = "(SELECT max(version) FROM _sqlx_migrations)";
    let forget = format!("UPDATE _sqlx_migrations SET success = false WHERE version = {last}");
    patient.execute(Database::Wallet, &forget).await;
    assert_eq!(patient.wrong(&[]), found(&[("database wallet", "migrations up to date")]));
    patient.execute(Database::Wallet, "UPDATE _sqlx_migrations SET success = true").await;

    let nowhere = "postgres://nobody:x@127.0.0.1:1/nothing";
    let unreachable =
        patient.wrong(&[("POINTS_DATABASE_URL", nowhere), ("REDIS_URL", "redis://127.0.0.1:1")]);
    assert_eq!(unreachable.1.iter().filter(|(_, check)| check == "reachable").count(), 2, "{unreachable:?}");
    let closed = "http://127.0.0.1:1";
    assert_eq!(patient.wrong(&[("WALLET_URL", closed)]), found(&[(closed, "ready")]));

    let admin =
        patient.variables.iter().find(|(name, _)| name == "ADMIN_DATABASE_URL").expect("set").1.clone();
    let as_admin = patient.wrong(&[("POINTS_DATABASE_URL", &admin)]).1;
    assert!(
        as_admin.contains(&(points.to_owned(), "its role has no special rights".to_owned())),
        "{as_admin:?}"
    );
    assert_eq!(patient.wrong(&[]), (Some(0), Vec::new()), "everything is mended");
}

#[test]
fn a_reader_that_stops_reading_is_no_error() {
    for arguments in [&["doctor"][..], &["doctor", "--json"], &["keys", "--dir", "keys"]] {
        let mut walletctl = Command::new(env!("CARGO_BIN_EXE_walletctl"))
            .args(arguments)
            .current_dir(std::env::temp_dir())
            .env_clear()
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it runs");
        drop(walletctl.stdout.take());
        let ended = walletctl.wait_with_output().expect("it ends");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(!said.contains("panicked") && !said.contains("Broken pipe"), "{said}");
    }
}
