//! Redemptions in other circumstances: how many tills, whose wallets, how many tenders, orchestrators, declines. Nothing is
//! compared, nothing is to be reached: the lines show how the figures move.

use super::{
    Effort,
    redeem::{Mix, Pick, Till},
};
use crate::{cost::Meter, load::closed, report::Row, system::System};

const CUSTOMERS: u64 = 100_000;

const UNIFORM: Mix = Mix::of(Pick::Uniform(CUSTOMERS));

/// Name, orchestrators, tills, what they ask for.
const LINES: &[(&str, usize, usize, Mix)] = &[
    ("redeem, 1 till", 1, 1, UNIFORM),
    ("redeem, 8 tills", 1, 8, UNIFORM),
    ("redeem, 64 tills", 1, 64, UNIFORM),
    ("redeem, 256 tills", 1, 256, UNIFORM),
    ("redeem, 1,000 tills", 1, 1_000, UNIFORM),
    ("redeem, 64 tills, Zipf", 1, 64, Mix::of(Pick::Zipf(CUSTOMERS))),
    ("redeem, 64 tills, one customer", 1, 64, Mix::of(Pick::One)),
    ("redeem, 64 tills, 2 tenders", 1, 64, Mix { tenders: 2, ..UNIFORM }),
    ("redeem, 64 tills, 1 tender", 1, 64, Mix { tenders: 1, ..UNIFORM }),
    ("redeem, 64 tills, 10 % declined", 1, 64, Mix { declined: 10, ..UNIFORM }),
    ("redeem, 64 tills, 2 orchestrators", 2, 64, UNIFORM),
];

/// Measures every line once.
///
/// # Errors
/// When something does not start.
pub async fn run(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for wallets in [1, 2] {
        let system = System::start(wallets).await?;
        system.fund(CUSTOMERS).await?;
        closed(Till::many(&system, UNIFORM, 64), effort.warm).await;
        for (name, _, tills, mix) in LINES.iter().filter(|line| line.1 == wallets) {
            let meter = Meter::read(Some(&system)).await?;
            let sample = closed(Till::many(&system, *mix, *tills), effort.round).await;
            let figures = sample.figures();
            rows.push(Row {
                name: (*name).to_owned(),
                rival: String::new(),
                goal: "–".to_owned(),
                reached: format!("{:.0}/s, p99 {:.0} ms", figures.rate, figures.p99),
                of_goal: if figures.failed == 0 { 1.0 } else { 0.0 },
                cost: Some(meter.cost(Some(&system), sample.answered).await?),
                ours: Some(figures),
                theirs: None,
            });
        }
    }
    Ok(rows)
}
