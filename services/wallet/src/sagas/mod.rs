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
    Admission, Call, DatabaseClock, DatabaseTime, Domain, Ending, NewSaga, Replied, Saga, SagaId,
    TransitionEffect,
    machine::{Direction, Reply},
};
use service::trace::{self, Trace};
use sqlx::PgConnection;
use tokio::sync::Notify;
use tracing::Instrument as _;

pub(crate) use redeem::link;
pub use redeem::{REDEEM_PATH, declined_response};

use crate::{
    plan::{self, CaptureLeg, LegRef, Plan, PlannedLeg, RedeemPlan, ReversalPlan, ReversalReason},
    redemption::{Change, Event, Moved, record},
    tenders::Tenders,
};

/// A leg is refused by its tender this long after the saga's deadline: it saves work, safety rests on tombstones.
const NOT_AFTER_SLACK: TimeDelta = TimeDelta::seconds(2);
/// Databases whose clocks differ by more are not sent a time to judge by.
const SKEW_MAX_MS: i64 = 5_000;
/// As exactly as this process knows its database's clock at least.
const CLOCK_SLACK: TimeDelta = TimeDelta::seconds(1);
/// Tenders keep a hold this much longer than the wallet, which alone decides when it ends, unless configured otherwise.
pub const HOLD_MARGIN: TimeDelta = TimeDelta::hours(24);

/// The wallet's side of the saga engine.
#[derive(Debug)]
pub struct Sagas {
    tenders: Tenders,
    outbox: Arc<Notify>,
    clock: DatabaseClock,
    hold_margin: TimeDelta,
}

impl Sagas {
    /// The wallet's sagas over these tenders; `outbox` is notified of events, `clock` is the wallet database's.
    #[must_use]
    pub fn new(tenders: Tenders, outbox: Arc<Notify>, clock: DatabaseClock) -> Self {
        Self { tenders, outbox, clock, hold_margin: HOLD_MARGIN }
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
            (Plan::Reversal(ReversalPlan { why, of, legs, .. }), _) => {
                let action = match why {
                    ReversalReason::Reversal => LegAction::Cancel,
                    // What is authorized only holds. Where a leg is applied all the same, its capture is lost.
                    ReversalReason::Void | ReversalReason::HoldExpired => LegAction::Release,
                };
                back(*of, legs, leg, action)?
            }
            (Plan::Capture(plan), _) => {
                let CaptureLeg { leg, units } = plan.legs.get(leg)?;
                let action =
                    if *units > 0 { LegAction::Capture { amount: *units } } else { LegAction::Release };
                (plan.of, leg.tender, leg.leg, &leg.account, action)
            }
            (Plan::Orphan(plan), _) => back(plan.of, &plan.legs, leg, LegAction::Cancel)?,
            (Plan::Nothing, _) => return None,
        };
        let account = account.clone();
        let (epoch, sent_at) = (Some(saga.epoch), self.clock.now().map(DatabaseTime::to_utc));
        Some((tender, LegCommand { legs_id: of, leg, account, action, epoch, trace: None, sent_at }))
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
            not_after: (skew.is_some_and(|skew| skew.abs() <= SKEW_MAX_MS) && self.knows_the_time_of(saga))
                .then(|| saga.deadline_at + NOT_AFTER_SLACK),
            order_id: Some(plan.order_id.clone()),
        }
    }
}

impl Sagas {
    /// Whether the wallet database's clock still runs as this process knows it: a new saga was written a moment ago. A clock that
    /// was set since the last heartbeat, and a replica that took over, write another time.
    fn knows_the_time_of(&self, saga: &Saga<Plan>) -> bool {
        let Some(now) = self.clock.now() else { return false };
        let age = now.to_utc() - saga.created_at;
        saga.epoch > 1 || (age >= -CLOCK_SLACK && now.to_utc() <= saga.deadline_at + CLOCK_SLACK)
    }
}

type Addressed<'a> = (api::LegsId, TenderKind, u16, &'a api::legs::Account, LegAction);

fn back(of: api::LegsId, legs: &[LegRef], leg: usize, action: LegAction) -> Option<Addressed<'_>> {
    let leg = legs.get(leg)?;
    Some((of, leg.tender, leg.leg, &leg.account, action))
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
        let way = Back::of(&command.action);
        let sending = async {
            command.trace = trace::outgoing().and_then(|header| header.to_str().map(str::to_owned).ok());
            self.tenders.get(tender).command(command).await
        };
        let mut replied = replied(trace::scope(trace, sending).instrument(span).await, way);
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
        let now = self.clock.now().map_or(saga.created_at, DatabaseTime::to_utc).max(saga.created_at);
        let mut effect = match &*saga.plan {
            Plan::Redeem(plan) => redeem::on_transition(saga, plan, &ending, now).unwrap_or_else(|error| {
                let why = format!("what the tenders answered cannot be valued: {error}");
                TransitionEffect { response: None, change: Some(Change::Contradiction(why)) }
            }),
            Plan::Reversal(plan) => forward::returned(plan, &ending),
            Plan::Capture(plan) => forward::captured(plan, &ending, now),
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

/// Whether a command gives value back, and what of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// It does not.
    No,
    /// Of a leg in whatever state.
    Any,
    /// Of a leg that holds.
    Held,
}

impl Back {
    const fn of(action: &LegAction) -> Self {
        match action {
            LegAction::Cancel => Self::Any,
            LegAction::Release => Self::Held,
            LegAction::Forward(_) | LegAction::Capture { .. } | LegAction::Query => Self::No,
        }
    }
}

fn replied(answer: Result<LegAnswer, CallError>, back: Back) -> Replied<LegAnswer> {
    let (reply, note) = match answer {
        Ok(answer) => {
            return Replied { reply: reply(&answer, back), answer: Some(answer), note: None };
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

/// What an answer means to the saga. A cancel is done whatever state it found; a release is not where the leg was captured, by a
/// saga that is lost: an operator has to say what was told.
fn reply(answer: &LegAnswer, back: Back) -> Reply {
    match answer.state {
        LegState::Applied if back == Back::Held && answer.amount > 0 => Reply::Foreign,
        _ if back != Back::No => Reply::Done,
        LegState::Applied | LegState::Held if answer.amount > 0 => Reply::Done,
        LegState::Applied | LegState::Held => Reply::Empty,
        LegState::Declined | LegState::Expired | LegState::Reversed | LegState::Tombstoned => Reply::Refused,
    }
}
