//! Who calls, and whether they may: the permission is the type in the handler's signature.
//!
//! ```ignore
//! async fn create_credit(caller: Allow<Issue>, key: IdempotencyKey, body: Body<NewCredit>) -> …
//! ```
//! A handler that names [`Allow`] first answers 401 before 403 before everything else. There is no other
//! way to a [`Caller`], and none from one listener's tokens to the other's: each has its own keys, issuer
//! and audience.

mod extract;
mod generate;
mod keys;
mod mint;
mod verify;

use api::{BusinessId, Code, CustomerId};

pub use extract::{Allow, AllowSocket, Peer, SOCKET_PROTOCOL};
pub use generate::KeyPair;
pub use keys::KeySet;
pub use mint::{Claims, ServiceTokens, Signer};
pub use verify::{Audience, INTERNAL_AUDIENCE, PUBLIC_AUDIENCE, Verifier};

use crate::ApiError;

/// What a token's bearer is to the business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The holder of a wallet: their own only.
    Customer,
    /// A till or a checkout.
    Pos,
    /// Issues, adjusts, freezes.
    Manager,
    /// Reads and reports.
    Finance,
    /// Sagas and dead letters.
    Ops,
    /// Everything but operations and internals.
    Admin,
    /// Another service of ours.
    Service,
}

impl Role {
    /// The role with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "customer" => Self::Customer,
            "pos" => Self::Pos,
            "manager" => Self::Manager,
            "finance" => Self::Finance,
            "ops" => Self::Ops,
            "admin" => Self::Admin,
            "service" => Self::Service,
            _ => return None,
        })
    }
}

/// A set of roles, any of which will do.
pub trait Roles: Send + Sync + 'static {
    /// The roles.
    const ANY_OF: &'static [Role];
}

macro_rules! roles {
    ($($(#[$doc:meta])* $name:ident: $($role:ident)|+;)*) => {
        $($(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct $name;

        impl Roles for $name {
            const ANY_OF: &'static [Role] = &[$(Role::$role),+];
        })*
    };
}

// One line a row of the role matrix.
roles! {
    /// Balances, histories, redemptions, streams; a customer their own.
    Read: Customer | Pos | Manager | Finance | Admin;
    /// Redeem and quote; a customer from their own wallet.
    Spend: Customer | Pos | Manager | Admin;
    /// Cancel by key, capture, void, refund, earn points.
    Till: Pos | Manager | Admin;
    /// Credits, adjustments, freezing, extending.
    Issue: Manager | Admin;
    /// Reports, and approving what others asked for.
    Audit: Manager | Finance | Admin;
    /// Settings.
    Administer: Admin;
    /// Everything under `/ops`, and nothing else.
    Operate: Ops;
}

/// Who calls, after all checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The token's `sub`.
    pub subject: String,
    /// The business whose data this request is about.
    pub business_id: BusinessId,
    /// All roles of the token.
    pub roles: Vec<Role>,
    /// Set when nothing but the customer role admits this caller: then only this customer's value is theirs.
    pub own_customer: Option<CustomerId>,
    /// Where the caller may act; `None` is everywhere.
    pub location_ids: Option<Vec<String>>,
    /// Until when the token is believed, in seconds since 1970: for connections that outlive their request.
    pub expires_at: i64,
}

impl Caller {
    /// Whether the token has this role.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Whether this customer's value is the caller's to see and use.
    #[must_use]
    pub fn may_act_for(&self, customer: &CustomerId) -> bool {
        self.own_customer.as_ref().is_none_or(|own| own == customer)
    }

    /// Whether the caller may act at this location.
    #[must_use]
    pub fn may_act_at(&self, location: &str) -> bool {
        self.location_ids.as_ref().is_none_or(|ids| ids.iter().any(|id| id == location))
    }

    /// Refuses what is done at a location that is not the caller's, or at none that is named, where the token says which they are.
    ///
    /// # Errors
    /// 403 `role_missing`.
    pub fn require_location(&self, location: Option<&str>) -> Result<(), ApiError> {
        let is_elsewhere = match location {
            Some(location) => !self.may_act_at(location),
            None => self.location_ids.is_some(),
        };
        if is_elsewhere {
            return Err(ApiError::new(
                Code::RoleMissing,
                "The token does not allow acting at this location.",
            ));
        }
        Ok(())
    }

    /// Refuses another customer's value exactly like what does not exist.
    ///
    /// # Errors
    /// 404 `not_found`.
    pub fn require_customer(&self, customer: &CustomerId) -> Result<(), ApiError> {
        if self.may_act_for(customer) { Ok(()) } else { Err(ApiError::not_found()) }
    }
}
