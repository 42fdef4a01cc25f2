//! The ops API: one file a group of commands. Every list is a table, or with `--json` the answer as it came.

pub mod actions;
pub mod bulk;
pub mod dead_letters;
pub mod sagas;
pub mod tenders;

use anyhow::Context;
use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    client::Client,
    environment::Environment,
    keys::{TokenRole, access},
    output, table,
};

/// Whom the commands speak for, and how they answer.
#[derive(Debug, Args)]
pub struct Common {
    /// The business: that of WALLETCTL_TOKEN, and no other, if there is one; `demo` in development.
    #[arg(long, global = true)]
    business: Option<String>,
    /// Print the answer as it came.
    #[arg(long, global = true)]
    json: bool,
}

impl Common {
    /// The wallet, called by an operator of the business.
    fn client(&self, environment: &Environment) -> anyhow::Result<Client> {
        let access = access(environment, self.business.as_deref(), TokenRole::Ops)?;
        Client::new(&environment.require("WALLET_URL")?, access.token)
    }
}

/// Which part of a list.
#[derive(Debug, Args)]
pub struct Paging {
    /// At most this many.
    #[arg(long, default_value_t = 50)]
    limit: u32,
    /// Where the page before ended.
    #[arg(long)]
    cursor: Option<String>,
}

impl Paging {
    /// The query of a list with these filters.
    fn query<const N: usize>(
        self,
        filters: [(&'static str, Option<String>); N],
    ) -> Vec<(&'static str, String)> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.cursor.map(|cursor| ("cursor", cursor)));
        query.extend(filters.into_iter().filter_map(|(name, value)| Some((name, value?))));
        query
    }
}

/// What every action needs.
#[derive(Debug, Args)]
pub struct Act {
    /// Why; kept for ever.
    #[arg(long)]
    reason: String,
    /// Makes a repetition harmless; one is made if none is given.
    #[arg(long)]
    operation_id: Option<String>,
}

impl Act {
    fn body(self) -> Value {
        json!({ "operation_id": self.operation_id.unwrap_or_else(operation_id), "reason": self.reason })
    }
}

/// A fresh operation id.
fn operation_id() -> String {
    Uuid::now_v7().to_string()
}

/// A list as a table, and where the next page begins.
fn print_list(answer: &Value, columns: &[&str], is_json: bool) -> anyhow::Result<()> {
    if is_json {
        return output::json(answer);
    }
    let rows = answer["data"].as_array().context("the answer is no list")?;
    if rows.is_empty() {
        output::line("none");
        return Ok(());
    }
    output::line(table::render(columns, rows));
    if let Some(cursor) = answer["next_cursor"].as_str() {
        output::line(format!("more: --cursor {cursor}"));
    }
    Ok(())
}

/// The fields of one document, one a line; what is null or absent is left out.
fn print_fields(document: &Value, names: &[&str]) {
    let width = names.iter().map(|name| name.len()).max().unwrap_or(0);
    for name in names {
        let value = &document[name];
        if !value.is_null() {
            output::line(format!("{name:<width$}  {}", table::cell(value)));
        }
    }
}
