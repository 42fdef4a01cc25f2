//! The queue of events, and the faults of whole processes.

use std::{collections::BTreeMap, rc::Rc};

use api::legs::Take;
use tender::{
    command::{Action, Command, Credit},
    testing,
};
use uuid::Uuid;

use crate::{
    ORDERS, Outcome, Time,
    db::Db,
    event::{Call, Event},
    faults::{Coverage, Defect, Faults, Fired},
    node::{Node, TTL},
    order::{Ask, Order},
    plan::{Leg, OrderNo, Redeem, account, instant},
    rng::Rng,
    tender::{Parcel, Tender},
    trace::Trace,
};

const NODES: usize = 3;
const TENDERS: usize = 3;
const CUSTOMERS: usize = 6;
/// When a world begins, by true time.
const BEGIN: Time = 1_000_000;
/// When faults stop.
const HEAL_AT: Time = BEGIN + 25_000;
/// How long after that everything may take to become terminal. The longest wait that is nobody's fault: a clock that
/// jumped back makes a dead owner look alive for as long.
const TERMINAL_WITHIN: Time = 180_000;

/// One system, and everything that happens in it.
#[derive(Debug)]
pub struct World {
    pub now: Time,
    queue: BTreeMap<(Time, u64), Event>,
    numbers: u64,
    pub rng: Rng,
    pub trace: Trace,
    pub faults: Faults,
    pub cover: Coverage,
    pub db: Db,
    pub nodes: Vec<Node>,
    pub tenders: Vec<Tender>,
    pub calls: BTreeMap<u64, Call>,
    /// Requests that arrive after everything is over.
    pub stragglers: Vec<Rc<Parcel>>,
    /// Requests on their way.
    pub on_the_way: u32,
    pub orders: Vec<Order>,
    pub asks: Vec<Ask>,
    pub next_saga: u32,
    /// Units that were issued, by tender.
    pub issued: Vec<i64>,
    pub is_healed: bool,
    /// Tills ask again for everything, long after.
    pub is_after: bool,
    healed_in: Time,
    pub violation: Option<String>,
}

impl World {
    /// The world of a seed, at its beginning.
    pub fn new(seed: u64, print: bool, defect: Option<Defect>) -> Self {
        let mut rng = Rng::new(seed);
        let faults = Faults::draw(&mut rng);
        let mut world = Self {
            now: BEGIN,
            queue: BTreeMap::new(),
            numbers: 0,
            rng,
            trace: Trace::new(print),
            faults,
            cover: Coverage::default(),
            db: Db { defect, ..Db::default() },
            nodes: (0..NODES).map(|_| Node::default()).collect(),
            tenders: (0..TENDERS).map(|_| Tender { defect, ..Tender::default() }).collect(),
            calls: BTreeMap::new(),
            stragglers: Vec::new(),
            on_the_way: 0,
            orders: Vec::new(),
            asks: Vec::new(),
            next_saga: 0,
            issued: vec![0; TENDERS],
            is_healed: false,
            is_after: false,
            healed_in: 0,
            violation: None,
        };
        world.trace.note(world.now, format_args!("seed {seed}: {faults:?}"));
        world.issue();
        world.open_orders();
        for node in 0..NODES {
            world.after(0, Event::Start(node));
        }
        world.after(1_000, Event::Disturb);
        world.after(2_000, Event::Operate);
        world.after(HEAL_AT - BEGIN, Event::Heal);
        world
    }

    /// Everybody gets lots, some of which expire while the world lasts.
    fn issue(&mut self) {
        for (tender, customer) in (0..TENDERS).flat_map(|t| (0..CUSTOMERS).map(move |c| (t, c))) {
            self.tenders[tender].open(account(customer));
            for _ in 0..self.rng.between(1, 5) {
                let number = u128::from(self.number());
                let amount = self.rng.between(1, 400);
                let expires = self.rng.chance(300).then(|| self.now + self.rng.between(5_000, 60_000));
                let credit = testing::credit(Uuid::from_u128(number), &number.to_string(), amount);
                let credit = Credit { expires_at: expires.map(instant), ..credit };
                let operation_id = Uuid::from_u128(0x2000_0000 + number);
                let command =
                    Command { operation_id, account: account(customer), action: Action::Credit(credit) };
                let prepared = self.tenders[tender].prepare([&command].into_iter(), self.now);
                let committed = self.tenders[tender].commit(prepared);
                self.expect(committed);
                self.issued[tender] += amount;
            }
        }
    }

    fn open_orders(&mut self) {
        for number in 0..ORDERS {
            let customer = self.rng.below(CUSTOMERS);
            let mut tenders = vec![0, 1, 2];
            tenders.swap(0, self.rng.below(3));
            tenders.truncate([3, 3, 3, 2, 1][self.rng.below(5)]);
            let legs = tenders.into_iter().map(|tender| Leg {
                tender,
                // Two legs may meet in one account at one tender; other customers' accounts interleave.
                customer: if self.rng.chance(100) { self.rng.below(CUSTOMERS) } else { customer },
                units: if self.rng.chance(100) {
                    self.rng.between(300, 900)
                } else {
                    self.rng.between(1, 60)
                },
                take: if self.rng.chance(250) { Take::AtMost } else { Take::Exact },
            });
            let legs = legs.collect();
            let hold = self.rng.chance(350).then(|| self.rng.between(2_000, 15_000));
            let redeem = Redeem { order: OrderNo(number), legs, hold };
            self.open_order(redeem);
        }
    }

    /// Runs to the end.
    pub fn run(mut self) -> Outcome {
        while self.violation.is_none() {
            let Some(((at, _), event)) = self.queue.pop_first() else { break };
            self.now = at;
            if matches!(event, Event::Look) && self.look() {
                break;
            }
            self.dispatch(event);
            self.check_made();
        }
        Outcome {
            sagas: self.db.rows.len().try_into().unwrap_or(0),
            hash: self.trace.hash(),
            coverage: self.cover,
            violation: self.violation.map(|what| format!("at {}: {what}", self.now)),
            healed_in: self.healed_in,
        }
    }

    /// Schedules an event `wait` milliseconds from now.
    pub fn after(&mut self, wait: Time, event: Event) {
        let number = self.number();
        self.queue.insert((self.now + wait.max(0), number), event);
    }

    /// A number that was never given out before.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// Notes the first rule that is broken.
    pub fn violate(&mut self, what: String) {
        self.trace.note(self.now, format_args!("VIOLATION {what}"));
        self.violation.get_or_insert(what);
    }

    /// A rule that came out as it should, or not.
    pub fn expect(&mut self, rule: Result<(), String>) {
        if let Err(what) = rule {
            self.violate(what);
        }
    }

    /// Whether a fault strikes now.
    pub fn strikes(&mut self, rate: impl Fn(&Faults) -> u16) -> bool {
        let rate = rate(&self.faults);
        self.rng.chance(rate)
    }

    fn dispatch(&mut self, event: Event) {
        let event = match self.defer(event) {
            Some(event) => event,
            None => return,
        };
        match event {
            Event::Start(node) => self.start(node),
            Event::Beat(process) => self.beat(process),
            Event::Scan(process) => self.scan(process),
            Event::Sweep(process) => self.sweep(process),
            Event::HandOver(process) => self.hand_over(process),
            Event::Commit(process) => self.commit(process),
            Event::Answered(process, answers) => self.answered(process, answers),
            Event::WalletPending(index) => self.wallet_pending(index),
            Event::Rewrite { process, id, no, transition } => self.rewrite(process, (id, no), transition),
            Event::Wake { process, id, no, leg, direction } => self.wake(process, (id, no), leg, direction),
            Event::Deadline { process, id, no } => self.deadline(process, (id, no)),
            Event::Reply { call, heard } => self.reply(call, heard),
            Event::Deliver(parcel) => self.deliver(parcel),
            Event::Serve(tender, life) => self.serve(tender, life),
            Event::TenderPending(tender, index) => self.tender_pending(tender, index),
            Event::Ask(ask, attempt) => self.ask(ask, attempt),
            Event::Operate => self.operate(),
            Event::Disturb => self.disturb(),
            Event::Heal => self.heal(),
            Event::Look => self.after(500, Event::Look),
        }
    }

    /// What happens to a process that is stopped happens when it wakes; what happens to one that is gone never does.
    fn defer(&mut self, event: Event) -> Option<Event> {
        let to = match &event {
            Event::Beat(p) | Event::Scan(p) | Event::Sweep(p) | Event::HandOver(p) | Event::Commit(p) => *p,
            Event::Answered(p, _) => *p,
            Event::Rewrite { process, .. }
            | Event::Wake { process, .. }
            | Event::Deadline { process, .. } => *process,
            Event::Reply { call, .. } => self.calls.get(call)?.process,
            _ => return Some(event),
        };
        let node = &self.nodes[to.0];
        if !node.is_up || node.life != to.1 {
            return None;
        }
        if self.now < node.paused_until {
            // In any order: whatever waited is ready at once.
            let wait = node.paused_until - self.now + self.rng.between(0, 20);
            self.after(wait, event);
            return None;
        }
        Some(event)
    }

    /// Maybe the process dies here. True if it did.
    pub fn crashes(&mut self, node: usize, at: Fired) -> bool {
        let dies = self.strikes(|faults| faults.crash);
        if dies {
            self.crash(node, at);
        }
        dies
    }

    /// The process dies here.
    pub fn crash(&mut self, node: usize, at: Fired) {
        self.cover.count(at);
        self.trace.note(self.now, format_args!("node {node} dies: {at:?}"));
        let life = self.nodes[node].life;
        self.nodes[node] = Node { life, ..Node::default() };
        let wait = self.rng.between(100, 2 * TTL);
        self.after(wait, Event::Start(node));
    }

    fn start(&mut self, node: usize) {
        if self.nodes[node].is_up {
            return;
        }
        let life = self.nodes[node].life + 1;
        self.nodes[node] = Node { life, is_up: true, ..Node::default() };
        let process = (node, life);
        self.trace.note(self.now, format_args!("process {process:?} starts"));
        let waits = [self.rng.between(0, 100), self.rng.between(100, 600), self.rng.between(100, 1_100)];
        self.after(waits[0], Event::Beat(process));
        self.after(waits[1], Event::Scan(process));
        self.after(waits[2], Event::Sweep(process));
    }

    fn disturb(&mut self) {
        if self.is_healed {
            return;
        }
        self.after(1_000, Event::Disturb);
        if !self.strikes(|faults| faults.disturb) {
            return;
        }
        let (node, tender) = (self.rng.below(NODES), self.rng.below(TENDERS));
        let long = self.rng.between(300, 7_000);
        let what = self.rng.below(6);
        self.trace
            .note(self.now, format_args!("disturbance {what} for {long} ms: node {node}, tender {tender}"));
        match what {
            0 if self.nodes[node].is_up => {
                self.cover.count(Fired::Paused);
                self.nodes[node].paused_until = self.now + long;
            }
            1 if self.nodes[node].is_up => {
                self.nodes[node].is_draining = true;
                let process = (node, self.nodes[node].life);
                let grace = self.rng.between(100, 2_000);
                self.after(grace, Event::HandOver(process));
            }
            2 => {
                self.cover.count(Fired::TenderAway);
                self.tenders[tender].away_until = self.now + long;
            }
            3 => {
                self.cover.count(Fired::TenderHung);
                self.tenders[tender].hung_until = self.now + long;
            }
            4 => {
                self.cover.count(Fired::WalletClockJumped);
                self.db.skew = self.jump();
            }
            5 => {
                self.cover.count(Fired::TenderClockJumped);
                self.tenders[tender].skew = self.jump();
            }
            _ => {}
        }
    }

    /// A clock's new difference from true time: seconds, or far ahead. It never falls far back: see [`TERMINAL_WITHIN`].
    fn jump(&mut self) -> Time {
        if self.rng.chance(200) { self.rng.between(0, 30_000) } else { self.rng.between(-6_000, 6_000) }
    }

    fn heal(&mut self) {
        self.trace.note(self.now, format_args!("healed"));
        self.is_healed = true;
        self.faults = Faults::default();
        for node in 0..NODES {
            self.nodes[node].paused_until = self.nodes[node].paused_until.min(self.now);
            self.after(0, Event::Start(node));
        }
        for tender in &mut self.tenders {
            (tender.away_until, tender.hung_until) = (self.now, self.now);
        }
        self.after(0, Event::Look);
    }

    /// Whether everything is over: once, everything late arrives and everybody asks again; then the world ends.
    fn look(&mut self) -> bool {
        if let Some(open) = self.unfinished() {
            if self.now - HEAL_AT > TERMINAL_WITHIN {
                self.violate(format!("not terminal {TERMINAL_WITHIN} ms after healing: {open}"));
                return true;
            }
            return false;
        }
        if !self.is_after {
            self.is_after = true;
            self.healed_in = self.now - HEAL_AT;
            self.trace.note(self.now, format_args!("terminal; late requests arrive, tills ask again"));
            for parcel in std::mem::take(&mut self.stragglers) {
                self.on_the_way += 1;
                let wait = self.rng.between(0, 2_000);
                self.after(wait, Event::Deliver(parcel));
            }
            self.ask_again();
            return false;
        }
        self.check_all();
        true
    }
}
