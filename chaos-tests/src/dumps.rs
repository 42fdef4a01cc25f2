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

/// Sagas of one scenario: by their keys, since clocks may have stepped in it.
const SAGAS: &str = "(SELECT saga_id FROM saga.saga WHERE starts_with(key, $1))";
const ACCOUNTS: &str = "(SELECT account_no FROM tender.account WHERE starts_with(owner, $1))";
/// What must not change in a tender.
const LASTING: [&str; 2] = ["allocation_reversal", "entry"];
/// Tables of the wallet, and their schemas.
const WALLET: [(&str, &str); 5] = [
    ("saga", "saga"),
    ("dead_letter", "saga"),
    ("operator_action", "saga"),
    ("redemption", "wallet"),
    ("outbox", "wallet"),
];
const LEDGER: [&str; 6] = ["account", "lot", "operation", "allocation", "allocation_reversal", "entry"];

/// How much to write down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Everything.
    All,
    /// What must not change from here on.
    Lasting,
}

/// Writes the `number`th dump of one database: of everything that belongs to keys and customers which begin with a tag.
pub(crate) async fn dump(
    connection: &mut PgConnection,
    database: Database,
    folder: &Path,
    (number, what): (u32, What),
    tag: &str,
) -> sqlx::Result<()> {
    let folder = folder.join(files::DUMPS).join(number.to_string()).join(database.name());
    fs::create_dir_all(&folder)?;
    let mut snapshot = connection.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *snapshot).await?;
    for (table, rows) in tables(database, what) {
        let query = format!("SELECT to_jsonb(r)::text FROM (SELECT * FROM {rows}) r");
        let mut rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(query))
            .bind(format!("{tag}-"))
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
    let tables = match (database, what) {
        (Database::Wallet, What::All) => {
            return WALLET.map(|(table, schema)| (table, of_sagas(table, schema))).to_vec();
        }
        (Database::Wallet, What::Lasting) => return Vec::new(),
        (_, What::All) => &LEDGER[..],
        (_, What::Lasting) => &LASTING[..],
    };
    tables.iter().map(|table| (*table, format!("tender.{table} WHERE {}", of_accounts(table)))).collect()
}

/// Everything belongs to a saga, but for events on their way.
fn of_sagas(table: &str, schema: &str) -> String {
    let rows = match table {
        "outbox" => "$1 IS NOT NULL".to_owned(),
        "redemption" => format!("redemption_id IN {SAGAS}"),
        "operator_action" => format!(
            "dead_letter_id IN (SELECT dead_letter_id FROM saga.dead_letter WHERE saga_id IN {SAGAS})"
        ),
        _ => format!("saga_id IN {SAGAS}"),
    };
    format!("{schema}.{table} WHERE {rows}")
}

/// Accounts, their lots and their operations have the account's number, or name the owner of an account that is not stored; and
/// everything else belongs to an operation.
fn of_accounts(table: &str) -> String {
    let operations =
        format!("account_no IN {ACCOUNTS} OR (account_no < 0 AND starts_with(details ->> 'owner', $1))");
    match table {
        "account" | "lot" => format!("account_no IN {ACCOUNTS}"),
        "operation" => operations,
        _ => format!("operation_id IN (SELECT operation_id FROM tender.operation WHERE {operations})"),
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
