//! What must hold, and what breaks it.

use std::fmt;

/// A rule of the system. I14 (what overload may cost) is not here: a load test measures it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Per business and asset, accounts hold what was issued less what was redeemed, at every snapshot; all entries sum to
    /// zero.
    I1,
    /// A key has at most one effect; an acknowledged success has exactly one, an acknowledged refusal none.
    I2,
    /// What was acknowledged is there, from the moment of its acknowledgement.
    I3,
    /// A posted balance is the sum of its entries and of its lots; versions have no gaps, and each follows from the last.
    I4,
    /// Once the faults are over every saga ends: 99 of 100 within ten seconds, all within thirty.
    I5,
    /// No more comes back than was taken, and nothing applies after a refusal or a tombstone.
    I6,
    /// A saga's epoch never falls, and a saga that is not over has a living owner.
    I7,
    /// A completed saga has all its legs in force, a compensated one none, a parked one no more than it says.
    I8,
    /// A parked saga has exactly one open dead letter, and whoever closed one is on record once.
    I9,
    /// Every operation is balanced; no entry is ever changed or removed.
    I10,
    /// After an acknowledged redeem no balance is read that is older, the cache included.
    I11,
    /// What a client was told is how it ended.
    I12,
    /// Every subscriber soon has the final version; versions only rise, and none is told before it is durable.
    I13,
    /// No byte of one business is in anything of another.
    I15,
    /// What became of each redemption is told at least once, under an id that never means anything else.
    I16,
    /// The amounts of the legs sum to what was redeemed.
    I17,
    /// No token, code, key or e-mail address is in a log.
    I18,
    /// An answer that is given again is the same, byte for byte.
    I19,
    /// No leg is without a saga.
    I20,
    /// Clients' histories of each key and of each account have an order in which one caller at a time would have seen the
    /// same.
    Linearizable,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linearizable => f.write_str("linearizability"),
            numbered => fmt::Debug::fmt(numbered, f),
        }
    }
}

/// A case in which a rule does not hold.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The rule.
    pub invariant: Invariant,
    /// Enough to see the case.
    pub case: String,
}

impl Violation {
    /// A case in which `invariant` does not hold.
    #[must_use]
    pub fn new(invariant: Invariant, case: impl Into<String>) -> Self {
        Self { invariant, case: case.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.case)
    }
}
