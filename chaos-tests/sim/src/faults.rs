//! What may go wrong, how often, and how often it did.

use std::collections::BTreeMap;

use crate::rng::Rng;

/// How often each fault strikes, per thousand chances. Each world draws its own mixture, and leaves some faults out
/// altogether: a fault that is always there hides what only happens without it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    /// A request or a reply is lost.
    pub loss: u16,
    /// A request arrives twice.
    pub duplicate: u16,
    /// A request arrives after its caller has given up, perhaps long after its saga is over.
    pub late: u16,
    /// A definite answer that the protocol does not know, from something in between.
    pub garbage: u16,
    /// An orchestrator dies at a step of a saga.
    pub crash: u16,
    /// The task of one saga is lost in an orchestrator that lives on.
    pub lost_run: u16,
    /// An orchestrator's COMMIT has no answer.
    pub unknown: u16,
    /// The wallet's database refuses a statement.
    pub away: u16,
    /// A tender dies within a batch.
    pub tender_crash: u16,
    /// A tender's COMMIT has no answer.
    pub tender_unknown: u16,
    /// Disturbances of a whole process or a clock, per second.
    pub disturb: u16,
}

impl Faults {
    /// A mixture.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut rate = |most: i64| match rng.below(3) {
            0 => 0,
            _ => u16::try_from(rng.between(1, most)).unwrap_or(0),
        };
        Self {
            loss: rate(200),
            duplicate: rate(200),
            late: rate(150),
            garbage: rate(40),
            crash: rate(25),
            lost_run: rate(20),
            unknown: rate(150),
            away: rate(60),
            tender_crash: rate(25),
            tender_unknown: rate(120),
            disturb: rate(400),
        }
    }
}

/// A rule taken out of what surrounds the real cores: a simulation that finds nothing then is worth nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defect {
    /// Transitions are written whatever the row's state.
    StateIgnored,
    /// A cancel that finds nothing leaves nothing.
    NoTombstone,
    /// A decline is answered, and not stored.
    DeclineNotRecorded,
    /// An answer that was told is written over when compensation ends.
    AnswerNotFrozen,
    /// A replay forgets that the key was cancelled meanwhile.
    CancelForgotten,
    /// A redemption is returned without being moved first.
    ReturnNotReserved,
    /// Returned units are written to the lot, and not to the part that they came from.
    ReturnNotCounted,
}

macro_rules! fired {
    ($($name:ident: $what:literal,)*) => {
        /// Everything that a run of many worlds must have seen at least once.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fired { $($name,)* }

        impl Fired {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it means.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$name => $what,)* }
            }
        }
    };
}

fired! {
    CrashRequestRead: "P0  orchestrator died with a request read",
    CrashInserted: "P1  … with a saga committed, nothing sent",
    CrashSent: "P2  … with a leg just sent",
    CrashEffect: "P3  … with a leg's effect committed, its reply on the way",
    CrashReplied: "P4  … with a leg's reply received",
    CrashDecided: "P5  … with a direction decided, not written",
    CrashCompensating: "P6  … with COMPENSATING committed",
    CrashCancelEffect: "P7  … with a cancel's effect committed, its reply on the way",
    CrashCancelReplied: "P8  … with a cancel's reply received",
    CrashTerminal: "P9  … with a terminal state committed",
    CrashAnswered: "P10 … with the answer just sent",
    CrashDeadLetter: "P12 … with a dead letter written",
    CrashCommitting: "… with its COMMIT on the way",
    CrashClaimed: "… with sagas claimed, none started",
    TenderCrashBegin: "T1  tender died before BEGIN",
    TenderCrashLocked: "T2  … with accounts locked, or rows written (T3)",
    TenderCrashCommitted: "T4  … committed, no reply",
    TenderCrashHalf: "T5  … with half of the replies sent",
    TenderAway: "a tender was away, connections refused",
    TenderHung: "a tender accepted and did not answer",
    TenderUnknownDurable: "a tender's COMMIT had no answer, and was durable",
    TenderUnknownLost: "… and was not",
    TenderUnknownPending: "… and ended only later, its locks in the way",
    TenderReplayed: "a stored answer came back",
    RequestLost: "a request was lost",
    ReplyLost: "a reply was lost",
    Duplicated: "a request arrived twice",
    Late: "a request arrived after its saga was over",
    NotSent: "a connection was refused",
    Garbage: "an answer that the protocol does not know",
    TombstoneLeft: "a cancel overtook its forward",
    TombstoneHit: "a late forward met a tombstone",
    ForwardAfterReversal: "a late forward met what had been taken back",
    LegDeclined: "a leg was declined",
    LegExpired: "a leg came past its not_after",
    LegEmpty: "a leg took nothing",
    UnknownDurable: "a wallet COMMIT had no answer, and was durable",
    UnknownLost: "… and was not",
    UnknownPending: "… and ended only later, its locks in the way",
    RecognisedInsert: "a second attempt found its own insert",
    RecognisedMove: "a second attempt found its own transition",
    StoreAway: "the wallet's database refused",
    Paused: "an orchestrator stopped and woke as a zombie",
    BeatLost: "a heartbeat was lost",
    Lapsed: "a run stopped because the heartbeat was overdue",
    TakenOver: "a saga was claimed from a dead owner",
    TakenFromTheLiving: "a saga was claimed though its owner lived",
    AdoptedAgain: "a lost or stuck run was started anew",
    HandedOver: "a saga was handed over in order",
    ZombieMissed: "an earlier owner's transition missed",
    ZombieForward: "an earlier owner's command arrived after a takeover",
    Poisoned: "a saga was parked because its owners died",
    Silent: "a saga was compensated at its deadline",
    DeadLettered: "a saga was parked",
    Replayed: "a dead letter was replayed",
    ReplayLost: "a replay found the dead letter closed",
    ReplayedBack: "an undecided dead letter with a cancelled key was compensated",
    WalletClockJumped: "the wallet database's clock jumped",
    TenderClockJumped: "a tender database's clock jumped",
    KeyTaken: "a key was used before",
    Stale: "a plan's redemption had moved on",
    CancelFirst: "cancel-by-key came before its redeem",
    CancelRunning: "… while it ran",
    CancelElsewhere: "… while it ran at another orchestrator",
    CancelDone: "… after it was completed or authorized",
    CancelBusy: "… while it was captured, returned or under review",
    CancelUndone: "… after it was undone",
    Captured: "a hold was captured",
    Voided: "a hold was voided",
    HoldExpired: "a hold ran out",
    Refunded: "a part was refunded",
    Reversed: "a completed redemption was given back",
    AnswerFrozen: "an answer was told before compensation ended",
    LateAnswered: "a key was asked again long after, and told the same",
}

/// How often each thing happened.
#[derive(Debug, Clone, Default)]
pub struct Coverage(BTreeMap<Fired, u64>);

impl Coverage {
    /// Counts one.
    pub fn count(&mut self, fired: Fired) {
        *self.0.entry(fired).or_default() += 1;
    }

    /// How often it happened.
    pub fn of(&self, fired: Fired) -> u64 {
        self.0.get(&fired).copied().unwrap_or(0)
    }

    /// Adds another world's counts.
    pub fn add(&mut self, other: &Self) {
        for (fired, count) in &other.0 {
            *self.0.entry(*fired).or_default() += count;
        }
    }

    /// What never happened.
    pub fn missing(&self) -> Vec<Fired> {
        Fired::ALL.iter().copied().filter(|fired| self.of(*fired) == 0).collect()
    }
}
