//! Fail points: places at which a test makes this process die, panic or wait. Only in builds with the feature `failpoints`.
//!
//! A point is a `fail_point!` line where the crash tables of this system say that a process may be lost; without the
//! feature it is nothing at all. An order says what a point does, and at which of its hits: `abort@20` is the end of the
//! process at the twentieth hit, without unwinding, as `kill -9` would be; `panic@3x5` panics from the third hit to the
//! seventh; `sleep:400` blocks for 400 ms at the first. Orders come from `FAILPOINTS` (`name=order;name=order`) when the
//! process starts, or while it runs: `PUT /internal/failpoints/{name}` on the internal listener, which asks for no token,
//! because no release has this.

use std::{
    collections::BTreeMap,
    io::Write as _,
    str::FromStr,
    sync::{
        LazyLock, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, bail};
use axum::{Json, Router, extract::Path, http::StatusCode, routing::get};

/// What the suite looks for in a log, and a release check looks for in a binary: it must not be in one.
const MARKER: &str = "fail point fired: ";

/// How often each point was hit since it was armed.
static HITS: LazyLock<Mutex<BTreeMap<String, &'static AtomicU64>>> = LazyLock::new(Mutex::default);

/// What a point does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Abort,
    Panic,
    Sleep(Duration),
}

/// What a point does, from which hit on (from 1), and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Order {
    act: Act,
    first: u64,
    times: u64,
}

impl FromStr for Order {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (text, times) = text.rsplit_once('x').unwrap_or((text, "1"));
        let (act, first) = text.rsplit_once('@').unwrap_or((text, "1"));
        let act = match act.split_once(':') {
            None if act == "abort" => Act::Abort,
            None if act == "panic" => Act::Panic,
            Some(("sleep", millis)) => {
                Act::Sleep(Duration::from_millis(millis.parse().context("milliseconds")?))
            }
            _ => bail!("{act} is none of abort, panic, sleep:MILLISECONDS"),
        };
        let order =
            Self { act, first: first.parse().context("a hit")?, times: times.parse().context("times")? };
        anyhow::ensure!(order.first > 0, "hits are counted from 1");
        Ok(order)
    }
}

/// Carries out what `FAILPOINTS` orders.
///
/// # Errors
/// When an order cannot be read.
pub fn arm_from_environment() -> anyhow::Result<()> {
    let orders = std::env::var("FAILPOINTS").unwrap_or_default();
    for order in orders.split(';').filter(|order| !order.is_empty()) {
        let (name, order) = order.split_once('=').context("FAILPOINTS: name=order;name=order")?;
        arm(name, order)?;
    }
    Ok(())
}

/// `/internal/failpoints`: how often each armed point was hit; `PUT` an order to `/internal/failpoints/{name}`, `DELETE` it.
pub fn routes() -> Router {
    let put = async |Path(name): Path<String>, order: String| match arm(&name, &order) {
        Ok(()) => (StatusCode::OK, String::new()),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error:#}")),
    };
    let delete = async |Path(name): Path<String>| fail::remove(name);
    Router::new()
        .route("/internal/failpoints", get(async || Json(hits())))
        .route("/internal/failpoints/{name}", axum::routing::put(put).delete(delete))
}

fn arm(name: &str, order: &str) -> anyhow::Result<()> {
    let Order { act, first, times } = order.parse().with_context(|| format!("{name}={order}"))?;
    // Points are few and a process of a test is short-lived: their counters are never given back.
    let hits: &'static AtomicU64 = Box::leak(Box::default());
    lock().insert(name.to_owned(), hits);
    let point = name.to_owned();
    let done = fail::cfg_callback(name, move || {
        let hit = hits.fetch_add(1, Ordering::SeqCst) + 1;
        if (first..first.saturating_add(times)).contains(&hit) {
            carry_out(act, &point, hit);
        }
    });
    done.map_err(anyhow::Error::msg)
}

fn carry_out(act: Act, point: &str, hit: u64) {
    // Not through the log: an abort would lose what a logger still has in hand.
    let _ = writeln!(std::io::stderr(), "{MARKER}{point} {act:?} at hit {hit}");
    match act {
        Act::Abort => std::process::abort(),
        Act::Panic => panic!("fail point {point}"),
        Act::Sleep(time) => std::thread::sleep(time),
    }
}

fn hits() -> BTreeMap<String, u64> {
    lock().iter().map(|(name, hits)| (name.clone(), hits.load(Ordering::SeqCst))).collect()
}

fn lock() -> std::sync::MutexGuard<'static, BTreeMap<String, &'static AtomicU64>> {
    HITS.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read() {
        let order = |act, first, times| Order { act, first, times };
        let sleep = Act::Sleep(Duration::from_millis(400));
        for (text, read) in [
            ("abort", order(Act::Abort, 1, 1)),
            ("abort@20", order(Act::Abort, 20, 1)),
            ("panic@3x5", order(Act::Panic, 3, 5)),
            ("sleep:400x2", order(sleep, 1, 2)),
        ] {
            assert_eq!(text.parse::<Order>().unwrap(), read, "{text}");
        }
        for wrong in ["", "exit", "abort@0", "abort@", "sleep", "sleep:x", "panic@1x-1"] {
            assert!(wrong.parse::<Order>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_point_acts_at_its_hits_and_counts_all() {
        arm("service::test", "panic@2x2").unwrap();
        let hit = || std::panic::catch_unwind(|| fail::fail_point!("service::test")).is_err();
        assert_eq!([hit(), hit(), hit(), hit()], [false, true, true, false]);
        assert_eq!(hits()["service::test"], 4);
    }
}
