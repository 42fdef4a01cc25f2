//! Rows of the databases, written down as they are: those of one scenario.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    path::Path,
};

use checker::format::files;
use futures_util::TryStreamExt as _;
use schema::Database;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Tables of the wallet, and which of their rows came since `$1`; `$2` is not asked for.
const WALLET: [(&str, &str); 5] = [
    ("saga", "saga.saga WHERE created_at >= $1::timestamptz"),
    (
        "dead_letter",
        "saga.dead_letter WHERE saga_id IN (SELECT saga_id FROM saga.saga WHERE created_at >= $1::timestamptz)",
    ),
    ("operator_action", "saga.operator_action WHERE at >= $1::timestamptz"),
    ("redemption", "wallet.redemption WHERE created_at >= $1::timestamptz"),
    ("outbox", "wallet.outbox WHERE $1 IS NOT NULL"),
];
const ACCOUNTS: &str = "(SELECT account_no FROM tender.account WHERE starts_with(owner, $2))";
/// What must not change in a tender.
const LASTING: [&str; 2] = ["allocation_reversal", "entry"];
const LEDGER: [&str; 6] = ["account", "lot", "operation", "allocation", "allocation_reversal", "entry"];

/// How much to write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Everything.
    All,
    /// What must not change from here on.
    Lasting,
}

/// Which rows: those of customers whose names begin with a tag, and what came since a moment by the wallet's clock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) since: &'a str,
    pub(crate) tag: &'a str,
}

/// Writes the `number`th dump of one database.
pub(crate) async fn dump(
    connection: &mut PgConnection,
    database: Database,
    folder: &Path,
    (number, what): (u32, What),
    scope: Scope<'_>,
) -> sqlx::Result<()> {
    let folder = folder.join(files::DUMPS).join(number.to_string()).join(database.name());
    fs::create_dir_all(&folder)?;
    let mut snapshot = connection.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *snapshot).await?;
    for (table, rows) in tables(database, what) {
        let query = format!("SELECT to_jsonb(r)::text FROM (SELECT * FROM {rows}) r");
        let mut rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(query))
            .bind(scope.since)
            .bind(format!("{}-", scope.tag))
            .fetch(&mut *snapshot);
        let mut file = BufWriter::new(File::create(folder.join(format!("{table}.jsonl")))?);
        while let Some(row) = rows.try_next().await? {
            writeln!(file, "{row}")?;
        }
        file.flush()?;
    }
    snapshot.rollback().await
}

fn tables(database: Database, what: What) -> Vec<(&'static str, String)> {
    if database == Database::Wallet {
        let all = if what == What::All { &WALLET[..] } else { &[] };
        return all.iter().map(|(table, rows)| (*table, format!("{rows} AND $2 IS NOT NULL"))).collect();
    }
    let tables = if what == What::All { &LEDGER[..] } else { &LASTING };
    tables
        .iter()
        .map(|table| (*table, format!("tender.{table} WHERE $1 IS NOT NULL AND {}", of_accounts(table))))
        .collect()
}

/// Accounts and their lots have the account's number, and everything else belongs to an operation.
fn of_accounts(table: &str) -> String {
    match table {
        "account" | "lot" | "operation" => format!("account_no IN {ACCOUNTS}"),
        _ => format!(
            "operation_id IN (SELECT operation_id FROM tender.operation WHERE account_no IN {ACCOUNTS})"
        ),
    }
}

/// What the entries of a scenario's accounts come to: any change of any of them makes another one.
pub(crate) async fn fingerprint(tender: &mut PgConnection, tag: &str) -> sqlx::Result<String> {
    sqlx::query_scalar(
        "SELECT concat(count(*), ' entries, ', md5(string_agg(e::text, '' ORDER BY e.account_no, e.version)))
         FROM tender.entry e JOIN tender.account a USING (account_no) WHERE starts_with(a.owner, $1)",
    )
    .bind(format!("{tag}-"))
    .fetch_one(tender)
    .await
}

/// Copies what a log has grown by since it was so long.
pub(crate) fn copy_log(log: &Path, from: u64, to: &Path) -> io::Result<()> {
    use std::io::{Read as _, Seek as _};
    let mut log = File::open(log)?;
    log.seek(io::SeekFrom::Start(from))?;
    let end = log.metadata()?.len();
    io::copy(&mut log.take(end.saturating_sub(from)), &mut File::create(to)?).map(drop)
}
