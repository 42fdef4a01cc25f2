//! A tender as a list of lots for each account, and nothing else: a balance is a sum, a version is the length of a list.

use std::collections::{BTreeMap, HashMap, HashSet};

use api::{
    Code,
    derive::RequestHash,
    legs::{BalanceAfter, Decline, Forward, LegAnswer, LotPart, Mode, Take},
};
use chrono::{DateTime, Utc};
use tender::{
    command::{AccountKey, Action, Command, Credit, ForwardLeg, Rejection, State},
    fold::{BALANCE_MAX, working_set::Status},
};
use uuid::Uuid;

use crate::observed::{Observed, Told};

type Time = DateTime<Utc>;

#[derive(Debug, Default)]
pub struct Model {
    pub accounts: BTreeMap<AccountKey, Account>,
    operations: HashMap<Uuid, Operation>,
    /// Business, kind and reference.
    references: HashSet<(String, String, String)>,
}

#[derive(Debug)]
pub struct Account {
    pub status: Status,
    pub lots: Vec<Lot>,
    pub entries: Vec<Entry>,
}

#[derive(Debug)]
pub struct Lot {
    pub id: Uuid,
    pub remaining: i64,
    pub held: i64,
    reward: Option<Uuid>,
    expires: Option<Time>,
    end: Option<Time>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    pub kind: &'static str,
    pub amount: i64,
    pub posted: i64,
    pub held: i64,
}

#[derive(Debug)]
struct Operation {
    account: AccountKey,
    hash: Option<RequestHash>,
    told: Told,
    mode: Option<Mode>,
    /// What it took or holds and has not given back: lots and units, in the order of taking.
    parts: Vec<(Uuid, i64)>,
    reward: Option<Uuid>,
}

impl Default for Account {
    fn default() -> Self {
        Self { status: Status::Active, lots: Vec::new(), entries: Vec::new() }
    }
}

impl Account {
    pub fn posted(&self) -> i64 {
        self.lots.iter().map(|lot| lot.remaining + lot.held).sum()
    }

    pub fn held(&self) -> i64 {
        self.lots.iter().map(|lot| lot.held).sum()
    }

    pub fn version(&self) -> i64 {
        i64::try_from(self.entries.len()).unwrap()
    }

    /// Soonest-expiring first, never last; then oldest.
    fn spendable(&mut self, reward: Option<Uuid>, now: Time) -> Vec<&mut Lot> {
        self.lots.sort_by_key(|lot| (lot.expires.is_none(), lot.expires, lot.id));
        let is_meant = |lot: &Lot| reward.is_none() || lot.reward == reward;
        self.lots.iter_mut().filter(|lot| is_meant(lot) && lot.end.is_none_or(|end| now < end)).collect()
    }

    pub fn available(&mut self, reward: Option<Uuid>, now: Time) -> i64 {
        self.spendable(reward, now).iter().map(|lot| lot.remaining).sum()
    }

    fn lot(&mut self, id: Uuid) -> &mut Lot {
        self.lots.iter_mut().find(|lot| lot.id == id).unwrap()
    }

    /// What is left of lots whose end has come is gone.
    fn lapse(&mut self, now: Time) {
        self.lots.sort_by_key(|lot| (lot.expires.is_none(), lot.expires, lot.id));
        let has_lapsed = |lot: &Lot| lot.remaining > 0 && lot.end.is_some_and(|end| end <= now);
        while let Some(lot) = self.lots.iter_mut().find(|lot| has_lapsed(lot)) {
            let units = std::mem::take(&mut lot.remaining);
            self.enter("expire", -units);
        }
    }

    fn enter(&mut self, kind: &'static str, amount: i64) {
        self.entries.push(Entry { kind, amount, posted: self.posted(), held: self.held() });
    }

    fn after(&mut self, reward: Option<Uuid>, now: Time) -> Option<BalanceAfter> {
        Some(BalanceAfter { available: self.available(reward, now), version: self.version() })
    }

    /// Takes units out of lots, or sets them aside.
    fn take(&mut self, units: i64, hold: bool, reward: Option<Uuid>, now: Time) -> Vec<LotPart> {
        let (mut left, mut lots) = (units, Vec::new());
        for lot in self.spendable(reward, now) {
            let amount = left.min(lot.remaining);
            if amount > 0 {
                lot.remaining -= amount;
                lot.held += if hold { amount } else { 0 };
                lots.push(LotPart { lot_id: lot.id, amount, expires_at: lot.expires });
                left -= amount;
            }
        }
        lots
    }

    /// Gives units back to the lots that they came from, the last taken first.
    fn give_back(&mut self, parts: &mut Vec<(Uuid, i64)>, units: i64, held: bool) -> Vec<LotPart> {
        let (mut left, mut lots) = (units, Vec::new());
        while left > 0 {
            let (lot_id, rest) = parts.pop().unwrap();
            let amount = left.min(rest);
            if amount < rest {
                parts.push((lot_id, rest - amount));
            }
            let lot = self.lot(lot_id);
            lot.remaining += amount;
            lot.held -= if held { amount } else { 0 };
            lots.push(LotPart { lot_id, amount, expires_at: lot.expires });
            left -= amount;
        }
        lots
    }
}

impl Model {
    /// What the command must come to at this moment. Whatever meets an account finds what has lapsed gone, and leaves it so.
    pub fn apply(&mut self, command: &Command, now: Time) -> Observed {
        self.accounts.entry(command.account.clone()).or_default().lapse(now);
        let observed = self.decide(command, now);
        self.accounts.entry(command.account.clone()).or_default().lapse(now);
        observed
    }

    fn decide(&mut self, command: &Command, now: Time) -> Observed {
        let answer = match (&command.action, self.known(command)) {
            (_, Err(rejection)) => Err(rejection),
            (Action::Credit(credit), Ok(known)) => match known {
                Some(known) if known.hash != Some(credit.form.hash()) => Err(Rejection::Conflict),
                Some(known) => return Observed::Replayed(known.told.clone()),
                None => self.credit(command, credit, now),
            },
            (Action::Forward(leg), Ok(known)) => match known {
                Some(known) if known.hash.is_some_and(|hash| hash != leg.form.hash()) => {
                    Err(Rejection::Conflict)
                }
                Some(known) => return Observed::Replayed(known.told_again()),
                None => self.forward(command, leg, now),
            },
            (Action::Query, Ok(known)) => match known {
                Some(known) => return Observed::Replayed(known.told.clone()),
                None => Err(Rejection::NotFound),
            },
            (Action::Capture { amount }, Ok(known)) => match known.map(|known| (known.mode, known.state())) {
                None => Err(Rejection::NotFound),
                Some((Some(Mode::Hold), State::Held)) => self.capture(command, *amount, now),
                Some((Some(Mode::Hold), State::Applied)) if self.amount(command) == *amount => {
                    return Observed::Replayed(self.operations[&command.operation_id].told.clone());
                }
                Some((_, State::Held | State::Applied)) => Err(Rejection::Conflict),
                Some(_) => Err(Rejection::AlreadyFinal),
            },
            (Action::Release(_), Ok(Some(known))) if known.state() == State::Applied => {
                return Observed::Replayed(known.told.clone());
            }
            (Action::Cancel(_) | Action::Release(_), Ok(known)) => match known {
                None => Ok(self.keep(command, None, None, leg(State::Tombstoned))),
                Some(known) if known.is_in_force() => Ok(self.cancel(command, now)),
                Some(known) => return Observed::Replayed(known.told.clone()),
            },
        };
        answer.map_or_else(Observed::Rejected, Observed::Recorded)
    }

    fn known(&self, command: &Command) -> Result<Option<&Operation>, Rejection> {
        match self.operations.get(&command.operation_id) {
            Some(known) if known.account != command.account => Err(Rejection::Conflict),
            known => Ok(known),
        }
    }

    fn amount(&self, command: &Command) -> i64 {
        match &self.operations[&command.operation_id].told {
            Told::Leg(answer) => answer.amount,
            _ => 0,
        }
    }

    /// The command's account, beside its operation.
    fn at(&mut self, command: &Command) -> (&mut Account, Option<&mut Operation>) {
        let account = self.accounts.get_mut(&command.account).unwrap();
        (account, self.operations.get_mut(&command.operation_id))
    }

    fn keep(
        &mut self,
        command: &Command,
        hash: Option<RequestHash>,
        mode: Option<Mode>,
        told: impl Into<Told>,
    ) -> Told {
        let (account, told) = (command.account.clone(), told.into());
        let operation = Operation { account, hash, told, mode, parts: Vec::new(), reward: None };
        self.operations.entry(command.operation_id).insert_entry(operation).get().told.clone()
    }

    fn credit(&mut self, command: &Command, credit: &Credit, now: Time) -> Result<Told, Rejection> {
        let end = credit.grace_until.or(credit.expires_at);
        if end.is_some_and(|end| end <= now) {
            return Err(Rejection::InvalidField { pointer: "/expires_at", detail: "must be in the future" });
        }
        let business = command.account.business_id.to_string();
        let reference = (business, credit.kind.clone(), credit.reference.clone());
        let account = self.accounts.get_mut(&command.account).unwrap();
        let told = if self.references.contains(&reference) {
            Told::Refused(Code::DuplicateReference)
        } else if account.status == Status::Closed {
            Told::Refused(Code::AccountFrozen)
        } else if account.posted().checked_add(credit.amount).is_none_or(|posted| posted > BALANCE_MAX) {
            Told::Refused(Code::LimitExceeded)
        } else {
            self.references.insert(reference);
            account.lots.push(Lot {
                id: credit.lot_id,
                remaining: credit.amount,
                held: 0,
                reward: credit.reward_id,
                expires: credit.expires_at,
                end,
            });
            account.enter("credit", credit.amount);
            Told::Credited { available: account.available(None, now), version: account.version() }
        };
        Ok(self.keep(command, Some(credit.form.hash()), None, told))
    }

    fn forward(&mut self, command: &Command, forward: &ForwardLeg, now: Time) -> Result<Told, Rejection> {
        let (hash, plan) = (Some(forward.form.hash()), &forward.plan);
        if plan.not_after.is_some_and(|end| now > end) {
            return Ok(self.keep(command, hash, Some(plan.mode), leg(State::Expired)));
        }
        if let (Mode::Reverse, Some(of)) = (plan.mode, forward.reverses) {
            let answer = self.reverse(command, of, plan, now)?;
            return Ok(self.keep(command, hash, Some(Mode::Reverse), answer));
        }
        let hold = plan.mode == Mode::Hold;
        let account = self.accounts.get_mut(&command.account).unwrap();
        let answer = match units(account, plan, now) {
            Err(decline) => LegAnswer { decline: Some(decline), ..leg(State::Declined) },
            Ok(amount) => {
                let lots = account.take(amount, hold, plan.reward_id, now);
                if amount > 0 {
                    let (kind, change) = if hold { ("hold", 0) } else { ("debit", -amount) };
                    account.enter(kind, change);
                }
                let state = if hold { State::Held } else { State::Applied };
                LegAnswer { amount, lots, after: account.after(plan.reward_id, now), ..leg(state) }
            }
        };
        let parts: Vec<_> = answer.lots.iter().map(|part| (part.lot_id, part.amount)).collect();
        let told = self.keep(command, hash, Some(plan.mode), answer);
        let (account, operation) = self.at(command);
        let operation = operation.unwrap();
        operation.reward = parts.first().and_then(|(lot, _)| account.lot(*lot).reward);
        operation.parts = parts;
        Ok(told)
    }

    fn reverse(
        &mut self,
        command: &Command,
        of: Uuid,
        plan: &Forward,
        now: Time,
    ) -> Result<LegAnswer, Rejection> {
        let account = self.accounts.get_mut(&command.account).unwrap();
        let taken = self.operations.get_mut(&of).ok_or(Rejection::ExceedsRedeemed { available: 0 })?;
        if taken.account != command.account {
            return Err(Rejection::Conflict);
        }
        let available = if taken.state() == State::Applied { taken.outstanding() } else { 0 };
        if plan.take == Take::Exact && plan.amount > available {
            return Err(Rejection::ExceedsRedeemed { available });
        }
        let amount = plan.amount.min(available);
        let lots = account.give_back(&mut taken.parts, amount, false);
        if amount > 0 {
            account.enter("reverse", amount);
        }
        Ok(LegAnswer { amount, lots, after: account.after(taken.reward, now), ..leg(State::Applied) })
    }

    fn capture(&mut self, command: &Command, amount: i64, now: Time) -> Result<Told, Rejection> {
        let (account, operation) = self.at(command);
        let operation = operation.unwrap();
        let held = operation.outstanding();
        if amount > held {
            return Err(Rejection::Conflict);
        }
        account.give_back(&mut operation.parts, held - amount, true);
        let mut lots = Vec::new();
        for (lot_id, units) in &operation.parts {
            let lot = account.lot(*lot_id);
            lot.held -= units;
            lots.push(LotPart { lot_id: *lot_id, amount: *units, expires_at: lot.expires });
        }
        if held > 0 {
            account.enter("capture", -amount);
        }
        let after = account.after(operation.reward, now);
        operation.told = LegAnswer { amount, lots, after, ..leg(State::Applied) }.into();
        Ok(operation.told.clone())
    }

    fn cancel(&mut self, command: &Command, now: Time) -> Told {
        let (account, operation) = self.at(command);
        let operation = operation.unwrap();
        let (amount, held) = (operation.outstanding(), operation.state() == State::Held);
        let lots = account.give_back(&mut operation.parts, amount, held);
        if amount > 0 {
            let (kind, change) = if held { ("release", 0) } else { ("cancel", amount) };
            account.enter(kind, change);
        }
        let after = account.after(operation.reward, now);
        operation.told = LegAnswer { amount, lots, after, ..leg(State::Reversed) }.into();
        operation.told.clone()
    }
}

impl Operation {
    fn state(&self) -> State {
        match &self.told {
            Told::Leg(answer) => answer.state,
            Told::Credited { .. } => State::Applied,
            Told::Refused(_) => State::Declined,
        }
    }

    fn outstanding(&self) -> i64 {
        self.parts.iter().map(|(_, units)| units).sum()
    }

    fn is_in_force(&self) -> bool {
        let takes = matches!(self.mode, Some(Mode::Debit | Mode::Hold));
        takes && matches!(self.state(), State::Applied | State::Held)
    }

    /// What a forward hears that comes again: after a cancel that it is over, whatever it came to.
    fn told_again(&self) -> Told {
        match self.state() {
            State::Reversed | State::Tombstoned => leg(State::Tombstoned).into(),
            _ => self.told.clone(),
        }
    }
}

fn leg(state: State) -> LegAnswer {
    LegAnswer { state, amount: 0, lots: Vec::new(), after: None, decline: None }
}

/// How much a leg gets, or why it gets nothing.
fn units(account: &mut Account, plan: &Forward, now: Time) -> Result<i64, Decline> {
    let decline =
        |code: Code, available| Err(Decline { code: code.as_str().to_owned(), available, held_until: None });
    if account.status != Status::Active {
        return decline(Code::AccountFrozen, None);
    }
    if plan.reward_id.is_some() && account.spendable(plan.reward_id, now).is_empty() {
        return decline(Code::RewardNotUsable, None);
    }
    let available = account.available(plan.reward_id, now);
    if plan.take == Take::AtMost {
        let most = plan.amount.min(available);
        return Ok(most / plan.step * plan.step);
    }
    if plan.amount <= available {
        return Ok(plan.amount);
    }
    let is_meant = |lot: &&Lot| plan.reward_id.is_none() || lot.reward == plan.reward_id;
    let held: i64 = account.lots.iter().filter(is_meant).map(|lot| lot.held).sum();
    if plan.amount > available + held {
        return decline(Code::InsufficientBalance, Some(available));
    }
    // No hold here has an end.
    decline(Code::HeldByOtherOrder, Some(available))
}
