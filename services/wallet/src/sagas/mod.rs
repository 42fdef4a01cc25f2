//! The wallet's sagas: how legs reach their tenders, and what an ending means for the redemption.

mod answer;
mod forward;
mod redeem;
mod rows;

use std::sync::Arc;

use api::{
    Code,
    client::CallError,
    legs::{Forward, LegAction, LegAnswer, LegCommand, LegState, Mode},
    wallet::{Capture, TenderKind},
};
use chrono::TimeDelta;
use fail::fail_point;
use saga::{
    Admission, Call, Domain, Ending, NewSaga, Replied, Saga, SagaId, TransitionEffect,
    machine::{Direction, Reply},
};
use service::{
    Clock,
    trace::{self, Trace},
};
use sqlx::PgConnection;
use tokio::sync::Notify;
use tracing::Instrument as _;

pub(crate) use redeem::link;
pub use redeem::{REDEEM_PATH, declined_response};

use crate::{
    plan::{self, CaptureLeg, LegRef, Plan, PlannedLeg, RedeemPlan, ReversalPlan},
    redemption::{Change, Event, Moved, record},
    tenders::Tenders,
};

/// A leg is refused by its tender this long after the saga's deadline: it saves work, safety rests on tombstones.
const NOT_AFTER_SLACK: TimeDelta = TimeDelta::seconds(2);
/// Databases whose clocks differ by more are not sent a time to judge by.
const SKEW_MAX_MS: i64 = 5_000;
/// Tenders keep a hold this much longer than the wallet, which alone decides when it ends, unless configured otherwise.
pub const HOLD_MARGIN: TimeDelta = TimeDelta::hours(24);

/// The wallet's side of the saga engine.
#[derive(Debug)]
pub struct Sagas {
    tenders: Tenders,
    outbox: Arc<Notify>,
    clock: Clock,
    hold_margin: TimeDelta,
}

impl Sagas {
    /// The wallet's sagas over these tenders; `outbox` is notified of events.
    #[must_use]
    pub fn new(tenders: Tenders, outbox: Arc<Notify>) -> Self {
        Self { tenders, outbox, clock: Clock, hold_margin: HOLD_MARGIN }
    }

    /// Has tenders keep a hold this much longer than the wallet. A hold that is older belongs to no saga that would still end
    /// it, so this is also how long a lost one waits.
    #[must_use]
    pub fn with_hold_margin(self, hold_margin: TimeDelta) -> Self {
        Self { hold_margin, ..self }
    }

    fn command(
        &self,
        saga: &Saga<Plan>,
        leg: usize,
        direction: Direction,
    ) -> Option<(TenderKind, LegCommand)> {
        let legs_id = api::LegsId(saga.legs_id);
        let (of, tender, leg, account, action) = match (&*saga.plan, direction) {
            (Plan::Redeem(plan), Direction::Forward) => {
                let leg = plan.legs.get(leg)?;
                (
                    legs_id,
                    leg.tender,
                    leg.leg,
                    &leg.account,
                    LegAction::Forward(self.forward(saga, plan, leg)),
                )
            }
            (Plan::Redeem(plan), Direction::Cancel) => {
                let leg = plan.legs.get(leg)?;
                (legs_id, leg.tender, leg.leg, &leg.account, LegAction::Cancel)
            }
            (Plan::Reversal(ReversalPlan { of, legs, .. }), _) => back(*of, legs, leg)?,
            (Plan::Capture(plan), _) => {
                let CaptureLeg { leg, units } = plan.legs.get(leg)?;
                let action =
                    if *units > 0 { LegAction::Capture { amount: *units } } else { LegAction::Cancel };
                (plan.of, leg.tender, leg.leg, &leg.account, action)
            }
            (Plan::Orphan(plan), _) => back(plan.of, &plan.legs, leg)?,
            (Plan::Nothing, _) => return None,
        };
        let account = account.clone();
        Some((tender, LegCommand { legs_id: of, leg, account, action, epoch: Some(saga.epoch), trace: None }))
    }

    fn forward(&self, saga: &Saga<Plan>, plan: &RedeemPlan, leg: &PlannedLeg) -> Forward {
        let is_hold = plan.capture == Capture::Manual;
        // Without a word of the tender's clock, or where the two databases differ too much, no time is sent to judge by.
        let skew = self.tenders.get(leg.tender).skew_ms();
        let hold = TimeDelta::seconds(plan.hold_ttl_s) + self.hold_margin;
        Forward {
            mode: if is_hold { Mode::Hold } else { Mode::Debit },
            amount: leg.units,
            take: leg.take,
            step: leg.step,
            reward_id: leg.reward_id,
            of: None,
            hold_until: is_hold.then(|| saga.created_at + hold),
            not_after: skew
                .is_some_and(|skew| skew.abs() <= SKEW_MAX_MS)
                .then(|| saga.deadline_at + NOT_AFTER_SLACK),
            order_id: Some(plan.order_id.clone()),
        }
    }
}

type Addressed<'a> = (api::LegsId, TenderKind, u16, &'a api::legs::Account, LegAction);

fn back(of: api::LegsId, legs: &[LegRef], leg: usize) -> Option<Addressed<'_>> {
    let leg = legs.get(leg)?;
    Some((of, leg.tender, leg.leg, &leg.account, LegAction::Cancel))
}

impl Domain for Sagas {
    type Plan = Plan;
    type Answer = LegAnswer;
    type Change = Change;

    const VERSIONS: &'static [i16] = plan::VERSIONS;

    fn version(plan: &Plan) -> i16 {
        plan.version()
    }

    fn legs(&self, plan: &Plan) -> usize {
        plan.legs()
    }

    fn participant<'a>(&self, plan: &'a Plan, leg: usize) -> &'a str {
        plan.tender(leg).map_or("nobody", TenderKind::as_str)
    }

    async fn send(&self, call: Call<'_, Plan>) -> Replied<LegAnswer> {
        let Some((tender, mut command)) = self.command(call.saga, call.leg, call.direction) else {
            return Replied { reply: Reply::Wrong, answer: None, note: Some("no such leg".to_owned()) };
        };
        let trace = Trace::resume(call.saga.trace_id.as_deref(), "leg");
        let span =
            tracing::info_span!("leg", trace_id = trace.id(), tender = tender.as_str(), leg = call.leg);
        trace.adopt(&span);
        let is_cancel = command.action == LegAction::Cancel;
        let sending = async {
            command.trace = trace::outgoing().and_then(|header| header.to_str().map(str::to_owned).ok());
            self.tenders.get(tender).command(command).await
        };
        let mut replied = replied(trace::scope(trace, sending).instrument(span).await, is_cancel);
        // A tender keeps each hold for a margin longer than it is told to tills.
        if let Some(held_until) =
            replied.answer.as_mut().and_then(|answer| answer.decline.as_mut()?.held_until.as_mut())
        {
            *held_until -= self.hold_margin;
        }
        if replied.answer.is_some() {
            match call.direction {
                Direction::Forward => fail_point!("wallet::leg_done"),
                Direction::Cancel => fail_point!("wallet::cancel_done"),
            }
        }
        replied
    }

    async fn probe(&self, participant: &str) -> bool {
        match self.tenders.named(participant) {
            Some(tender) => tender.probe().await,
            None => false,
        }
    }

    fn on_transition(&self, saga: &Saga<Plan>, ending: Ending<'_, LegAnswer>) -> TransitionEffect<Change> {
        let mut effect = match &*saga.plan {
            Plan::Redeem(plan) => redeem::on_transition(saga, plan, &ending, self.clock.now())
                .unwrap_or_else(|error| {
                    let why = format!("what the tenders answered cannot be valued: {error}");
                    TransitionEffect { response: None, change: Some(Change::Contradiction(why)) }
                }),
            Plan::Reversal(plan) => forward::returned(plan, &ending),
            Plan::Capture(plan) => forward::captured(plan, &ending, self.clock.now()),
            Plan::Nothing | Plan::Orphan(_) => TransitionEffect { response: None, change: None },
        };
        if let Some(Change::Moved(moved)) = &mut effect.change {
            moved.trace_id.clone_from(&saga.trace_id);
        }
        effect
    }

    /// A redemption has its saga's id, and is the parent of the sagas that take it further.
    fn on_parked(&self, subject: SagaId, is_resolved: bool) -> Option<Change> {
        let event = if is_resolved { Event::Resolved } else { Event::Parked };
        Some(Change::Moved(Moved::by(subject.0, event)))
    }

    async fn admit(
        &self,
        conn: &mut PgConnection,
        new: &[&NewSaga<Self>],
    ) -> sqlx::Result<Vec<Admission<Change>>> {
        rows::admit(conn, new).await
    }

    async fn record(&self, conn: &mut PgConnection, changes: &[(SagaId, Change)]) -> sqlx::Result<()> {
        record::record(conn, changes).await?;
        // The transaction is about to commit; the relay waits a moment before it looks, and looks again every second.
        self.outbox.notify_one();
        Ok(())
    }
}

fn replied(answer: Result<LegAnswer, CallError>, is_cancel: bool) -> Replied<LegAnswer> {
    let (reply, note) = match answer {
        Ok(answer) => {
            return Replied { reply: reply(&answer, is_cancel), answer: Some(answer), note: None };
        }
        Err(CallError::Refused) => (Reply::NotSent, None),
        Err(CallError::Unknown(why)) => (Reply::Unknown, Some(why)),
        Err(CallError::Rejected(problem)) if problem.code() == Some(Code::LegConflict) => {
            (Reply::Foreign, Some(problem.code.into_owned()))
        }
        Err(CallError::Rejected(problem)) => (Reply::Wrong, Some(problem.code.into_owned())),
    };
    Replied { reply, answer: None, note }
}

/// What an answer means to the saga. A cancel is done whatever state it found.
fn reply(answer: &LegAnswer, is_cancel: bool) -> Reply {
    match answer.state {
        _ if is_cancel => Reply::Done,
        LegState::Applied | LegState::Held if answer.amount > 0 => Reply::Done,
        LegState::Applied | LegState::Held => Reply::Empty,
        LegState::Declined | LegState::Expired | LegState::Reversed | LegState::Tombstoned => Reply::Refused,
    }
}
