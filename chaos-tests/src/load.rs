//! Tills at work, each with habits of its own, until they are stopped.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio_util::task::TaskTracker;

use crate::{
    business::BUSINESS,
    cluster::Cluster,
    sale::{Sale, Told},
    till::{GIVES_UP, Heard, PAUSE, Shop, Step, Till},
};

/// Tills at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<Vec<Sale>>>,
}

/// More than any customer has.
const TOO_MUCH: i64 = 1_000_000;
/// One sale in so many is followed by a look at the balance, through the other orchestrator.
const LOOKS: usize = 3;
/// Of so many sales of a till, the last says nothing of its terminal.
const NUMBERED: usize = 4;
/// Calls without an answer after which a till rings again under another key.
const TRIES: u32 = 1;
/// A till that hangs up does so after less than this, in milliseconds.
const HANGS_UP: u64 = 150;

/// What a till does with some of its sales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// It asks until it is told.
    Patient,
    /// It hangs up in the middle of every other first call.
    HangsUp,
    /// Where it was refused or has no answer, it asks under another key for the same sale.
    RingsAgain,
    /// It has value set aside, then takes all or a part of it, frees it, or cancels by key.
    Holds,
    /// It takes every third sale back by its key.
    TakesBack,
    /// Where it has no answer, it cancels by key.
    GivesUp,
}

impl Habit {
    const fn of(till: usize) -> Self {
        match till % 8 {
            3 => Self::HangsUp,
            4 => Self::RingsAgain,
            5 => Self::Holds,
            6 => Self::TakesBack,
            7 => Self::GivesUp,
            _ => Self::Patient,
        }
    }
}

impl Load {
    /// Starts tills that sell through all orchestrators, until they are stopped.
    #[must_use]
    pub fn start(cluster: &Cluster, shop: &Shop<'_>) -> Self {
        Self::start_for(cluster, BUSINESS, shop)
    }

    /// The same, for a business.
    #[must_use]
    pub fn start_for(cluster: &Cluster, business: &'static str, shop: &Shop<'_>) -> Self {
        let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let tracker = TaskTracker::new();
        let first = Till::first(cluster, business, shop);
        let tasks = (0..shop.tills).map(|number| {
            let till = first.as_number(number);
            let (stop, answers) = (stop.clone(), answers.clone());
            tracker.spawn(async move {
                let mut sales = Vec::new();
                for nth in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    sales.extend(sell(&till, nth).await);
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                sales
            })
        });
        Self { tasks: tasks.collect(), stop, answers }
    }

    /// How many sales have ended so far.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// No new sales; every till ends the one it is at. All sales.
    ///
    /// # Panics
    /// When a till did.
    pub async fn finish(self) -> Vec<Sale> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sales = Vec::new();
        for task in self.tasks {
            sales.extend(task.await.expect("a till"));
        }
        sales
    }
}

/// One sale in five asks for more than there is, after its other legs may have been applied.
fn sale(till: &Till, nth: usize) -> Sale {
    let sale = match nth % 5 {
        _ if Habit::of(till.number) == Habit::Holds => till.sale_of(nth, 2, 2).on_hold(),
        4 => till.sale_of(nth, 1, TOO_MUCH),
        // So that something goes on while store credit is away.
        2 => till.sale_of(nth, 1, 0),
        _ => till.sale_of(nth, 1, 1),
    };
    if nth % NUMBERED == NUMBERED - 1 { sale } else { till.numbered(sale, nth) }
}

/// One sale of a till, and what it was asked under.
async fn sell(till: &Till, nth: usize) -> Vec<Sale> {
    let habit = Habit::of(till.number);
    let mut call = Calls { till, nth, sale: sale(till, nth), begun: Instant::now(), redemption: None };
    let tries = if habit == Habit::RingsAgain { TRIES } else { u32::MAX };
    if habit == Habit::HangsUp && nth.is_multiple_of(2) {
        call.hang_up().await;
    }
    call.redeem(tries, habit == Habit::GivesUp).await;
    let is_done = call.sale.told == Told::Completed;
    if is_done && nth.is_multiple_of(LOOKS) {
        till.look(call.wallet(1), &call.sale.customer).await;
    }
    match habit {
        Habit::TakesBack if is_done && nth % 3 == 2 => call.cancel().await,
        Habit::Holds if is_done => call.settle().await,
        Habit::RingsAgain if !is_done && call.sale.complaint.is_none() => return call.ring_again().await,
        _ => {}
    }
    vec![call.sale]
}

/// A sale, and how its till asks for it.
struct Calls<'a> {
    till: &'a Till,
    nth: usize,
    sale: Sale,
    begun: Instant,
    redemption: Option<String>,
}

impl<'a> Calls<'a> {
    /// The orchestrator whose turn it is, or one of those after it.
    fn wallet(&self, after: usize) -> &'a str {
        let place = self.till.number + self.nth + self.sale.unknown as usize + after;
        &self.till.wallets[place % self.till.wallets.len()]
    }

    /// Writes down what a call came to; false if it has to be asked again.
    async fn heard(&mut self, heard: Heard) -> bool {
        match heard {
            Heard::Told(told) => {
                self.sale.told = told;
                return true;
            }
            Heard::Wrong(complaint) => self.sale.complaint = Some(complaint),
            Heard::Unknown if self.begun.elapsed() > GIVES_UP => {
                self.sale.complaint = Some(format!("no answer after {} calls", self.sale.unknown));
            }
            Heard::Unknown => {
                self.sale.unknown += 1;
                tokio::time::sleep(PAUSE).await;
                return false;
            }
        }
        self.sale.told = Told::Nothing;
        true
    }

    /// Asks once, and does not wait for the answer.
    async fn hang_up(&mut self) {
        let limit = Duration::from_millis(self.nth as u64 * 37 % HANGS_UP);
        let (heard, redemption) = self.till.redeem_within(self.wallet(0), &self.sale, Some(limit)).await;
        self.redemption = redemption;
        if heard == Heard::Unknown {
            self.sale.unknown += 1;
        }
    }

    /// Asks under one key until the answer is definite, or so many calls had none; a till that gives up cancels then.
    async fn redeem(&mut self, tries: u32, gives_up: bool) {
        while self.sale.unknown < tries {
            if gives_up && self.sale.unknown > 0 {
                return self.cancel().await;
            }
            let called = Instant::now();
            let (heard, redemption) = self.till.redeem_within(self.wallet(0), &self.sale, None).await;
            self.redemption = redemption.or(self.redemption.take());
            self.sale.slowest = self.sale.slowest.max(called.elapsed());
            if self.heard(heard).await {
                return;
            }
        }
    }

    async fn cancel(&mut self) {
        loop {
            let called = Instant::now();
            let heard = self.till.cancel(self.wallet(0), &self.sale.key).await;
            self.sale.slowest = self.sale.slowest.max(called.elapsed());
            if self.heard(heard).await {
                return;
            }
        }
    }

    /// What is set aside is taken, all of it or a half; or it is freed, or cancelled by its key.
    async fn settle(&mut self) {
        let step = match self.nth % 4 {
            0 => Step::Capture(self.sale.amount()),
            1 => Step::Capture(self.sale.amount() / 2),
            2 => Step::Void,
            _ => return self.cancel().await,
        };
        let Some(redemption) = self.redemption.clone() else {
            self.sale.complaint = Some("authorized without an id".to_owned());
            return;
        };
        loop {
            let heard = self.till.settle(self.wallet(0), &self.sale, &redemption, step).await;
            // Its redeem was told what it was told, whatever becomes of the hold.
            let heard = match heard {
                Heard::Told(_) => Heard::Told(Told::Completed),
                other => other,
            };
            if self.heard(heard).await {
                return;
            }
        }
    }

    /// Asks for the same sale under another key. Where the first key had no answer it has to be asked again all the same:
    /// one of the two takes at most.
    async fn ring_again(mut self) -> Vec<Sale> {
        let (till, nth) = (self.till, self.nth);
        let mut again = till.sale_of(nth, 1, 1).instead_of(&self.sale);
        again.key.push_str("-again");
        let mut again = Calls { till, nth, sale: again, begun: Instant::now(), redemption: None };
        again.redeem(u32::MAX, false).await;
        if self.sale.told == Told::Nothing {
            self.redeem(u32::MAX, false).await;
        }
        vec![self.sale, again.sale]
    }
}
