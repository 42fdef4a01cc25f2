//! `POST /wallet/redeem`.
//!
//! Order of checks: token, role, resource, syntax, **key**, overload and limits, planning, work. On the happy path with
//! exact amounts nothing is read before the saga is written: the unique key itself is the look-up. Every other path
//! looks the key up first, because no refusal but the first ones may be given for a key that may have an answer.
//!
//! Round trips on the happy path: one group commit (T1), one call to each tender in parallel, one group commit (T2).

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use api::{
    BusinessId, Code, LegsId, Outcome, Problem,
    client::CallError,
    rewards::Resolve,
    tender::{AccountStatus, AccountView, Owner},
    wallet::{Links, OnDeadline, RedeemRequest, Redemption, RedemptionStatus, TenderKind},
};
use axum::{
    extract::State,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use fail::fail_point;
use saga::{
    Begin, Key, NewSaga, Reason, SagaId, StoreError, Stored, Submitted, TurnBack, Waited,
    machine::{Kind, State as SagaState},
};
use service::{
    ApiError,
    auth::{Allow, Caller, Spend},
    extract::IdempotencyKey,
    json::Body,
    trace,
};
use tokio::time::Instant;

use super::redemptions;
use crate::{
    app::App,
    plan::{Plan, RedeemPlan},
    planning::{self, Needs, Refusal, SpendableLot, Tender, Wallet},
    redemption::{Change, Opening, Standing},
    sagas::{REDEEM_PATH as PATH, Sagas, declined_response, link},
};

/// The operation's name in keys.
pub(super) const OPERATION: &str = "redeem";
/// A saga's own deadline, whatever its caller's.
const SAGA_DEADLINE: Duration = Duration::from_secs(10);
/// The answer leaves this much before the caller gives up.
const MARGIN: Duration = Duration::from_millis(100);
/// Turning a redemption back takes a commit, and is done before the answer leaves.
const CANCELLING: Duration = Duration::from_millis(150);
/// Plans are judged again this often when they met others at the same moment.
const TRIES: usize = 5;
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Redeem from all tenders, all or nothing.
#[utoipa::path(post, path = "/redeem", params(IdempotencyKey), request_body = RedeemRequest,
    responses((status = 201, description = "Completed, or authorized", body = Redemption),
        (status = 200, description = "Answered before under this key: the stored answer", body = Redemption),
        (status = 202, description = "Under way; look it up at Location", body = Redemption)))]
pub(super) async fn redeem(
    State(app): State<App>,
    caller: Allow<Spend>,
    key: Result<IdempotencyKey, ApiError>,
    body: Body<RedeemRequest>,
) -> Result<Response, ApiError> {
    let began = Instant::now();
    let hash = body.hash(&["deadline_ms"]).to_vec();
    let request = body.value;
    fail_point!("wallet::request_read");
    authorize(&caller, &request)?;
    // After the customer: what is another's does not exist, whatever else is wrong.
    let IdempotencyKey(key) = key?;
    let tenders = planning::check(&request).map_err(|problem| *problem)?;
    let deadline = began + Duration::from_millis(planning::deadline_ms(&request));
    let margin = if request.on_deadline == OnDeadline::Cancel { MARGIN + CANCELLING } else { MARGIN };
    let until = deadline - margin;
    let written = OnceLock::new();
    let call = Redeem { app, caller: caller.into_caller(), key, hash, request, tenders, until, written };
    // Whatever hangs, the till hears something before it gives up: that its redemption is under way, if it is.
    let answer = tokio::time::timeout_at(deadline - MARGIN / 2, call.answer()).await;
    let answer = answer.unwrap_or_else(|_| Err(unknown(&"no answer in time")));
    fail_point!("wallet::answering");
    let is_over = answer.as_ref().is_ok_and(|a| [StatusCode::CREATED, StatusCode::OK].contains(&a.status()));
    if call.written.get().is_some() && !is_over {
        // Under way, going back or under review: a balance read from here on shows what may be taken.
        call.app.live.cache.note_doubt(&call.owner()).await;
    }
    match (answer, call.written.get()) {
        (Err(error), Some(id)) if error.problem().outcome == Outcome::Unknown => {
            redemptions::accepted(call.pending(*id))
        }
        (answer, _) => answer,
    }
}

fn authorize(caller: &Caller, request: &RedeemRequest) -> Result<(), ApiError> {
    caller.require_customer(&request.customer_id)?;
    let is_elsewhere = match &request.location_id {
        Some(location) => !caller.may_act_at(location),
        None => caller.location_ids.is_some(),
    };
    if is_elsewhere {
        return Err(ApiError::new(Code::RoleMissing, "The token does not allow acting at this location."));
    }
    Ok(())
}

struct Redeem {
    app: App,
    caller: Caller,
    key: String,
    hash: Vec<u8>,
    request: RedeemRequest,
    tenders: Option<Vec<Tender>>,
    until: Instant,
    /// The redemption, once it is known to be durable.
    written: OnceLock<SagaId>,
}

impl Redeem {
    async fn answer(&self) -> Result<Response, ApiError> {
        if !self.app.engine.is_available() {
            return Err(unknown(&"the saga database is away"));
        }
        let needs = planning::needs(self.tenders.as_deref());
        let refusal = self.door(&needs).err();
        if refusal.is_some() || !needs.is_nothing() {
            match self.find().await? {
                Some(stored) => return self.answer_stored(&stored).await,
                None => refusal.map_or(Ok(()), Err)?,
            }
        }
        let planned = match self.read(&needs).await? {
            Ok(wallet) => planning::plan(self.business(), &self.request, self.tenders.as_deref(), &wallet),
            Err(refused) => Err(refused),
        };
        for _ in 0..TRIES {
            let id = SagaId::fresh();
            match self.app.engine.submit(self.saga(id, planned.clone())).await {
                Ok(Submitted::Running) => {
                    let _ = self.written.set(id);
                    return self.wait(id, false).await;
                }
                Ok(Submitted::Refused(response)) => return Ok(stored_answer(&response, false)),
                Ok(Submitted::KeyTaken | Submitted::Cancelled) => {
                    if let Some(stored) = self.find().await? {
                        return self.answer_stored(&stored).await;
                    }
                    let legs = LegsId::derive(self.business(), OPERATION, &self.saga_key().scope, &self.key);
                    let is_taken_back = self.app.engine.is_taken_back(legs.0).await;
                    if is_taken_back.map_err(|error| unknown(&error))? {
                        return Err(key_cancelled());
                    }
                }
                Ok(Submitted::Stale) => {}
                Err(error) => return self.not_taken(&error).await,
            }
        }
        Err(ApiError::overloaded())
    }

    fn business(&self) -> &BusinessId {
        &self.caller.business_id
    }

    fn owner(&self) -> Owner {
        Owner { business_id: self.business().clone(), customer_id: self.request.customer_id.clone() }
    }

    fn saga_key(&self) -> Key {
        Key {
            business_id: self.business().as_str().to_owned(),
            operation: OPERATION.to_owned(),
            scope: self.caller.own_customer.as_ref().map_or_else(String::new, |c| c.as_str().to_owned()),
            key: self.key.clone(),
        }
    }

    /// What can be refused without planning: overload, limits, tenders that are paused or known to be down.
    fn door(&self, needs: &Needs) -> Result<(), ApiError> {
        if !self.app.engine.is_ready() || self.app.engine.is_full() {
            return Err(ApiError::overloaded());
        }
        if let Some(own) = &self.caller.own_customer {
            self.app.limits.redeems.admit(&format!("{} {own}", self.business()))?;
        }
        if !needs.codes.is_empty() {
            self.app.limits.admit_code(self.business().as_str(), self.request.customer_id.as_str())?;
        }
        let named = self.tenders.as_deref().unwrap_or_default().iter().map(|t| t.kind);
        for kind in named.chain(needs.balances.iter().copied()) {
            if self.app.paused.is_paused(self.business(), kind) {
                return Err(paused(kind));
            }
            if self.app.engine.is_silent(kind.as_str()) || self.app.engine.is_full_for(kind.as_str()) {
                return Err(unavailable(kind));
            }
        }
        Ok(())
    }

    /// Reads what planning needs; `Err` inside is a refusal to be recorded.
    async fn read(&self, needs: &Needs) -> Result<Result<Wallet, Refusal>, ApiError> {
        let mut wallet = Wallet::default();
        let customer = self.request.customer_id.as_str();
        let accounts = needs.balances.iter().map(|kind| async {
            (*kind, self.app.tenders.get(*kind).account(self.business(), customer).await)
        });
        for (kind, account) in futures_util::future::join_all(accounts).await {
            let account = account.map_err(|_| unavailable(kind))?;
            wallet.lots.insert(kind, self.spendable(&account));
        }
        for (position, code) in &needs.codes {
            let resolve = Resolve {
                business_id: self.business().clone(),
                customer_id: self.request.customer_id.clone(),
                code: Some(code.clone()),
                reward_id: None,
            };
            match self.app.tenders.get(TenderKind::DigitalReward).resolve(&resolve).await {
                Ok(resolved) => drop(wallet.resolved.insert(*position, resolved)),
                Err(CallError::Rejected(problem)) if problem.code() == Some(Code::RewardNotUsable) => {
                    self.app.limits.note_wrong_code(self.business().as_str());
                    return Ok(Err(Box::new(Problem::new(
                        Code::RewardNotUsable,
                        "The reward cannot be used.",
                    ))));
                }
                // Codes fail closed.
                Err(CallError::Rejected(problem)) if problem.status == 429 => return Err((*problem).into()),
                Err(_) => return Err(unavailable(TenderKind::DigitalReward)),
            }
        }
        Ok(Ok(wallet))
    }

    /// Lots that this redemption could take, in the tender's own order. A frozen account has none.
    fn spendable(&self, account: &AccountView) -> Vec<SpendableLot> {
        if account.status != AccountStatus::Active {
            return Vec::new();
        }
        let now = self.app.clock.now();
        let lots = account.lots.iter().filter(|lot| {
            lot.remaining > 0
                && lot.currency.is_none_or(|currency| currency == self.request.currency)
                && lot.grace_until.or(lot.expires_at).is_none_or(|end| end > now)
        });
        lots.map(|lot| SpendableLot {
            remaining: lot.remaining,
            expires_at: lot.expires_at,
            reward_id: lot.reward_id,
        })
        .collect()
    }

    fn saga(&self, id: SagaId, planned: Result<RedeemPlan, Refusal>) -> NewSaga<Sagas> {
        let key = self.saga_key();
        let trace_id = trace::current().map(|trace| trace.id());
        let legs_id = LegsId::derive(self.business(), OPERATION, &key.scope, &key.key).0;
        let opening = |standing| Some(Change::Opened(Box::new(self.opening(standing))));
        let (plan, begin, change) = match planned {
            Ok(plan) => (Plan::Redeem(plan), Begin::Run, opening(Standing::on(RedemptionStatus::Pending))),
            Err(mut problem) => {
                problem.redemption_id = Some(id.0);
                let response = declined_response(*problem, PATH, trace_id.clone());
                (Plan::Nothing, Begin::Refused(response), opening(Standing::DECLINED))
            }
        };
        NewSaga {
            id,
            key,
            request_hash: self.hash.clone(),
            kind: Kind::Compensable,
            legs_id,
            parent_id: None,
            plan: Arc::new(plan),
            deadline: SAGA_DEADLINE,
            trace_id,
            change,
            begin,
            cancel_parent_key: false,
        }
    }

    fn opening(&self, standing: Standing) -> Opening {
        let request = &self.request;
        Opening {
            business_id: self.business().as_str().to_owned(),
            customer_id: request.customer_id.as_str().to_owned(),
            order_id: request.order_id.clone(),
            location_id: request.location_id.clone(),
            terminal_id: request.terminal_id.clone(),
            operator_id: request.operator_id.clone(),
            sequence: request.sequence,
            currency: request.currency.code().to_owned(),
            amount: request.amount,
            standing,
            metadata: serde_json::to_string(&request.metadata).unwrap_or_else(|_| "{}".to_owned()),
        }
    }

    /// What is known of a redemption that was just written, without asking anybody.
    fn pending(&self, id: SagaId) -> Redemption {
        let request = &self.request;
        Redemption {
            id: id.0,
            status: RedemptionStatus::Pending,
            customer_id: request.customer_id.as_str().to_owned(),
            order_id: request.order_id.clone(),
            currency: request.currency.code().to_owned(),
            amount: request.amount,
            redeemed: 0,
            amount_due: request.amount,
            reversal: None,
            hold_expires_at: None,
            tenders: Vec::new(),
            metadata: request.metadata.clone(),
            created_at: self.app.clock.now(),
            completed_at: None,
            links: Links { own: link(id.0) },
        }
    }

    async fn find(&self) -> Result<Option<Stored>, ApiError> {
        self.app.engine.find(&self.saga_key()).await.map_err(|error| unknown(&error))
    }

    /// Answers under a key that was used before.
    async fn answer_stored(&self, stored: &Stored) -> Result<Response, ApiError> {
        if stored.key_cancelled {
            return Err(key_cancelled());
        }
        if stored.request_hash != self.hash {
            return Err(key_reused());
        }
        let _ = self.written.set(stored.id);
        self.wait(stored.id, true).await
    }

    async fn wait(&self, id: SagaId, is_replay: bool) -> Result<Response, ApiError> {
        let mut waited = self.app.engine.wait(id, self.until).await.map_err(|error| unknown(&error))?;
        if matches!(waited, Waited::Pending(SagaState::Running))
            && self.request.on_deadline == OnDeadline::Cancel
        {
            waited = self.give_up(id).await?;
        }
        match waited {
            Waited::Answered(response) => Ok(stored_answer(&response, is_replay)),
            Waited::KeyCancelled => Err(key_cancelled()),
            Waited::Pending(_) => redemptions::pending(&self.app.pool, self.business(), id.0).await,
        }
    }

    /// The caller's time is up and it does not want the value taken behind its back.
    async fn give_up(&self, id: SagaId) -> Result<Waited, ApiError> {
        let stored = self.app.engine.find_by_id(id).await.map_err(|error| unknown(&error))?;
        if let Some(stored) = stored.filter(|stored| stored.state == SagaState::Running) {
            let turned = self.app.engine.turn_back(&stored, Reason::Silent, false).await;
            if turned.map_err(|_| unknown(&"the saga store did not answer"))? == TurnBack::Done {
                return Ok(Waited::Pending(SagaState::Compensating));
            }
        }
        self.app.engine.wait(id, Instant::now()).await.map_err(|error| unknown(&error))
    }

    /// The store did not take the saga. What is said of the outcome must hold for the key, not for this call alone.
    async fn not_taken(&self, error: &StoreError) -> Result<Response, ApiError> {
        match error {
            StoreError::Unknown => Err(unknown(error)),
            StoreError::Refused(_) => Err(ApiError::internal(error)),
            StoreError::Unavailable => match self.find().await? {
                Some(stored) => self.answer_stored(&stored).await,
                None => Err(ApiError::overloaded()),
            },
        }
    }
}

/// The answer that is stored under a key, byte for byte.
pub(super) fn stored_answer(response: &saga::Response, is_replay: bool) -> Response {
    let status = StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let status = if is_replay && status == StatusCode::CREATED { StatusCode::OK } else { status };
    let kind = if status.is_success() { "application/json" } else { service::problem::PROBLEM_JSON };
    let mut answer = (status, [(header::CONTENT_TYPE, kind)], response.body.clone()).into_response();
    if is_replay {
        answer.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    answer
}

pub(super) fn key_cancelled() -> ApiError {
    ApiError::new(Code::KeyCancelled, "This key was cancelled. Use a new key.")
}

pub(super) fn key_reused() -> ApiError {
    ApiError::new(Code::IdempotencyKeyReused, "This key was used with another body. Use a new key.")
}

fn unavailable(kind: TenderKind) -> ApiError {
    let mut problem = Problem::new(
        Code::TenderUnavailable,
        "A tender that this redemption needs cannot be reached. Nothing was written.",
    );
    problem.extra.insert("tender".to_owned(), serde_json::json!(kind));
    problem.into()
}

fn paused(kind: TenderKind) -> ApiError {
    let mut problem = Problem::new(
        Code::TenderUnavailable,
        "A tender that this redemption needs is out of service for now. Nothing was written.",
    );
    problem.extra.insert("tender".to_owned(), serde_json::json!(kind));
    problem.into()
}

/// The database could not say whether the key has an answer, so neither can we.
pub(super) fn unknown(cause: &impl std::fmt::Display) -> ApiError {
    tracing::warn!(%cause, "outcome unknown");
    Problem::new(
        Code::Overloaded,
        "Whether this key was used cannot be said now. Ask again with the same key.",
    )
    .outcome(Outcome::Unknown)
    .into()
}
