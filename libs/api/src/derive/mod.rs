//! Everything that is derived from what a caller sent: ids, buckets, locks and hashes of requests. Each is written into rows
//! that are kept for ever, so each is final: `golden.rs` pins it by literals that were computed by another program.
//!
//! | derived | from | kept in |
//! |---|---|---|
//! | [`LegsId::derive`]: `key_id`, the legs of a saga | business, operation, scope, key | wallet and tenders |
//! | [`LegsId::of_child`]: `key_id` of a capture, void, return | business, operation, the redemption's id, key; its bucket | wallet |
//! | [`fresh_id`]: sagas, redemptions | time and chance; a bucket | wallet |
//! | [`leg_operation_id`] | business, legs id, leg; the account's bucket | tenders |
//! | [`public_operation_id`] | business, owner, operation, key; the account's bucket | tenders |
//! | [`lot_end_id`] | lot, how often it has ended; the account's bucket | tenders |
//! | [`absent_account`] | business, owner, asset | tenders |
//! | [`reward_id`] | business, customer or nobody, key of its issue | digital rewards |
//! | [`bearer_owner`] | a reward's id | digital rewards, plans |
//! | [`orphan_key`] | tender, legs id, leg | wallet |
//! | [`sequence_guard`], [`pause_guard`] and their [`lock_key`] | what is guarded | locks of the wallet's database |
//! | [`RequestForm`] and [`RequestHash`] | what a request means: [`requests`] | wallet and tenders |
//!
//! A reward's code is derived where its secret is: `services/digital-rewards/src/code.rs`. Drawn and not derived are the ids of
//! lots (UUIDv7: their order is age), of processes and of traces; never kept are an executor's choice of shard and the digests
//! of tokens in memory.
//!
//! **Parts never run together**: a digest covers the length of each part (64 bits, big endian) before its bytes, and its first
//! part says what is derived. An id is the first 128 bits of it, marked as a UUID of version 8.
//!
//! **A bucket is 8 bits** ([`Bucket`]), and stays where it is for ever. An id that carries one carries it in its last byte:
//! there, neither the version and variant of a UUID nor the order of version 7 are touched.

mod canonical;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod meaning;
pub mod requests;

use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use canonical::{Fields, HASH_VERSION, RequestForm, RequestHash, UnknownHashVersion};

use crate::{BusinessId, LegsId};

/// Where in an id its bucket is.
const BUCKET_BYTE: usize = 15;

/// Between business and owner in an account's bucket: neither has it, both are visible ASCII.
const UNIT_SEPARATOR: u8 = 0x1f;

/// One of 256 parts of a service's data. What belongs to one bucket is in one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bucket(pub u8);

impl Bucket {
    /// Of an account: all that one owner has with one business.
    #[must_use]
    pub fn of_account(business: &BusinessId, owner: &str) -> Self {
        let hash = Sha256::new().chain_update(business.as_str()).chain_update([UNIT_SEPARATOR]);
        Self(hash.chain_update(owner).finalize()[0])
    }

    /// Of a saga, by the hash of its key: a key alone must find its saga.
    #[must_use]
    pub const fn of_key(key_id: LegsId) -> Self {
        Self(key_id.0.as_bytes()[0])
    }

    /// That an id carries: of a saga, a redemption, an operation of a tender.
    #[must_use]
    pub const fn of_id(id: Uuid) -> Self {
        Self(id.as_bytes()[BUCKET_BYTE])
    }

    fn mark(self, id: Uuid) -> Uuid {
        let mut bytes = id.into_bytes();
        bytes[BUCKET_BYTE] = self.0;
        Uuid::from_bytes(bytes)
    }
}

impl LegsId {
    /// The id of `operation` under `key`, in `scope` (empty, or the customer whose token it was).
    #[must_use]
    pub fn derive(business: &BusinessId, operation: &str, scope: &str, key: &str) -> Self {
        Self(derived_uuid(&["legs", business.as_str(), operation, scope, key]))
    }

    /// The id of `operation` on the redemption `parent` under `key`: in the redemption's bucket, and no other redemption's
    /// whatever the key.
    #[must_use]
    pub fn of_child(business: &BusinessId, operation: &str, parent: Uuid, key: &str) -> Self {
        let mut bytes = Self::derive(business, operation, &parent.to_string(), key).0.into_bytes();
        bytes[0] = Bucket::of_id(parent).0;
        Self(Uuid::from_bytes(bytes))
    }
}

/// A new id (UUIDv7) that carries a bucket. Of its 74 bits of counter and chance 66 are left: within a millisecond and a
/// bucket.
#[must_use]
pub fn fresh_id(bucket: Bucket) -> Uuid {
    bucket.mark(Uuid::now_v7())
}

/// The operation of a leg on an account of `owner`.
#[must_use]
pub fn leg_operation_id(business: &BusinessId, owner: &str, legs_id: LegsId, leg: u16) -> Uuid {
    let id = derived_uuid(&["leg", business.as_str(), &legs_id.to_string(), &leg.to_string()]);
    Bucket::of_account(business, owner).mark(id)
}

/// A public operation on an account of `owner` under an idempotency key.
#[must_use]
pub fn public_operation_id(business: &BusinessId, owner: &str, operation: &str, key: &str) -> Uuid {
    let id = derived_uuid(&["operation", business.as_str(), owner, operation, key]);
    Bucket::of_account(business, owner).mark(id)
}

/// The operation that moves out what is left of a lot of `owner` at one of its ends, of which `times` were before.
#[must_use]
pub fn lot_end_id(business: &BusinessId, owner: &str, lot_id: Uuid, times: i32) -> Uuid {
    let id = derived_uuid(&["expire", &lot_id.to_string(), &times.to_string()]);
    Bucket::of_account(business, owner).mark(id)
}

/// The number of the account of `owner` while it is not stored, since nothing was ever issued to it: below zero, and a function of
/// what it is, so that what is declined or cancelled for it can be told apart from what belongs to others.
#[must_use]
pub fn absent_account(business: &BusinessId, owner: &str, asset: &str) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] =
        *derived_uuid(&["account", business.as_str(), owner, asset]).as_bytes();
    i64::from_be_bytes([a | 0x80, b, c, d, e, f, g, h])
}

/// The reward that is issued to `customer` (empty: to its bearer) under an idempotency key. It comes before the operation that
/// issues it, for a bearer's reward is its own account's owner.
#[must_use]
pub fn reward_id(business: &BusinessId, customer: &str, key: &str) -> Uuid {
    derived_uuid(&["reward", business.as_str(), customer, key])
}

/// What the owner of a bearer's reward begins with, and no customer's id may.
pub const BEARER: &str = "bearer:";

/// The owner of the account of a reward that belongs to its bearer.
#[must_use]
pub fn bearer_owner(reward_id: Uuid) -> String {
    format!("{BEARER}{reward_id}")
}

/// The key of the stub of a leg that belongs to no saga: one leg is parked once, whoever finds it.
#[must_use]
pub fn orphan_key(tender: &str, legs_id: LegsId, leg: u16) -> String {
    format!("{tender} {legs_id}/{leg}")
}

/// What a till may do once: its own count of an order's redemptions, at its place.
#[must_use]
pub fn sequence_guard(business: &str, location: &str, terminal: &str, order: &str, sequence: i64) -> Uuid {
    derived_uuid(&["sequence", business, location, terminal, order, &sequence.to_string()])
}

/// What one operator changes at a time: whether a business's tender is in service.
#[must_use]
pub fn pause_guard(business: &str, tender: &str) -> Uuid {
    derived_uuid(&["pause", business, tender])
}

/// The advisory lock of a guard: its first 64 bits. Two guards that share it wait for each other, and nothing else.
#[must_use]
pub const fn lock_key(guard: Uuid) -> i64 {
    let [a, b, c, d, e, f, g, h, ..] = *guard.as_bytes();
    i64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// A UUID (version 8) that is a function of `parts` alone.
#[must_use]
pub fn derived_uuid(parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn business() -> BusinessId {
        BusinessId::try_from("demo".to_owned()).expect("an id")
    }

    #[test]
    fn parts_never_run_together() {
        assert_ne!(derived_uuid(&["a", "bc"]), derived_uuid(&["ab", "c"]));
        assert_ne!(derived_uuid(&["a", ""]), derived_uuid(&["a"]));
        let id = LegsId::derive(&business(), "redeem", "", "k1");
        assert_ne!(id, LegsId::derive(&business(), "redeem", "k", "1"));
        assert_ne!(id, LegsId::derive(&business(), "redee", "m", "k1"));
    }

    #[test]
    fn a_fresh_id_carries_its_bucket_and_stays_a_uuid_in_order_of_time() {
        let mut last = Uuid::nil();
        for bucket in (0..=u8::MAX).map(Bucket) {
            let id = fresh_id(bucket);
            assert_eq!((Bucket::of_id(id), id.get_version_num()), (bucket, 7));
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
            assert!(last < id, "{last} {id}");
            last = id;
        }
    }

    #[test]
    fn an_operation_carries_its_accounts_bucket_whatever_the_legs_bucket() {
        let (one, other) =
            (Bucket::of_account(&business(), "cus_1"), Bucket::of_account(&business(), "cus_2"));
        assert_ne!(one, other);
        let legs_id = LegsId::derive(&business(), "redeem", "", "k1");
        assert_eq!(Bucket::of_id(leg_operation_id(&business(), "cus_1", legs_id, 0)), one);
        assert_eq!(Bucket::of_id(leg_operation_id(&business(), "cus_2", legs_id, 0)), other);
        assert_eq!(Bucket::of_id(public_operation_id(&business(), "cus_2", "credit", "k1")), other);
    }

    #[test]
    fn a_child_is_in_its_parents_bucket_and_its_key_is_that_redemptions_own() {
        let (one, other) = (fresh_id(Bucket(7)), fresh_id(Bucket(7)));
        let child = LegsId::of_child(&business(), "capture", one, "k");
        assert_eq!((Bucket::of_key(child), child.0.get_version_num()), (Bucket(7), 8));
        assert_ne!(child, LegsId::of_child(&business(), "capture", other, "k"));
        assert_ne!(child, LegsId::of_child(&business(), "void", one, "k"));
    }
}
