//! One account that everybody debits, against a transaction per debit that locks its row.

use super::{Effort, Rounds, debit};
use crate::{cost::Meter, report::Row, rivals::row_lock, system::System};

const CALLERS: usize = 64;
const RATIO: f64 = 10.0;

/// Measures both by turns.
///
/// # Errors
/// When one does not start.
pub async fn run(effort: Effort) -> anyhow::Result<Row> {
    let system = System::start(0).await?;
    system.fund(1).await?;
    debit::load(&system, true, effort.warm).await?;
    let (mut ours, mut theirs) = (Rounds::default(), Rounds::default());
    let mut cost = None;
    for _ in 0..effort.rounds {
        theirs.push(&row_lock::load(CALLERS, effort.round).await?);
        let meter = Meter::read(Some(&system)).await?;
        let sample = debit::load(&system, true, effort.round).await?;
        cost = Some(meter.cost(Some(&system), sample.answered).await?);
        ours.push(&sample);
    }
    let ratio = ours.rate() / theirs.rate();
    Ok(Row {
        name: "one hot account, 64 callers".to_owned(),
        rival: "row-lock transaction".to_owned(),
        goal: format!("≥ {RATIO:.0}×"),
        reached: format!("{ratio:.1}×"),
        of_goal: ratio / RATIO,
        ours: Some(ours.all.figures()),
        theirs: Some(theirs.all.figures()),
        cost,
    })
}
