//! Which participants answer, as far as this process knows, and what depends on it.
//!
//! Only a leg tells: an attempt at one, or the query that the engine sends once a second to a participant that gave no
//! answer. A health check would not do: a participant may be healthy while its legs hang, and each green light would send
//! everything that waits at it again.
//!
//! - **Breaker**: after [`OPENS_AT`] attempts in a row without an answer new work is refused at the door. Legs of sagas that
//!   exist, and above all cancels, are always sent.
//! - **Release**: sagas back off on their own, up to a minute. When an answer closes the breaker those that wait are let go
//!   before their time, a few at first and twice as many each tick, for as long as no attempt fails. While the breaker is
//!   closed nobody is let go: who backs off from a participant that answers others has a reason of its own.
//! - **Bulkhead**: legs without an answer are counted for each participant, those of new work and of what goes on apart. At the bound
//!   new work that needs it is refused, so that one unreachable participant never takes the room of the others.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use crate::admission::Counts;

/// Attempts in a row without an answer that open the breaker.
const OPENS_AT: u32 = 5;
/// How often waiting sagas are released.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// Sagas released in the first tick after an answer.
const FIRST_RELEASE: usize = 8;
/// With fewer waiting it does not matter how many of them have gone.
const PRUNED_FROM: usize = 64;

#[derive(Debug, Default)]
struct Participant {
    /// Attempts in a row that were not answered.
    failures: u32,
    /// When an attempt was last answered.
    answered_at: Option<Instant>,
    /// Sagas that wait for it, the first first; also some that have gone meanwhile.
    waiting: VecDeque<oneshot::Sender<()>>,
    /// With so many waiting, those that have gone are taken out.
    pruned_at: usize,
    /// How many are released next; 0 unless it has just begun to answer again.
    release: usize,
    /// Legs of new work without an answer.
    of_new_work: Counts,
    /// Legs without an answer of what goes on with what exists.
    going_on: Counts,
}

impl Participant {
    fn unanswered(&mut self, room: Room) -> &mut Counts {
        match room {
            Room::NewWork => &mut self.of_new_work,
            Room::GoingOn => &mut self.going_on,
        }
    }
}

/// Which room legs without an answer take: what a business goes on with keeps nobody's new work out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// What may be refused at the door.
    NewWork,
    /// What goes on with what exists: what only goes forward, what is compensated, and what was claimed or adopted.
    GoingOn,
}

/// Cheap to clone; all clones know the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reachability(Arc<Mutex<HashMap<String, Participant>>>);

/// A leg without an answer. Dropped when it has one, or when its run ends.
#[derive(Debug)]
pub(crate) struct Unanswered {
    reachability: Reachability,
    participant: String,
    business: String,
    room: Room,
}

/// The legs of a saga that count as without an answer; `None` for one that has its answer.
pub(crate) type UnansweredLegs = Vec<Option<Unanswered>>;

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.reachability.with(&self.participant, |p| p.unanswered(self.room).remove(&self.business));
    }
}

impl Reachability {
    /// Waits `backoff`, or less if the participant answers before.
    pub(crate) async fn wait(&self, participant: &str, backoff: Duration) {
        let (release, released) = oneshot::channel();
        self.with(participant, |p| {
            p.waiting.push_back(release);
            if p.waiting.len() >= p.pruned_at.max(PRUNED_FROM) {
                p.waiting.retain(|waiting| !waiting.is_closed());
                p.pruned_at = p.waiting.len() * 2;
            }
        });
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            _ = released => {}
        }
    }

    /// An attempt that took so long was not answered. If another one was answered meanwhile, that tells nothing of the participant:
    /// one account may be locked, and the legs on it time out together.
    pub(crate) fn failed(&self, participant: &str, took: Duration) {
        let began = Instant::now().checked_sub(took);
        self.with(participant, |p| {
            if p.answered_at > began {
                return;
            }
            p.failures = p.failures.saturating_add(1);
            p.release = 0;
        });
    }

    /// An attempt was answered, whatever the answer.
    pub(crate) fn answered(&self, participant: &str) {
        self.with(participant, |p| {
            p.answered_at = Some(Instant::now());
            // What backs off from a participant that answers has a reason of its own to wait.
            if std::mem::take(&mut p.failures) >= OPENS_AT {
                p.release = FIRST_RELEASE;
            }
        });
    }

    /// Whether new work that needs it is to be refused.
    pub(crate) fn is_open(&self, participant: &str) -> bool {
        self.with(participant, |p| p.failures >= OPENS_AT)
    }

    /// Whom to ask with a query: participants whose last attempt was not answered.
    pub(crate) fn unreachable(&self) -> Vec<String> {
        self.lock().iter().filter(|(_, p)| p.failures > 0).map(|(name, _)| name.clone()).collect()
    }

    /// Lets some of those go that wait for participants that answer. Called once a [`TICK`].
    pub(crate) fn release(&self) {
        for participant in self.lock().values_mut().filter(|p| p.release > 0) {
            let mut left = participant.release;
            while left > 0 {
                let Some(waiting) = participant.waiting.pop_front() else { break };
                // One that woke by itself meanwhile takes nobody's turn.
                left -= usize::from(waiting.send(()).is_ok());
            }
            participant.release = if participant.waiting.is_empty() { 0 } else { participant.release * 2 };
        }
    }

    /// Counts a leg of a business from now on.
    pub(crate) fn expect(&self, participant: &str, business: &str, room: Room) -> Unanswered {
        self.with(participant, |p| p.unanswered(room).add(business));
        let (participant, business) = (participant.to_owned(), business.to_owned());
        Unanswered { reachability: self.clone(), participant, business, room }
    }

    /// Whether a business finds no room for another leg of such work where there is room for `most`.
    pub(crate) fn is_full_for(&self, participant: &str, business: &str, room: Room, most: usize) -> bool {
        self.with(participant, |p| p.unanswered(room).is_full_for(business, most))
    }

    fn with<T>(&self, participant: &str, f: impl FnOnce(&mut Participant) -> T) -> T {
        let mut participants = self.lock();
        if let Some(participant) = participants.get_mut(participant) {
            return f(participant);
        }
        f(participants.entry(participant.to_owned()).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Participant>> {
        // A panic while the lock was held left counters that are still counters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    #[test]
    fn failures_in_a_row_open_the_breaker_and_one_answer_closes_it() {
        let reachability = Reachability::default();
        for _ in 1..OPENS_AT {
            reachability.failed("points", Duration::ZERO);
        }
        assert!(!reachability.is_open("points"));
        reachability.answered("points");
        for _ in 0..OPENS_AT {
            assert!(!reachability.is_open("points"));
            reachability.failed("points", Duration::ZERO);
        }
        assert!(reachability.is_open("points"));
        assert!(!reachability.is_open("store_credit"), "others are not concerned");
        assert_eq!(reachability.unreachable(), ["points"]);
        reachability.answered("points");
        assert!(!reachability.is_open("points"));
        assert!(reachability.unreachable().is_empty());
    }

    #[test]
    fn an_attempt_that_began_before_the_last_answer_tells_nothing() {
        let reachability = Reachability::default();
        reachability.answered("points");
        for _ in 0..OPENS_AT {
            reachability.failed("points", Duration::from_secs(2));
        }
        assert!(!reachability.is_open("points"), "others were answered while these hung");
        std::thread::sleep(Duration::from_millis(30));
        for _ in 0..OPENS_AT {
            reachability.failed("points", Duration::from_millis(10));
        }
        assert!(reachability.is_open("points"));
    }

    #[test]
    fn legs_are_counted_until_they_are_answered() {
        let reachability = Reachability::default();
        let unanswered = |participant| reachability.with(participant, |p| p.of_new_work.all());
        let first = reachability.expect("points", "one", Room::NewWork);
        let second = reachability.expect("points", "one", Room::NewWork);
        assert_eq!((unanswered("points"), unanswered("store_credit")), (2, 0));
        assert!(reachability.is_full_for("points", "other", Room::NewWork, 2));
        assert!(
            !reachability.is_full_for("store_credit", "other", Room::NewWork, 2),
            "others are not concerned"
        );
        assert!(!reachability.is_full_for("points", "other", Room::GoingOn, 2), "what exists goes on");
        drop(first);
        assert_eq!(unanswered("points"), 1);
        drop(second);
        assert_eq!(unanswered("points"), 0);
    }

    fn open(reachability: &Reachability) {
        for _ in 0..OPENS_AT {
            reachability.failed("points", Duration::ZERO);
        }
    }

    async fn waiting(reachability: &Reachability, sagas: usize) -> JoinSet<()> {
        let mut waits = JoinSet::new();
        for _ in 0..sagas {
            let reachability = reachability.clone();
            waits.spawn(async move { reachability.wait("points", Duration::from_secs(3_600)).await });
        }
        while reachability.with("points", |p| p.waiting.len()) < sagas {
            tokio::task::yield_now().await;
        }
        waits
    }

    fn still_waiting(reachability: &Reachability) -> usize {
        reachability.with("points", |p| p.waiting.len())
    }

    #[tokio::test]
    async fn those_who_wait_are_released_at_a_pace_that_doubles() {
        let reachability = Reachability::default();
        let waits = waiting(&reachability, 100).await;
        reachability.release();
        assert_eq!(still_waiting(&reachability), 100, "nobody before there is an answer");
        reachability.failed("points", Duration::ZERO);
        reachability.answered("points");
        reachability.release();
        assert_eq!(still_waiting(&reachability), 100, "who backs off from one that answers others waits on");
        open(&reachability);
        reachability.answered("points");
        for left in [92, 76, 44, 0] {
            reachability.release();
            assert_eq!(still_waiting(&reachability), left);
        }
        assert_eq!(waits.join_all().await.len(), 100);
    }

    #[tokio::test]
    async fn a_failure_ends_the_release() {
        let reachability = Reachability::default();
        let waits = waiting(&reachability, 100).await;
        open(&reachability);
        reachability.answered("points");
        reachability.release();
        open(&reachability);
        reachability.release();
        assert_eq!(still_waiting(&reachability), 92);
        reachability.answered("points");
        reachability.release();
        assert_eq!(still_waiting(&reachability), 84, "and the next one begins anew");
        drop(waits);
    }
}
