//! What must be true between the wallet's database and the tenders'.
//!
//! The four databases are read side by side in the order of `legs_id` and merged: what is held in memory is one saga with its legs, whatever
//! the size of the history. The ids are cut into ranges, each read with snapshots of its own, so that none keeps dead rows alive for long.
//!
//! No snapshot spans four databases, so what breaks a rule in a range is only suspected. Suspects are read again in the order that makes the
//! answer right on a running system: sagas that ended five seconds ago or earlier first, because what they did to their legs is final and
//! older than whatever is read next; then their legs; then the wallet again, because a saga is always written before its legs, and what takes
//! a redemption further before it changes them.

mod read;
mod rules;

use std::{collections::BTreeMap, num::NonZeroU32};

use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{Database, Finding};
use read::{Scope, Sorted, Tenders};
use rules::{Group, Rule, Saga};

/// Rows of the largest table that are read in one snapshot, about.
const ROWS_PER_RANGE: i64 = 200_000;
/// Suspects that are kept until they are read again.
const SUSPECTS_MAX: usize = 1_000;
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
    let (mut wallets, mut tenders) = (Vec::new(), Tenders::new());
    for (database, connection) in connections {
        match database {
            Database::Wallet => wallets.push(connection),
            _ => tenders.push((database.name(), connection)),
        }
    }
    let mut comparison = Comparison { rows_shown, ..Comparison::default() };
    let mut is_whole = true;
    if let [wallet] = wallets.as_mut_slice() {
        let ranges = match ranges {
            Some(ranges) => ranges,
            None => read::ranges(wallet, &mut tenders, ROWS_PER_RANGE).await?,
        };
        for (from, to) in bounds(ranges) {
            is_whole = is_whole && comparison.range(wallet, &mut tenders, from, to).await?;
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
    /// Compares the ids of one range. False once there are too many violations to go on.
    async fn range(
        &mut self,
        wallet: &mut PgConnection,
        tenders: &mut Tenders<'_>,
        from: u128,
        to: u128,
    ) -> sqlx::Result<bool> {
        let mut next = Some(from);
        while let Some(from) = next {
            let suspects;
            (suspects, next) = self.suspects(wallet, tenders, Scope::Range(from, to)).await?;
            if !suspects.is_empty() {
                self.confirm(wallet, tenders, &suspects).await?;
            }
            if self.violations.values().map(|(count, _)| count).sum::<usize>() >= VIOLATIONS_MAX {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The ids that seem to break a rule, and where to go on if there were too many for one time.
    async fn suspects(
        &mut self,
        wallet: &mut PgConnection,
        tenders: &mut Tenders<'_>,
        scope: Scope<'_>,
    ) -> sqlx::Result<(Vec<Uuid>, Option<u128>)> {
        let mut suspects = Vec::new();
        let mut merged = Merged::open(wallet, tenders, scope).await?;
        while let Some(group) = merged.next().await? {
            self.rows += group.rows() as u64;
            self.rows_held = self.rows_held.max(group.rows() + suspects.len());
            if group.broken().next().is_some() {
                suspects.push(group.legs_id);
            }
            if suspects.len() == SUSPECTS_MAX {
                return Ok((suspects, group.legs_id.as_u128().checked_add(1)));
            }
        }
        Ok((suspects, None))
    }

    /// Reads suspects again, in the order that lets nothing innocent look broken.
    async fn confirm(
        &mut self,
        wallet: &mut PgConnection,
        tenders: &mut Tenders<'_>,
        suspects: &[Uuid],
    ) -> sqlx::Result<()> {
        let mut groups = Vec::with_capacity(suspects.len());
        let mut merged = Merged::open(wallet, tenders, Scope::Ids(suspects)).await?;
        while let Some(group) = merged.next().await? {
            groups.push(group);
        }
        drop(merged);
        let held: usize = groups.iter().map(Group::rows).sum();
        self.rows_held = self.rows_held.max(held);
        let mut later = Sorted::open(read::sagas(wallet, Scope::Ids(suspects))).await?;
        for mut group in groups {
            group.learn(&later.take(group.legs_id).await?);
            for (rule, row) in group.broken() {
                let (count, rows) = self.violations.entry(rule).or_default();
                *count += 1;
                if rows.len() < self.rows_shown {
                    rows.push(row);
                }
            }
        }
        Ok(())
    }

    fn finding(&self, rule: Rule) -> Finding {
        let (count, rows) = self.violations.get(&rule).cloned().unwrap_or_default();
        Finding::new("wallet and tenders", rule.name(), rule.statement(), count, rows)
    }
}

/// The four databases, merged by `legs_id`.
struct Merged<'c> {
    sagas: Sorted<'c, Saga>,
    legs: Vec<Sorted<'c, rules::Leg>>,
}

impl<'c> Merged<'c> {
    /// The wallet's snapshot is the oldest: its first row is there before a tender is asked.
    async fn open(
        wallet: &'c mut PgConnection,
        tenders: &'c mut Tenders<'_>,
        scope: Scope<'_>,
    ) -> sqlx::Result<Self> {
        let sagas = Sorted::open(read::sagas(wallet, scope)).await?;
        let mut legs = Vec::with_capacity(tenders.len());
        for (name, tender) in tenders {
            legs.push(Sorted::open(read::legs(tender, name, scope)).await?);
        }
        Ok(Self { sagas, legs })
    }

    async fn next(&mut self) -> sqlx::Result<Option<Group>> {
        let ids = self.legs.iter().filter_map(Sorted::next_id).chain(self.sagas.next_id());
        let Some(legs_id) = ids.min() else { return Ok(None) };
        let sagas = self.sagas.take(legs_id).await?;
        let mut legs = Vec::new();
        for tender in &mut self.legs {
            legs.extend(tender.take(legs_id).await?);
        }
        Ok(Some(Group { legs_id, sagas, legs }))
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
