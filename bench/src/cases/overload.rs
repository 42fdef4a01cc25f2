//! More than there is room for: calls come at a steady rate, whether the last were answered or not. What is answered must stay
//! near the peak, and the rest be turned away in good order.

use std::time::Duration;

use super::{
    Effort,
    redeem::{Mix, Pick, Till},
};
use crate::{
    load::{Sample, closed, open},
    report::Row,
    system::System,
};

const CUSTOMERS: u64 = 100_000;
/// Tills that wait for their turn to call: more than are ever under way.
const TILLS: usize = 2_000;
/// Tills that find the capacity: so many that batches are as large as they get.
const BUSY: usize = 1_000;
/// Of the capacity, in per cent.
const LOADS: [u32; 5] = [50, 80, 100, 150, 300];
/// Of the capacity, what has to be answered when more comes.
const GOODPUT: f64 = 0.9;

/// Of the capacity, what has to be there again when the last overload is over. The machine's speed wanders by more than a tenth.
const KEPT: f64 = 0.8;

/// Finds the capacity in a closed loop and offers a part or a multiple of it, by turns: a machine's speed wanders, and each load
/// is compared with what there was room for at that moment.
///
/// # Errors
/// When something does not start.
pub async fn run(effort: Effort) -> anyhow::Result<Vec<Row>> {
    let system = System::start(1).await?;
    system.fund(CUSTOMERS).await?;
    let mix = Mix::of(Pick::Uniform(CUSTOMERS));
    closed(Till::many(&system, mix, BUSY), effort.warm).await;
    let (mut rows, mut first) = (Vec::new(), None);
    for load in LOADS {
        let capacity = closed(Till::many(&system, mix, BUSY), effort.round).await.figures().rate;
        first.get_or_insert(capacity);
        let rate = capacity * f64::from(load) / 100.0;
        let sample = open(Till::many(&system, mix, TILLS), rate, effort.round).await;
        // Whatever waits is done before the next.
        tokio::time::sleep(Duration::from_secs(2)).await;
        rows.push(row(load, &sample, capacity));
    }
    let after = closed(Till::many(&system, mix, BUSY), effort.round).await.figures();
    let kept = after.rate / first.unwrap_or(after.rate);
    rows.push(Row {
        name: "capacity after all of it".to_owned(),
        rival: String::new(),
        goal: format!("≥ {:.0} % of what it was", KEPT * 100.0),
        reached: format!("{:.0} %", kept * 100.0),
        of_goal: kept / KEPT,
        ours: Some(after),
        theirs: None,
        cost: None,
    });
    Ok(rows)
}

fn row(load: u32, sample: &Sample, capacity: f64) -> Row {
    let figures = sample.figures();
    let is_overload = load > 100;
    let goodput = figures.rate / capacity;
    Row {
        name: format!("open loop at {load} % of {capacity:.0}/s"),
        rival: String::new(),
        goal: if is_overload {
            format!("≥ {:.0} % of it, none failed", GOODPUT * 100.0)
        } else {
            "none failed".to_owned()
        },
        reached: format!("{:.0} % of it, {} failed", goodput * 100.0, figures.failed),
        of_goal: match (figures.failed, is_overload) {
            (0, true) => goodput / GOODPUT,
            (0, false) => 1.0,
            _ => 0.0,
        },
        ours: Some(figures),
        theirs: None,
        cost: None,
    }
}
