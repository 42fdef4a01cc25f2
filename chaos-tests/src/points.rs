//! Orders to fail points of running processes. Their binaries have to be built with the feature `failpoints`.

use std::collections::BTreeMap;

use crate::{cluster::Cluster, who::Who};

/// What a process writes to its log when a point acts.
const MARKER: &str = "fail point fired: ";

/// Arms a point.
///
/// # Panics
/// When the process has no fail points.
pub async fn arm(cluster: &Cluster, who: Who, point: &str, order: &str) {
    let request = cluster.client.put(url(cluster, who, point)).body(order.to_owned());
    let answer = request.send().await.expect("an answer");
    assert!(answer.status().is_success(), "no fail points: build with the feature (script/chaos does)");
}

/// Disarms a point; a process that died meanwhile has none.
pub async fn disarm(cluster: &Cluster, who: Who, point: &str) {
    let _ = cluster.client.delete(url(cluster, who, point)).send().await;
}

/// How often a point has acted, by its hits and its order.
///
/// # Panics
/// When the process does not answer.
pub async fn fired(cluster: &Cluster, who: Who, point: &str, order: &str) -> u64 {
    let url = url(cluster, who, "");
    let answer = cluster.client.get(url.trim_end_matches('/')).send().await.expect("an answer");
    let hits: BTreeMap<String, u64> = answer.json().await.expect("counters");
    let (order, times) = order.split_once('x').unwrap_or((order, "1"));
    let first: u64 = order.split_once('@').map_or(1, |(_, first)| first.parse().expect("a hit"));
    let times: u64 = times.parse().expect("times");
    (hits.get(point).copied().unwrap_or(0) + 1).saturating_sub(first).min(times)
}

/// How many aborts and other acts of a point a process has logged since it was first started.
#[must_use]
pub fn logged(cluster: &Cluster, who: Who, point: &str) -> u64 {
    let name = &cluster.nodes().nth(who).expect("a process").name;
    cluster.log(name).matches(&format!("{MARKER}{point} ")).count() as u64
}

fn url(cluster: &Cluster, who: Who, point: &str) -> String {
    let node = cluster.nodes().nth(who).expect("a process");
    format!("{}/internal/failpoints/{point}", node.internal)
}
