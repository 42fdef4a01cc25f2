//! The migrations and invariants of every database, embedded.
//!
//! [`provision()`] makes a database and its login role from nothing, or brings them up to date, by [`migrate()`]. [`check()`] runs
//! the invariants of a database, [`cross_check`] compares the wallet's sagas with the tenders' legs.

mod cross;
mod invariants;
mod migrate;
mod provision;
mod scram;

use sqlx::migrate::{Migration, Migrator};

pub use cross::{Compared, compare, cross_check};
pub use invariants::{Finding, Invariant, check, invariants};
pub use migrate::{Applied, migrate};
pub use provision::{Target, WITHIN, pending, provision};

static TENDER: Migrator = sqlx::migrate!("../../migrations/tender");
static DIGITAL_REWARDS: Migrator = sqlx::migrate!("../../migrations/digital-rewards");
static WALLET: Migrator = sqlx::migrate!("../../migrations/wallet");

/// A database of the system. Each belongs to one service; no service reads another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Database {
    /// Sagas, redemptions, dead letters.
    Wallet,
    /// Loyalty points.
    Points,
    /// Store credit.
    StoreCredit,
    /// Gift cards and vouchers.
    DigitalRewards,
}

impl Database {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Wallet, Self::Points, Self::StoreCredit, Self::DigitalRewards];

    /// Name of the database, and of the role that its service logs in with.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wallet => "wallet",
            Self::Points => "points",
            Self::StoreCredit => "store_credit",
            Self::DigitalRewards => "digital_rewards",
        }
    }

    /// The environment variable with the URL that its service connects with.
    #[must_use]
    pub const fn url_variable(self) -> &'static str {
        match self {
            Self::Wallet => "WALLET_DATABASE_URL",
            Self::Points => "POINTS_DATABASE_URL",
            Self::StoreCredit => "STORE_CREDIT_DATABASE_URL",
            Self::DigitalRewards => "DIGITAL_REWARDS_DATABASE_URL",
        }
    }

    /// The group role, made by the migrations, that may do what the service does and no more.
    #[must_use]
    pub const fn writer(self) -> &'static str {
        match self {
            Self::Wallet => "wallet_writer",
            _ => "tender_writer",
        }
    }

    /// Its migrations, in order.
    #[must_use]
    pub fn migrations(self) -> Vec<Migration> {
        match self {
            Self::Wallet => WALLET.migrations.to_vec(),
            Self::Points | Self::StoreCredit => TENDER.migrations.to_vec(),
            Self::DigitalRewards => TENDER.iter().chain(DIGITAL_REWARDS.iter()).cloned().collect(),
        }
    }

    /// Whether a migration belongs to those that rows must have been written after: they change what rows mean, and later ones do not.
    pub(crate) const fn is_base(self, version: i64) -> bool {
        match self {
            Self::Wallet => version <= 12,
            Self::Points | Self::StoreCredit => version <= 6,
            Self::DigitalRewards => version <= 6 || (version > 1000 && version <= 1002),
        }
    }

    /// A query: whether its service has written anything.
    pub(crate) const fn has_rows(self) -> &'static str {
        match self {
            Self::Wallet => "SELECT EXISTS (SELECT FROM saga.saga)",
            _ => "SELECT EXISTS (SELECT FROM tender.operation)",
        }
    }

    /// Changes with the migrations: names what was made by exactly these.
    #[must_use]
    pub fn fingerprint(self) -> String {
        let migrations = self.migrations();
        let sum = migrations.iter().flat_map(|migration| migration.checksum.iter()).fold(
            0xcbf2_9ce4_8422_2325_u64, // FNV-1a: a name is needed, not a defence
            |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3),
        );
        format!("{sum:016x}")
    }
}
