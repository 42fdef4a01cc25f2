//! What must hold. Nothing here asks the code that is tested: it reads rows, entries and what tills were told.

use saga::machine::State;
use tender::command::State as LegState;

use crate::{
    db::{Redemption, Row, SagaId, Status},
    faults::Fired,
    plan::{self, Plan, Why},
    world::World,
};

impl World {
    /// What every transition must have found, at the moment at which it became durable.
    pub fn check_made(&mut self) {
        if let Some(broken) = self.db.broken.take() {
            self.violate(broken);
        }
        let (inserts, moves) = std::mem::take(&mut self.db.recognised);
        (0..inserts).for_each(|_| self.cover.count(Fired::RecognisedInsert));
        (0..moves).for_each(|_| self.cover.count(Fired::RecognisedMove));
        for (id, to) in std::mem::take(&mut self.db.made) {
            let Some(row) = self.db.rows.get(&id) else { continue };
            let checked = match (to, &row.plan) {
                (State::Completed, Plan::Redeem(_)) => self.every_leg_is_in_force(row),
                (State::Compensated, Plan::Redeem(_)) => self.no_leg_will_ever_apply(row),
                (State::Completed, Plan::Return(..)) => self.no_leg_will_ever_apply(row),
                _ => Ok(()),
            };
            match (to, &row.plan) {
                (State::DeadLetter, _) => self.cover.count(Fired::DeadLettered),
                (State::Completed, Plan::Capture(..)) => self.cover.count(Fired::Captured),
                (State::Completed, Plan::Refund(..)) => self.cover.count(Fired::Refunded),
                (State::Completed, Plan::Return(_, why)) => self.cover.count(match why {
                    Why::Reversal => Fired::Reversed,
                    Why::Void => Fired::Voided,
                    Why::HoldExpired => Fired::HoldExpired,
                }),
                _ => {}
            }
            self.expect(checked);
        }
    }

    fn every_leg_is_in_force(&self, row: &Row) -> Result<(), String> {
        self.each_leg(row, |state| matches!(state, Some(LegState::Applied | LegState::Held)), "COMPLETED")
    }

    fn no_leg_will_ever_apply(&self, row: &Row) -> Result<(), String> {
        let is_over = |state| match state {
            // Without a row a late forward would still apply.
            None | Some(LegState::Held) => false,
            Some(LegState::Applied) => false,
            Some(LegState::Declined | LegState::Expired | LegState::Reversed | LegState::Tombstoned) => true,
        };
        self.each_leg(row, is_over, "over")
    }

    fn each_leg(
        &self,
        row: &Row,
        may_be: impl Fn(Option<LegState>) -> bool,
        what: &str,
    ) -> Result<(), String> {
        let Some(redeem) = row.plan.redeem() else { return Ok(()) };
        for (number, leg) in redeem.legs.iter().enumerate() {
            let id = plan::operation_id(leg.customer, plan::legs_id(redeem.order), number);
            let operation = self.tenders[leg.tender].operations.get(&id);
            let took_nothing =
                operation.is_some_and(|operation| operation.outstanding() == 0 && operation.amount == 0);
            let state = operation.map(|operation| operation.state);
            if !may_be(state) && !took_nothing {
                return Err(format!("{:?} is {what} with leg {number} {state:?}", row.id));
            }
        }
        Ok(())
    }

    /// What is not over yet, if anything.
    pub fn unfinished(&self) -> Option<String> {
        if let Some(row) =
            self.db.rows.values().find(|row| row.state.is_live() || row.state == State::DeadLetter)
        {
            return Some(format!("{:?} {:?} epoch {} of {:?}", row.id, row.state, row.epoch, row.owner));
        }
        let busy =
            [Status::Pending, Status::Capturing, Status::Refunding, Status::Reversing, Status::UnderReview];
        let is_open = |row: &Redemption| {
            busy.contains(&row.status) || row.status == Status::Authorized || row.cancel_requested
        };
        if let Some((id, row)) = self.db.redemptions.iter().find(|(_, row)| is_open(row)) {
            return Some(format!("redemption {id:?} {row:?}"));
        }
        if let Some((index, ask)) = self.asks.iter().enumerate().find(|(_, ask)| !ask.is_settled) {
            return Some(format!("ask {index}: {:?} of order {}", ask.want, ask.order));
        }
        let is_quiet = self.on_the_way == 0
            && self.tenders.iter().all(|tender| tender.is_idle())
            && self.db.pending.iter().all(Option::is_none);
        (!is_quiet).then(|| format!("{} requests on their way", self.on_the_way))
    }

    /// What must hold once everything is over.
    pub fn check_all(&mut self) {
        let checks = [self.check_values(), self.check_entries(), self.check_told(), self.check_letters()];
        for check in checks {
            self.expect(check);
        }
    }

    /// Of every redemption exactly that is taken which its row says, leg by leg; and nothing else is taken at all.
    fn check_values(&self) -> Result<(), String> {
        let mut taken = vec![0; self.tenders.len()];
        for (id, redemption) in &self.db.redemptions {
            let row = self.row(*id)?;
            let stands = redemption.status == Status::Completed;
            let in_state = match redemption.status {
                Status::Declined => State::Compensated,
                _ => State::Completed,
            };
            if row.state != in_state {
                return Err(format!("{id:?} is {:?}, its redemption {:?}", row.state, redemption.status));
            }
            if row.key_cancelled && stands {
                return Err(format!("{id:?} stands, though its key was cancelled"));
            }
            let Some(redeem) = row.plan.redeem() else { continue };
            for (number, leg) in redeem.legs.iter().enumerate() {
                let operation = plan::operation_id(leg.customer, plan::legs_id(redeem.order), number);
                let expected =
                    if stands { redemption.taken[number] - redemption.refunded[number] } else { 0 };
                let outstanding = self.tenders[leg.tender]
                    .operations
                    .get(&operation)
                    .filter(|o| matches!(o.state, LegState::Applied | LegState::Held | LegState::Reversed))
                    .map_or(0, |operation| operation.outstanding());
                if outstanding != expected {
                    return Err(format!(
                        "{id:?} {:?} leg {number}: {outstanding} in force, not {expected}",
                        redemption.status
                    ));
                }
                taken[leg.tender] += expected;
            }
        }
        for (index, tender) in self.tenders.iter().enumerate() {
            let (posted, held) = tender.totals();
            let expired = tender.expired();
            if posted != self.issued[index] - taken[index] - expired || held != 0 {
                return Err(format!(
                    "tender {index}: issued {}, taken {}, expired {expired}, posted {posted}, held {held}",
                    self.issued[index], taken[index]
                ));
            }
        }
        Ok(())
    }

    /// Exactly once: by its entries an operation takes at most once, and gives back at most what it took.
    fn check_entries(&self) -> Result<(), String> {
        for (index, tender) in self.tenders.iter().enumerate() {
            let mut sums = std::collections::BTreeMap::<_, (i64, i64, u32)>::new();
            for entry in &tender.entries {
                let sum = sums.entry(entry.operation_id).or_default();
                sum.0 += entry.posted;
                sum.1 += entry.held;
                sum.2 += u32::from(entry.posted < 0 || entry.held > 0);
                let is_issue = !tender.operations.get(&entry.operation_id).is_some_and(is_taking);
                if (sum.0 > 0 || sum.1 < 0 || sum.2 > 2) && !is_issue {
                    return Err(format!(
                        "tender {index}: operation {} acts twice: {sum:?}",
                        entry.operation_id
                    ));
                }
            }
            let mut back = std::collections::BTreeMap::<_, i64>::new();
            for one in &tender.restorations {
                *back.entry((one.operation_id, one.position)).or_default() += one.amount;
            }
            for ((id, position), sum) in back {
                let part = tender
                    .operations
                    .get(&id)
                    .and_then(|o| o.allocations.get(usize::try_from(position).ok()?));
                if part.is_none_or(|part| part.reversed != sum || sum > part.amount) {
                    return Err(format!(
                        "tender {index}: operation {id} part {position}: {sum} came back of {part:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What tills were told is what is.
    fn check_told(&self) -> Result<(), String> {
        for (order, number) in self.orders.iter().zip(0..) {
            let Some(row) = self.db.find((crate::db::Operation::Redeem, number)) else {
                return Err(format!("order {number} has no saga"));
            };
            if let Some(told) = &order.told {
                let expected = if told.status == 201 { State::Completed } else { State::Compensated };
                if row.state != expected || row.response.as_ref() != Some(told) {
                    return Err(format!(
                        "order {number} was told {told:?}, and is {:?} {:?}",
                        row.state, row.response
                    ));
                }
            }
            if order.is_cancelled && !row.key_cancelled {
                return Err(format!("order {number}: its cancel was acknowledged, and is not there"));
            }
        }
        Ok(())
    }

    fn check_letters(&self) -> Result<(), String> {
        match self.db.letters.iter().find(|letter| letter.is_open || letter.closed_by.is_none()) {
            Some(letter) => Err(format!("{letter:?} is open, and its saga over")),
            None => Ok(()),
        }
    }

    fn row(&self, id: SagaId) -> Result<&Row, String> {
        self.db.rows.get(&id).ok_or_else(|| format!("{id:?} has a redemption and no row"))
    }
}

fn is_taking(operation: &tender::fold::working_set::Operation) -> bool {
    use tender::fold::working_set::Kind;
    matches!(operation.kind, Kind::Debit | Kind::Hold | Kind::Cancel | Kind::Expire)
}
