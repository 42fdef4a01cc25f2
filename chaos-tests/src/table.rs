//! Which scenarios there are: one line a fault.

use std::time::Duration;

use schema::Database;
use testkit::{Mode, Strike, Weather};

use crate::{
    disk::Disk,
    fault::Fault,
    links::Way,
    machine::Machine,
    outage::{ALL, Outage},
    redis::RedisFault,
    who::{CREDIT, POINTS, REWARDS, SECOND, WALLET, Who},
};

/// A scenario: faults that begin one after the other, and end together.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name.
    pub name: String,
    /// What is broken.
    pub faults: Vec<Fault>,
    /// How long the last fault lasts; a fail point ends by itself.
    pub hold: Duration,
    /// How often it is done under one load.
    pub times: u32,
}

type Line = (&'static str, u64, Fault);

const CALM: Weather =
    Weather { latency: Duration::ZERO, jitter: Duration::ZERO, slice: 0, bandwidth: 0, resets_per_mille: 0 };

const fn late(latency_ms: u64, jitter_ms: u64) -> Weather {
    Weather { latency: Duration::from_millis(latency_ms), jitter: Duration::from_millis(jitter_ms), ..CALM }
}

const TOO_MANY: &str = "HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n";
const CONFLICT: &str = "HTTP/1.1 409 Conflict\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n{\"code\":\"no_idea\"}";

/// Name (with its group), milliseconds that it lasts, fault.
const FAULTS: &[Line] = &[
    ("A wallet killed", 2_500, Fault::Kill(&[WALLET], 1)),
    ("A points killed", 2_000, Fault::Kill(&[POINTS], 1)),
    ("A store-credit killed", 2_000, Fault::Kill(&[CREDIT], 1)),
    ("A digital-rewards killed", 2_000, Fault::Kill(&[REWARDS], 1)),
    ("A wallet killed 4x in recovery", 500, Fault::Kill(&[WALLET], 4)),
    ("A both wallets killed 3x", 500, Fault::Kill(&[WALLET, SECOND], 3)),
    ("A everything killed", 500, Fault::Kill(&[POINTS, CREDIT, REWARDS, WALLET, SECOND], 1)),
    ("A wallet told to stop", 1_000, Fault::Terminate(WALLET)),
    ("A store-credit told to stop", 1_000, Fault::Terminate(CREDIT)),
    ("A handler panics", 1_000, Fault::Point(WALLET, "wallet::request_read", "panic@1x50")),
    ("A executor panics", 1_500, Fault::Point(POINTS, "tender::locked", "panic@5x5")),
    ("A sagas panic", 1_500, Fault::Point(SECOND, "saga::leg_replied", "panic@5x20")),
    ("A till gone in its request", 1_000, Fault::Strike(Way::Tills, Strike::RequestAt(200), 20)),
    ("A till gone in its answer", 1_000, Fault::Strike(Way::Tills, Strike::ReplyAt(50), 20)),
    ("B points frozen", 3_000, Fault::Freeze(&[POINTS])),
    ("B store-credit slow", 2_500, Fault::Weather(Way::Tender(CREDIT), late(300, 200))),
    ("B answers at the timeout", 4_000, Fault::Weather(Way::Tender(CREDIT), late(993, 14))),
    ("B answers held after the effect", 3_000, Fault::Mode(Way::Tender(REWARDS), Mode::HoldReplies)),
    ("B forwards after their cancels", 4_500, Fault::Late(Way::Tender(POINTS), 3)),
    (
        "B a trickle",
        2_500,
        Fault::Weather(Way::Tender(POINTS), Weather { slice: 16, bandwidth: 4_000, ..CALM }),
    ),
    ("B garbage for answers", 1_000, Fault::Strike(Way::Tender(CREDIT), Strike::Garbage, 30)),
    ("B answers cut short", 1_000, Fault::Strike(Way::Tender(CREDIT), Strike::ReplyAt(250), 20)),
    ("B answers without end", 1_500, Fault::Strike(Way::Tender(CREDIT), Strike::Flood, 5)),
    ("B too many requests", 1_500, Fault::Strike(Way::Tender(POINTS), Strike::Instead(TOO_MANY), 40)),
    ("B unavailable", 1_500, Fault::Strike(Way::Tender(POINTS), Strike::Instead(UNAVAILABLE), 40)),
    ("B conflict", 1_500, Fault::Strike(Way::Tender(REWARDS), Strike::Instead(CONFLICT), 40)),
    ("B failure after the commit", 1_500, Fault::Point(CREDIT, "tender::half_a_reply", "panic@1x40")),
    ("B executor slow", 2_500, Fault::Point(REWARDS, "tender::locked", "sleep:600@1x3")),
    ("C reset in a request", 1_500, Fault::Strike(Way::Legs, Strike::RequestAt(100), 10)),
    ("C reset in an answer", 1_500, Fault::Strike(Way::Legs, Strike::ReplyAt(60), 10)),
    ("C half-closed", 1_500, Fault::Strike(Way::Legs, Strike::HalfClose, 10)),
    ("C one-way partition", 3_000, Fault::Mode(Way::From(0), Mode::HoldRequests)),
    ("C partition", 3_000, Fault::Mode(Way::From(1), Mode::HoldAll)),
    ("C tills cut off", 2_500, Fault::Mode(Way::Till(0), Mode::HoldReplies)),
    ("C flapping", 4_000, Fault::Flap(Way::Legs, Mode::Cut, 300)),
    ("C loss of 5 %", 2_500, Fault::Weather(Way::Legs, Weather { resets_per_mille: 50, ..CALM })),
    ("C packets lost, 5 %", 2_500, Fault::Machine(Machine::PacketsLost(Way::Legs, 5))),
    ("C packets lost, 30 %", 3_000, Fault::Machine(Machine::PacketsLost(Way::Legs, 30))),
    ("C another tender's address", 2_000, Fault::Astray(Way::Tender(POINTS), CREDIT)),
    ("C requests twice", 2_000, Fault::Strike(Way::Legs, Strike::Twice, 10)),
    ("C refused", 2_500, Fault::Refuse(Way::Tender(REWARDS))),
    ("C 8 kbit/s", 3_000, Fault::Weather(Way::Tender(CREDIT), Weather { bandwidth: 1_000, ..CALM })),
    ("D saga commits without answer", 1_500, Fault::Strike(Way::Sagas, Strike::CommitReply, 4)),
    ("D saga commits lost", 1_500, Fault::Strike(Way::Sagas, Strike::Commit, 4)),
    ("D ledger commits without answer", 1_500, Fault::Strike(Way::Ledgers, Strike::CommitReply, 4)),
    ("D ledger commits lost", 1_500, Fault::Strike(Way::Ledgers, Strike::Commit, 4)),
    ("D Postgres restarts 3x", 0, Fault::Outage(ALL, Outage::Restarts(3))),
    ("D backend killed", 1_000, Fault::Outage(ALL, Outage::BackendKilled)),
    ("D sessions ended", 500, Fault::Outage(ALL, Outage::SessionsEnded(6))),
    ("D statements cancelled", 500, Fault::Outage(ALL, Outage::StatementsCancelled(40))),
    ("D rows locked", 3_000, Fault::Outage(ALL, Outage::RowsLocked)),
    ("D tables locked", 3_000, Fault::Outage(ALL, Outage::TablesLocked)),
    ("D deadlocks", 500, Fault::Outage(ALL, Outage::Deadlocks(40))),
    ("D disk full", 2_500, Fault::Disk(Disk::Full)),
    ("D disk hangs", 3_000, Fault::Disk(Disk::Frozen)),
    ("D disk fails to sync", 1_500, Fault::Disk(Disk::SyncFails)),
    ("D the last half second lost", 1_500, Fault::Outage(ALL, Outage::Forgets)),
    ("D read-only", 2_500, Fault::Outage(ALL, Outage::ReadOnly)),
    ("D connections exhausted", 2_000, Fault::Outage(ALL, Outage::Exhausted)),
    ("D Postgres frozen", 3_000, Fault::Outage(ALL, Outage::Frozen)),
    ("D wallet Postgres restarts 3x", 0, Fault::Outage(&[Database::Wallet], Outage::Restarts(3))),
    ("D store-credit Postgres restarts 3x", 0, Fault::Outage(&[Database::StoreCredit], Outage::Restarts(3))),
    ("D half a second lost by the wallet", 1_500, Fault::Outage(&[Database::Wallet], Outage::Forgets)),
    ("D half a second lost by points", 1_500, Fault::Outage(&[Database::Points], Outage::Forgets)),
    ("D wallet without Postgres", 3_000, Fault::Mode(Way::Saga(0), Mode::HoldAll)),
    ("D nobody hears Postgres", 2_500, Fault::Mode(Way::Databases, Mode::HoldReplies)),
    ("D tender refused by Postgres", 2_500, Fault::Refuse(Way::Ledger(CREDIT))),
    ("E Redis killed", 2_000, Fault::Redis(RedisFault::Killed)),
    ("E Redis frozen", 2_500, Fault::Redis(RedisFault::Frozen)),
    ("E Redis emptied", 1_500, Fault::Redis(RedisFault::Told("FLUSHALL"))),
    ("E Redis drops its clients", 1_500, Fault::Redis(RedisFault::Told("CLIENT KILL TYPE normal"))),
    ("E Redis drops its subscribers", 1_500, Fault::Redis(RedisFault::Told("CLIENT KILL TYPE pubsub"))),
    ("E Redis full", 2_500, Fault::Redis(RedisFault::Full)),
    ("E Redis a black hole", 2_500, Fault::Mode(Way::Caches, Mode::HoldReplies)),
    ("E Redis slow", 1_500, Fault::Weather(Way::Caches, late(80, 80))),
    ("F zombie wallet", 3_500, Fault::Freeze(&[WALLET])),
    ("F zombie in a transaction", 4_500, Fault::Point(CREDIT, "tender::written", "sleep:3500@3x1")),
    ("F zombie at its own commit", 4_500, Fault::Point(WALLET, "saga::written", "sleep:3500@3x1")),
    ("F clock an hour ahead and back", 6_000, Fault::Outage(ALL, Outage::ClockJumps(&["+1h", "+0"]))),
    ("F clock a day back and forth", 9_000, Fault::Outage(ALL, Outage::ClockJumps(&["-1d", "+1d", "-1h"]))),
    ("F wallet clock 13 s ahead", 5_000, Fault::Apart(Database::Wallet, 13)),
    ("F wallet clock 13 s behind", 5_000, Fault::Apart(Database::Wallet, -13)),
    ("F wallet clock an hour ahead", 5_000, Fault::Apart(Database::Wallet, 3_600)),
    ("F wallet clock an hour behind", 5_000, Fault::Apart(Database::Wallet, -3_600)),
    ("F points clock 13 s ahead", 5_000, Fault::Apart(Database::Points, 13)),
    ("F points clock 13 s behind", 5_000, Fault::Apart(Database::Points, -13)),
    ("F points clock an hour ahead", 5_000, Fault::Apart(Database::Points, 3_600)),
    ("F points clock an hour behind", 5_000, Fault::Apart(Database::Points, -3_600)),
    ("F same key on both", 0, Fault::SameKey(1_000)),
    ("F one balance", 0, Fault::OneBalance(500)),
    ("G cancels fail, then work", 3_000, Fault::Refuse(Way::Tender(POINTS))),
    ("G dead letters", 9_000, Fault::Freeze(&[POINTS])),
    ("G store-credit legs hang", 4_000, Fault::LegsHang(Database::StoreCredit)),
    ("G burst of ten times the tills", 2_000, BURST),
    ("G processors busy", 3_000, Fault::Machine(Machine::Busy(16))),
    ("G storm of retries", 2_500, Fault::Burst(96, 120)),
];

/// What takes two: the first makes the second strike, and ends after it.
const TOGETHER: &[(&str, u64, &[Fault])] = &[
    ("A out of memory", 1_500, &[BURST, Fault::Machine(Machine::OutOfMemory(WALLET))]),
    ("A tender out of memory", 1_500, &[BURST, Fault::Machine(Machine::OutOfMemory(REWARDS))]),
    ("G out of descriptors", 2_500, &[BURST, Fault::Machine(Machine::OutOfDescriptors(WALLET))]),
    ("G parking refused", 9_000, &[Fault::ParkingRefused, Fault::Freeze(&[POINTS])]),
    ("G dead letters replayed on and on", 12_000, &[Fault::Freeze(&[POINTS]), Fault::Replays]),
];

const BURST: Fault = Fault::Burst(320, 5_000);

/// In pairs only: another wallet than the one that is killed.
const ZOMBIE: Line = ("F zombie at the other wallet", 3_500, Fault::Freeze(&[SECOND]));

/// Of these, ordered pairs are made: each on something else, so that one does not keep the other from happening.
const TELLING: &[&str] = &[
    "A wallet killed",
    "A store-credit killed",
    "B answers held after the effect",
    "B forwards after their cancels",
    "C requests twice",
    "C flapping",
    "D saga commits without answer",
    "D ledger commits without answer",
    "D sessions ended",
    "D Postgres restarts 3x",
    "E Redis killed",
    "F zombie at the other wallet",
];

/// Persistence points: name, process, fail point, and up to which hit it waits. What comes once a batch has few hits.
const POINTS_OF_NO_RETURN: &[(&str, Who, &str, u64)] = &[
    ("P0 request read", WALLET, "wallet::request_read", 100),
    ("P1 saga committed", SECOND, "saga::inserted", 100),
    ("P1 batch written", WALLET, "saga::written", 60),
    ("P1 batch committed", WALLET, "saga::committed", 60),
    ("P2 legs sent", SECOND, "wallet::legs_sent", 60),
    ("P3 leg's effect committed", WALLET, "wallet::leg_done", 150),
    ("P4 reply received", SECOND, "saga::leg_replied", 150),
    ("P5 direction decided", WALLET, "saga::decided", 60),
    ("P6 COMPENSATING committed", SECOND, "saga::compensating", 10),
    ("P7 cancel's effect committed", WALLET, "wallet::cancel_done", 20),
    ("P8 cancel's reply", SECOND, "saga::cancel_replied", 20),
    ("P9 terminal state committed", WALLET, "saga::ended", 60),
    ("P10 answer ready", SECOND, "wallet::answering", 60),
    ("P11 events published, not marked", WALLET, "events::published", 20),
    ("P11 balances published, not marked", POINTS, "events::published", 20),
    ("P13 floor raised", SECOND, "wallet::floor_raised", 100),
    ("T1 before BEGIN", POINTS, "tender::before_begin", 60),
    ("T2 accounts locked", CREDIT, "tender::locked", 60),
    ("T3 rows written", REWARDS, "tender::written", 60),
    ("T4 committed, no reply", CREDIT, "tender::committed", 60),
    ("T5 half a reply", POINTS, "tender::half_a_reply", 100),
];

impl Scenario {
    /// Whether its faults may be brought about while others last: they begin at once, and need no process to be well.
    #[must_use]
    pub fn is_compatible(&self) -> bool {
        let waits = |fault: &Fault| {
            matches!(
                fault,
                Fault::Mode(..)
                    | Fault::Weather(..)
                    | Fault::Refuse(_)
                    | Fault::Redis(RedisFault::Frozen)
                    | Fault::Redis(RedisFault::Told(_))
            )
        };
        self.faults.iter().all(waits)
    }

    /// What this machine lacks for it, if anything.
    #[must_use]
    pub fn lacks(&self) -> Option<&'static str> {
        self.faults.iter().find_map(Fault::lacks)
    }

    /// Both, the other's faults first.
    #[must_use]
    pub fn after(mut self, mut first: Self) -> Self {
        first.faults.append(&mut self.faults);
        Self { name: format!("{}{JOINT}{}", first.name, self.name), hold: first.hold.max(self.hold), ..first }
    }
}

/// Between the names of faults that are brought about together.
pub const JOINT: &str = " + ";

/// What scenarios are made of.
pub fn parts() -> impl Iterator<Item = Scenario> {
    FAULTS.iter().chain([&ZOMBIE]).map(|line| single(*line))
}

/// One scenario a fault.
#[must_use]
pub fn singles() -> Vec<Scenario> {
    let alone = FAULTS.iter().map(|line| single(*line));
    alone.chain(TOGETHER.iter().map(|(name, hold, faults)| joined(name, *hold, faults))).collect()
}

fn single((name, hold, fault): Line) -> Scenario {
    joined(name, hold, &[fault])
}

fn joined(name: &str, hold: u64, faults: &[Fault]) -> Scenario {
    Scenario { name: name.to_owned(), faults: faults.to_vec(), hold: Duration::from_millis(hold), times: 1 }
}

/// Every persistence point, each as often as said.
#[must_use]
pub fn matrix(times: u32) -> Vec<Scenario> {
    let scenario =
        |name: &str, faults| Scenario { name: name.to_owned(), faults, hold: Duration::ZERO, times };
    let mut scenarios: Vec<Scenario> = POINTS_OF_NO_RETURN
        .iter()
        .map(|(name, who, point, hits)| scenario(name, vec![Fault::Crash(*who, point, *hits)]))
        .collect();
    scenarios.push(scenario("P10 answer sent", vec![Fault::KillAfterAnswers(WALLET, 100)]));
    // A saga is parked once a cancel has failed for long enough.
    let parked = vec![Fault::Freeze(&[POINTS]), Fault::Crash(WALLET, "saga::parked", 3)];
    scenarios.push(scenario("P12 dead letter written", parked));
    // Sagas are taken over once their owner is dead.
    let claimed = vec![Fault::Crash(SECOND, "saga::claimed", 1), Fault::Kill(&[WALLET], 1)];
    scenarios.push(Scenario { hold: Duration::from_secs(3), ..scenario("C16 taken over", claimed) });
    scenarios
}

/// Every ordered pair of the most telling faults.
#[must_use]
pub fn pairs() -> Vec<Scenario> {
    let telling: Vec<Line> =
        FAULTS.iter().chain([&ZOMBIE]).filter(|(name, ..)| TELLING.contains(name)).copied().collect();
    let mut pairs = Vec::new();
    for first in &telling {
        for second in telling.iter().filter(|second| second.0 != first.0) {
            pairs.push(single(*second).after(single(*first)));
        }
    }
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_there_once_and_every_telling_fault_is_known() {
        let all: Vec<Scenario> = singles().into_iter().chain(matrix(1)).chain(pairs()).collect();
        let mut names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
        assert_eq!(pairs().len(), TELLING.len() * (TELLING.len() - 1));
    }
}
