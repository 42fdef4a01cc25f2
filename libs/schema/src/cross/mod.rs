//! What must be true between the wallet's database and the tenders'.
//!
//! The four databases are read side by side in the order of `legs_id` and merged: what is held in memory is one saga with its legs and a
//! page of each tender's legs, whatever the size of the history.
//!
//! No snapshot spans four databases. The order of reading makes the answer right on a running system: first a time is taken, and only
//! sagas that ended five seconds before it are judged, because what they did to their legs is final; then each tender's legs are read, all
//! at one moment; then the sagas, because a saga is always written before its legs, and what takes a redemption further before it changes
//! them. A tender's legs are sorted once, by a cursor that keeps them on the server's disk and no snapshot. The sagas have an index: their
//! ids are cut into ranges, each read with a snapshot of its own. So no snapshot keeps dead rows alive for long.

mod read;
mod rules;

use std::{collections::BTreeMap, num::NonZeroU32};

use serde_json::Value;
use sqlx::PgConnection;

use crate::{Database, Finding};
use read::{Legs, Sagas};
use rules::{Group, Rule};

/// Sagas that are read in one snapshot, about.
const SAGAS_PER_RANGE: i64 = 200_000;
/// Violations after which no more are looked for: something is wrong with a whole database then.
const VIOLATIONS_MAX: usize = 10_000;

/// What a comparison found, and how much it looked at.
#[derive(Debug)]
pub struct Compared {
    /// One for each rule.
    pub findings: Vec<Finding>,
    /// Rows that were read, of sagas and of legs.
    pub rows: u64,
    /// The most rows that were in memory at once.
    pub rows_held: usize,
    /// Whether everything was looked at: false once 10,000 violations were found.
    pub is_whole: bool,
}

/// Compares the wallet's sagas with the tenders' legs; needs a connection to each database.
///
/// # Errors
/// When a database cannot be read.
pub async fn cross_check(connections: &mut [(Database, PgConnection)]) -> sqlx::Result<Vec<Finding>> {
    compare(connections, None, Finding::ROWS_SHOWN).await.map(|compared| compared.findings)
}

/// The same, with at most `rows_shown` rows for each rule, in a number of ranges; without one, as many as the tables' sizes ask for.
///
/// # Errors
/// When a database cannot be read.
pub async fn compare(
    connections: &mut [(Database, PgConnection)],
    ranges: Option<NonZeroU32>,
    rows_shown: usize,
) -> sqlx::Result<Compared> {
    let (mut wallets, mut tenders) = (Vec::new(), Vec::new());
    for (database, connection) in connections {
        match database {
            Database::Wallet => wallets.push(connection),
            _ => tenders.push(Legs::new(database.name(), connection)),
        }
    }
    let mut comparison = Comparison { rows_shown, ..Comparison::default() };
    let mut is_whole = true;
    if let [wallet] = wallets.as_mut_slice() {
        let ranges = match ranges {
            Some(ranges) => ranges,
            None => read::ranges(wallet, SAGAS_PER_RANGE).await?,
        };
        let ended_before = read::ended_before(wallet).await?;
        for tender in &mut tenders {
            tender.open().await?;
        }
        for (from, to) in bounds(ranges) {
            let sagas = Sagas::open(wallet, (from, to), &ended_before).await?;
            is_whole = is_whole && comparison.range(sagas, &mut tenders, to).await?;
        }
        for tender in tenders {
            tender.close().await?;
        }
    }
    Ok(Compared {
        findings: Rule::ALL.map(|rule| comparison.finding(rule)).into(),
        rows: comparison.rows,
        rows_held: comparison.rows_held,
        is_whole,
    })
}

/// All ids, cut into `count` ranges: first and last of each.
fn bounds(count: NonZeroU32) -> impl Iterator<Item = (u128, u128)> {
    let count = count.get();
    let step = u128::MAX / u128::from(count);
    (0..count).map(move |number| {
        let from = step.saturating_mul(u128::from(number));
        let is_last = number + 1 == count;
        (from, if is_last { u128::MAX } else { from.saturating_add(step - 1) })
    })
}

#[derive(Debug, Default)]
struct Comparison {
    violations: BTreeMap<Rule, (usize, Vec<Value>)>,
    rows_shown: usize,
    rows: u64,
    rows_held: usize,
}

impl Comparison {
    /// Compares the ids of one range, up to `last`. False once there are too many violations to go on.
    async fn range(
        &mut self,
        mut sagas: Sagas<'_>,
        tenders: &mut [Legs<'_>],
        last: u128,
    ) -> sqlx::Result<bool> {
        loop {
            let ids = tenders.iter().filter_map(Legs::next_id).filter(|id| id.as_u128() <= last);
            let Some(legs_id) = ids.chain(sagas.next_id()).min() else { return Ok(true) };
            let mut group = Group { legs_id, sagas: sagas.take(legs_id).await?, legs: Vec::new() };
            for tender in &mut *tenders {
                group.legs.extend(tender.take(legs_id).await?);
            }
            let held = group.rows() + tenders.iter().map(Legs::held).sum::<usize>();
            self.rows_held = self.rows_held.max(held);
            self.rows += group.rows() as u64;
            for (rule, row) in group.broken() {
                let (count, rows) = self.violations.entry(rule).or_default();
                *count += 1;
                if rows.len() < self.rows_shown {
                    rows.push(row);
                }
            }
            if self.violations.values().map(|(count, _)| count).sum::<usize>() >= VIOLATIONS_MAX {
                return Ok(false);
            }
        }
    }

    fn finding(&self, rule: Rule) -> Finding {
        let (count, rows) = self.violations.get(&rule).cloned().unwrap_or_default();
        Finding::new("wallet and tenders", rule.name(), rule.statement(), count, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_no_gap_and_no_overlap() {
        for count in [1, 2, 3, 7, 256] {
            let all: Vec<_> = bounds(NonZeroU32::new(count).unwrap()).collect();
            assert_eq!((all[0].0, all[all.len() - 1].1), (0, u128::MAX));
            assert!(all.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{count}");
        }
    }
}
