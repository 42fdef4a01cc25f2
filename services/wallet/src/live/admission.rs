//! How many clients watch at once: of this process, of one business, of one customer.
//!
//! A client is a connection for as long as it watches. All of them together have at most half of the listener's connections,
//! so that a till finds its place however many watch; a business has a part of that, and a customer a part of the business's.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use api::{BusinessId, Code, tender::Owner};
use metrics::counter;
use service::{ApiError, accept::Limits};

/// Most clients that watch a customer with the customer's own token.
const OWN_CLIENTS: usize = 50;
/// Most that watch a customer with whatever token.
const CUSTOMER_CLIENTS: usize = 200;
/// When a client that found no room is to come back: others have left by then, or another instance has room.
const COME_BACK: Duration = Duration::from_secs(5);

/// How many clients one process serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    all: usize,
    of_business: usize,
}

impl ClientLimits {
    /// `all` clients of a listener of so many connections, half of them unless said otherwise; `of_business` of one
    /// business, half of all unless said otherwise.
    ///
    /// # Errors
    /// When all are more than half of the connections, or one business's more than all.
    pub fn try_new(
        connections: usize,
        all: Option<usize>,
        of_business: Option<usize>,
    ) -> anyhow::Result<Self> {
        let half = connections / 2;
        let all = all.unwrap_or(half);
        anyhow::ensure!(
            all <= half,
            "STREAMS_MAX is {all}, more than half of MAX_CONNECTIONS ({connections}): streams would keep tills out"
        );
        let of_business = of_business.unwrap_or(all.div_ceil(2));
        anyhow::ensure!(
            of_business <= all,
            "STREAMS_PER_BUSINESS_MAX is {of_business}, more than STREAMS_MAX ({all})"
        );
        Ok(Self { all, of_business })
    }
}

impl Default for ClientLimits {
    /// Those of a listener with its default of connections.
    fn default() -> Self {
        let all = Limits::default().connections / 2;
        Self { all, of_business: all.div_ceil(2) }
    }
}

/// Counts the clients of one process. Clones share the counts.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    limits: ClientLimits,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    of_business: HashMap<BusinessId, usize>,
    of_customer: HashMap<Owner, usize>,
    own: HashMap<Owner, usize>,
}

/// A client that was admitted. Dropped, its room is another's.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Admission,
    owner: Owner,
    is_own: bool,
}

impl Admission {
    pub(super) fn new(limits: ClientLimits) -> Self {
        for limit in ["process", "business", "customer"] {
            counter!("hub_clients_refused_total", "limit" => limit).increment(0);
        }
        Self { limits, counts: Arc::default() }
    }

    /// Room for one more client of this customer; `is_own` says that it came with the customer's own token.
    ///
    /// # Errors
    /// 503 `overloaded` when this process serves as many as it takes, 429 `rate_limited` when the business or the customer
    /// has as many as it may.
    pub(super) fn admit(&self, owner: &Owner, is_own: bool) -> Result<Admitted, ApiError> {
        let mut counts = self.lock();
        if counts.all >= self.limits.all {
            return Err(refused("process", ApiError::overloaded()));
        }
        if count(&counts.of_business, &owner.business_id) >= self.limits.of_business {
            return Err(too_many("business", "This business watches with too many clients."));
        }
        let is_full = count(&counts.of_customer, owner) >= CUSTOMER_CLIENTS;
        if is_full || (is_own && count(&counts.own, owner) >= OWN_CLIENTS) {
            return Err(too_many("customer", "This customer is watched by too many clients."));
        }
        counts.all += 1;
        *counts.of_business.entry(owner.business_id.clone()).or_default() += 1;
        *counts.of_customer.entry(owner.clone()).or_default() += 1;
        if is_own {
            *counts.own.entry(owner.clone()).or_default() += 1;
        }
        Ok(Admitted { admission: self.clone(), owner: owner.clone(), is_own })
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut counts = self.admission.lock();
        counts.all -= 1;
        leave(&mut counts.of_business, &self.owner.business_id);
        leave(&mut counts.of_customer, &self.owner);
        if self.is_own {
            leave(&mut counts.own, &self.owner);
        }
    }
}

fn count<K: Hash + Eq>(counts: &HashMap<K, usize>, key: &K) -> usize {
    counts.get(key).copied().unwrap_or(0)
}

/// One less; who has none left is forgotten.
fn leave<K: Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn too_many(limit: &'static str, detail: &'static str) -> ApiError {
    refused(limit, ApiError::new(Code::RateLimited, detail))
}

fn refused(limit: &'static str, error: ApiError) -> ApiError {
    counter!("hub_clients_refused_total", "limit" => limit).increment(1);
    error.retry_after(COME_BACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(business: &str, customer: &str) -> Owner {
        Owner {
            business_id: business.to_owned().try_into().expect("an id"),
            customer_id: customer.to_owned().try_into().expect("an id"),
        }
    }

    #[test]
    fn streams_have_at_most_half_of_the_connections_and_a_business_half_of_those() {
        let of = |all, business| ClientLimits::try_new(64, all, business).ok();
        assert_eq!(of(None, None), Some(ClientLimits { all: 32, of_business: 16 }));
        assert_eq!(of(Some(32), Some(32)), Some(ClientLimits { all: 32, of_business: 32 }));
        assert_eq!((of(Some(33), None), of(Some(8), Some(9))), (None, None));
    }

    #[test]
    fn process_business_and_customer_have_their_share_and_no_more() {
        let limits = ClientLimits { all: CUSTOMER_CLIENTS + 3, of_business: CUSTOMER_CLIENTS + 1 };
        let admission = Admission::new(limits);
        let admit = |business: &str, customer: &str, is_own| {
            let admitted = admission.admit(&owner(business, customer), is_own);
            admitted.map_err(|error| error.problem().code.to_string())
        };
        let mut clients: Vec<_> = (0..OWN_CLIENTS).map(|_| admit("b", "c", true).expect("room")).collect();
        assert_eq!(admit("b", "c", true).map(drop), Err("rate_limited".into()), "enough of their own");
        clients.extend((OWN_CLIENTS..CUSTOMER_CLIENTS).map(|_| admit("b", "c", false).expect("for staff")));
        assert_eq!(admit("b", "c", false).map(drop), Err("rate_limited".into()), "enough of this customer");
        clients.push(admit("b", "d", true).expect("room for another customer"));
        assert_eq!(admit("b", "e", true).map(drop), Err("rate_limited".into()), "enough of this business");
        clients.push(admit("other", "c", true).expect("room for another business"));
        clients.push(admit("other", "d", true).expect("room"));
        assert_eq!(admit("third", "c", true).map(drop), Err("overloaded".into()), "enough of all");
        drop(clients);
        let counts = admission.lock();
        assert_eq!(counts.all + counts.of_business.len() + counts.of_customer.len() + counts.own.len(), 0);
    }
}
