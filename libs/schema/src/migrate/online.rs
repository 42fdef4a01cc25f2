//! What a migration may do while its service works.
//!
//! A lock on an existing table that conflicts with writers is held for one catalogue change only, never for as long as it takes
//! to read or rewrite the table. What has to read it (an index, the validation of a constraint) stands alone in a file that begins
//! with `-- no-transaction`, and uses the form that lets writers pass. Everything else declares itself: `-- offline: reason`.

use std::collections::BTreeSet;

use sqlx::migrate::Migration;

/// How a migration is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// In a transaction with short waits for locks, while the service works.
    Online,
    /// One statement outside a transaction, while the service works.
    Concurrent(Concurrent),
    /// In a transaction, while no process of the service runs; with the reason.
    Offline(String),
}

/// A statement that reads a whole table and lets writers pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Concurrent {
    /// `CREATE INDEX CONCURRENTLY`: a failed attempt leaves an invalid index of this name.
    Index { name: String, table: String },
    /// `DROP INDEX CONCURRENTLY` or `VALIDATE CONSTRAINT`: can be repeated as it is.
    Repeatable,
}

/// How a migration is to be applied, read from its text.
///
/// # Errors
/// What it does that its kind must not, a sentence each.
pub(super) fn kind(migration: &Migration) -> Result<Kind, Vec<String>> {
    let text = migration.sql.as_str();
    let statements = statements(text);
    if migration.no_tx {
        return concurrent(&statements).map(Kind::Concurrent).map_err(|fault| vec![fault]);
    }
    let header = text.lines().take_while(|line| line.starts_with("--"));
    if let Some(reason) = header.filter_map(|line| line.strip_prefix("-- offline:")).next() {
        return Ok(Kind::Offline(reason.trim().to_owned()));
    }
    let faults = faults(&statements);
    if faults.is_empty() { Ok(Kind::Online) } else { Err(faults) }
}

type Words = Vec<String>;

/// The statements in lower case, word by word, without comments and without what is quoted.
fn statements(text: &str) -> Vec<Words> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = match next {
            '-' if rest.starts_with("--") => Some(rest.find('\n').unwrap_or(rest.len())),
            '\'' => rest[1..].find('\'').map(|end| end + 2),
            '$' => rest[1..].find('$').and_then(|end| {
                let (tag, body) = rest.split_at(end + 2);
                body.find(tag).map(|end| tag.len() * 2 + end)
            }),
            _ => None,
        };
        if let Some(length) = skipped {
            plain.push(' ');
            rest = &rest[length..];
            continue;
        }
        if matches!(next, '(' | ')' | ',') {
            plain.extend([' ', next, ' ']);
        } else {
            plain.extend(next.to_lowercase());
        }
        rest = &rest[next.len_utf8()..];
    }
    let words = plain.split(';').map(|one| one.split_whitespace().map(str::to_owned).collect::<Words>());
    words.filter(|words| !words.is_empty()).collect()
}

fn concurrent(statements: &[Words]) -> Result<Concurrent, String> {
    let [statement] = statements else {
        return Err("a file without a transaction has exactly one statement".to_owned());
    };
    let words: Vec<&str> = statement.iter().map(String::as_str).filter(|word| *word != "unique").collect();
    match words.as_slice() {
        ["create", "index", "concurrently", "if", "not", "exists", name, "on", table, ..] => {
            Ok(Concurrent::Index { name: (*name).to_owned(), table: (*table).to_owned() })
        }
        ["drop", "index", "concurrently", "if", "exists", _]
        | ["alter", "table", _, "validate", "constraint", _] => Ok(Concurrent::Repeatable),
        _ => Err("only CREATE INDEX CONCURRENTLY IF NOT EXISTS, DROP INDEX CONCURRENTLY IF EXISTS and VALIDATE CONSTRAINT \
                  go without a transaction"
            .to_owned()),
    }
}

/// What these statements do that writers of existing tables would wait for.
fn faults(statements: &[Words]) -> Vec<String> {
    let (mut made, mut touched, mut faults) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    // What makes its schema comes first of all: there is no table yet that a block could lock.
    let makes_its_schema =
        statements.iter().any(|words| words.starts_with(&["create".into(), "schema".into()]));
    if !makes_its_schema && statements.iter().any(|words| words[0] == "do") {
        faults.push("a DO block hides what it does".to_owned());
    }
    for statement in statements {
        let words: Vec<&str> = statement.iter().map(String::as_str).collect();
        if let ["create", "table", "if", "not", "exists", name, ..] | ["create", "table", name, ..] =
            words.as_slice()
        {
            made.insert((*name).to_owned());
        }
        if !is_understood(&words) {
            faults.push(format!("{}: nobody knows what it locks", words.join(" ")));
        }
        for table in locked(&words).into_iter().filter(|table| !made.contains(*table)) {
            touched.insert(table.to_owned());
            faults.extend(waits(&words).into_iter().map(|fault| format!("{table}: {fault}")));
        }
    }
    if touched.len() > 1 {
        let names = touched.into_iter().collect::<Vec<_>>().join(", ");
        faults.push(format!("locks {names} at once: one existing table a migration, so that no lock is kept while another is waited for"));
    }
    faults
}

/// Whether it is known here what a statement locks. What is not known is not online.
fn is_understood(words: &[&str]) -> bool {
    match words {
        ["create", "or", "replace", kind, ..] => ["function", "view", "trigger", "constraint"].contains(kind),
        ["create", kind, ..] => [
            "schema",
            "table",
            "index",
            "unique",
            "function",
            "trigger",
            "constraint",
            "type",
            "domain",
            "view",
            "sequence",
        ]
        .contains(kind),
        ["alter", kind, ..] => ["table", "function", "sequence", "default"].contains(kind),
        ["drop", kind, ..] => ["index", "trigger", "function", "view", "type"].contains(kind),
        [first, ..] => [
            "grant", "revoke", "comment", "set", "reset", "do", "insert", "update", "delete", "truncate",
            "lock", "cluster", "vacuum", "reindex", "refresh",
        ]
        .contains(first),
        [] => true,
    }
}

/// The tables that a statement locks against writers, for however short a time.
fn locked<'a>(words: &[&'a str]) -> Vec<&'a str> {
    let after = |mark: &str| {
        let place = words.iter().position(|word| *word == mark);
        place.and_then(|place| words[place + 1..].iter().copied().find(|word| *word != "only"))
    };
    match words {
        ["create", "index", ..] | ["create", "unique", "index", ..] | ["create", "trigger", ..] => {
            after("on").into_iter().collect()
        }
        ["create", "constraint", "trigger", ..]
        | ["create", "or", "replace", "trigger" | "constraint", ..]
        | ["drop", "trigger", ..] => after("on").into_iter().collect(),
        ["alter", "table", "if", "exists", table, ..]
        | ["alter", "table", "only", table, ..]
        | ["alter", "table", table, ..] => vec![table],
        ["update" | "truncate" | "lock" | "cluster" | "vacuum" | "reindex" | "refresh", rest @ ..] => {
            let noise = ["table", "only", "materialized", "view", "full", "index"];
            rest.iter().copied().find(|word| !noise.contains(word)).into_iter().collect()
        }
        ["delete", "from", table, ..] => vec![table],
        // A foreign key locks the table that it refers to while it is made.
        ["create", "table", ..] => {
            let pairs = words.windows(2).filter(|pair| pair[0] == "references");
            pairs.map(|pair| pair[1]).collect()
        }
        _ => Vec::new(),
    }
}

/// Why writers of an existing table would wait for long.
fn waits(words: &[&str]) -> Vec<String> {
    match words {
        ["create", "index", ..] | ["create", "unique", "index", ..] => {
            vec![
                "an index is built CONCURRENTLY, in a file of its own that begins with -- no-transaction"
                    .to_owned(),
            ]
        }
        ["create" | "drop", ..] => Vec::new(),
        ["alter", "table", rest @ ..] => {
            let name = rest.iter().position(|word| !["if", "exists", "only"].contains(word)).unwrap_or(0);
            let actions = actions(rest.get(name + 1..).unwrap_or_default());
            actions.into_iter().filter(|action| !is_brief(action)).map(|action| action.join(" ")).collect()
        }
        _ => vec![format!("{} of what exists is the service's work, in portions", words[0])],
    }
}

/// The actions of an ALTER TABLE: what stands between the commas outside parentheses.
fn actions<'a>(words: &[&'a str]) -> Vec<Vec<&'a str>> {
    let (mut actions, mut depth) = (vec![Vec::new()], 0_i32);
    for word in words {
        depth += i32::from(*word == "(") - i32::from(*word == ")");
        match actions.last_mut() {
            Some(action) if *word != "," || depth > 0 => action.push(*word),
            _ => actions.push(Vec::new()),
        }
    }
    actions
}

/// Whether an action of ALTER TABLE changes the catalogue only, and neither reads nor rewrites the table.
fn is_brief(action: &[&str]) -> bool {
    let has = |word: &str| action.contains(&word);
    match action {
        ["add", "constraint", ..] => action.ends_with(&["not", "valid"]) || (has("using") && has("index")),
        ["add", ..] => {
            let default = action.iter().position(|word| *word == "default").map(|place| &action[place..]);
            let computed = default.is_some_and(|words| words.contains(&"("));
            let checked = ["generated", "unique", "primary", "references", "check", "serial", "bigserial"];
            let is_filled = !action.windows(2).any(|pair| pair == ["not", "null"]) || default.is_some();
            is_filled && !computed && !checked.iter().any(|word| has(word))
        }
        ["alter", "column", _, "drop", "not", "null"]
        | ["alter", "column", _, "set" | "drop", "default", ..]
        | ["alter", "column", _, "set", "statistics", ..]
        | ["drop", "constraint" | "column", ..]
        | ["enable" | "disable", .., "trigger", _]
        | ["set" | "reset", "(", ..] => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Database;
    use sqlx::{AssertSqlSafe, SqlSafeStr, migrate::MigrationType};

    fn read(text: &str) -> Result<Kind, Vec<String>> {
        let no_tx = text.starts_with("-- no-transaction");
        let sql = AssertSqlSafe(text.to_owned()).into_sql_str();
        kind(&Migration::new(1, "a migration".into(), MigrationType::Simple, sql, no_tx))
    }

    #[test]
    fn every_migration_is_online_or_says_why_not() {
        for database in Database::ALL {
            for migration in database.migrations() {
                let name = format!("{} {:04}", database.name(), migration.version);
                match kind(&migration) {
                    Ok(Kind::Offline(reason)) => assert!(reason.len() > 20, "{name}: why is it offline?"),
                    Ok(_) => {}
                    Err(faults) => panic!("{name} is not online: {faults:#?}"),
                }
            }
        }
    }

    #[test]
    fn what_is_not_understood_is_not_online() {
        for text in [
            "DROP TABLE s.old;",
            "WITH gone AS (DELETE FROM s.old RETURNING a) SELECT count(*) FROM gone;",
            "SELECT s.rewrite();",
            "CALL s.rewrite();",
            "ALTER TYPE s.kind ADD VALUE 'b';",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
        let two = "CREATE OR REPLACE TRIGGER t BEFORE INSERT ON s.old FOR EACH ROW EXECUTE FUNCTION s.f();
                   ALTER TABLE s.other ADD COLUMN b text;";
        assert!(read(two).is_err(), "two tables");
    }

    #[test]
    fn what_changes_the_catalogue_only_is_online() {
        for text in [
            "CREATE TABLE s.new (a bigint); CREATE INDEX i ON s.new (a); UPDATE s.new SET a = 1;",
            "ALTER TABLE s.old ADD COLUMN a text, ADD COLUMN b numeric(10, 2) NOT NULL DEFAULT 0;",
            "ALTER TABLE s.old ADD CONSTRAINT c CHECK (a > 0) NOT VALID, DROP CONSTRAINT d;",
            "ALTER TABLE s.old ADD CONSTRAINT c UNIQUE USING INDEX i",
            "ALTER TABLE ONLY s.old ALTER COLUMN a DROP NOT NULL, SET (fillfactor = 70)",
            "-- CREATE INDEX i ON s.old (a);\nGRANT SELECT ON s.old TO reader;",
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE s.old SET a = 1; END $$;
             CREATE TRIGGER t BEFORE UPDATE ON s.old FOR EACH ROW EXECUTE FUNCTION f('it is; not');
             ALTER TABLE s.old ENABLE ALWAYS TRIGGER t;",
        ] {
            assert_eq!(read(text), Ok(Kind::Online), "{text}");
        }
    }

    #[test]
    fn what_makes_writers_wait_is_not_online() {
        for text in [
            "CREATE INDEX i ON s.old (a)",
            "CREATE UNIQUE INDEX i ON ONLY s.old (a)",
            "CREATE INDEX CONCURRENTLY i ON s.old (a)",
            "ALTER TABLE s.old ALTER COLUMN a TYPE bigint",
            "ALTER TABLE s.old ALTER COLUMN a SET NOT NULL",
            "ALTER TABLE s.old ADD COLUMN a bigint NOT NULL",
            "ALTER TABLE s.old ADD COLUMN a uuid DEFAULT gen_random_uuid()",
            "ALTER TABLE s.old ADD COLUMN a bigint GENERATED ALWAYS AS (b + 1) STORED",
            "ALTER TABLE s.old DROP CONSTRAINT k, ADD CONSTRAINT k UNIQUE (a, b)",
            "ALTER TABLE s.old ADD CONSTRAINT c CHECK (a > 0)",
            "ALTER TABLE s.old VALIDATE CONSTRAINT c",
            "ALTER TABLE s.old SET UNLOGGED",
            "UPDATE s.old SET a = 1",
            "DELETE FROM s.old",
            "LOCK TABLE s.old",
            "DO $$ BEGIN UPDATE s.old SET a = 1; END $$",
            "CREATE TABLE s.new (a bigint); do language plpgsql $x$ BEGIN NULL; END $x$;",
            "ALTER TABLE s.old ADD COLUMN a text; ALTER TABLE s.other ADD COLUMN a text",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_reads_a_whole_table_goes_alone_and_without_a_transaction() {
        let index =
            "-- no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON s.old (a) WHERE a > 0;";
        let expected = Concurrent::Index { name: "i".to_owned(), table: "s.old".to_owned() };
        assert_eq!(read(index), Ok(Kind::Concurrent(expected)));
        let repeatable = Ok(Kind::Concurrent(Concurrent::Repeatable));
        assert_eq!(read("-- no-transaction\nALTER TABLE s.old VALIDATE CONSTRAINT c"), repeatable);
        assert_eq!(read("-- no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS s.i"), repeatable);
        for text in [
            "-- no-transaction\nCREATE INDEX CONCURRENTLY i ON s.old (a)",
            "-- no-transaction\nALTER TABLE s.old ADD COLUMN a text",
            "-- no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS s.i; DROP INDEX CONCURRENTLY IF EXISTS s.j",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_migration_says_that_it_is_offline() {
        let text =
            "-- What it does.\n-- offline: rewrites s.old\nALTER TABLE s.old ALTER COLUMN a TYPE bigint";
        assert_eq!(read(text), Ok(Kind::Offline("rewrites s.old".to_owned())));
        assert!(read("SELECT 1;\n-- offline: too late\nDELETE FROM s.old").is_err());
    }
}
