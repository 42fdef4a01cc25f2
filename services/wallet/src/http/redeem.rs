//! `POST /wallet/redeem`.
//!
//! Order of checks: token, role, resource, syntax, **key**, overload and limits, planning, work; from the key on they are those
//! of every call under a key ([`super::keyed`]). On the happy path with exact amounts nothing is read before the saga is
//! written: the unique key itself is the look-up.
//!
//! Round trips on the happy path: one group commit (T1), one call to each tender in parallel, one group commit (T2).

use std::time::Duration;

use api::{
    Code, LegsId, Problem,
    client::CallError,
    derive::requests,
    rewards::Resolve,
    tender::{AccountStatus, AccountView, Owner},
    wallet::{Links, OnDeadline, RedeemRequest, Redemption, RedemptionStatus, TenderKind},
};
use axum::{extract::State, http::StatusCode, response::Response};
use fail::fail_point;
use saga::{Begin, Key, NewSaga, SagaId, machine::Kind};
use service::{
    ApiError,
    auth::{Allow, Caller, Spend},
    extract::IdempotencyKey,
    json::Body,
    trace,
};
use tokio::time::Instant;
use uuid::Uuid;

use super::keyed::{Call, Draft, Failure, Operation, Refused, Unplanned};
use crate::{
    app::App,
    limits::CodeSource,
    plan::{Plan, REDEEM, RedeemPlan},
    planning::{self, Needs, Refusal, SpendableLot, Tender, Wallet},
    redemption::{Change, Opening, Standing},
    sagas::{REDEEM_PATH as PATH, Sagas, declined_response, link},
};

/// A saga's own deadline, whatever its caller's.
const SAGA_DEADLINE: Duration = Duration::from_secs(10);

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
) -> Result<Response, Failure> {
    let began = Instant::now();
    let request = body.value;
    fail_point!("wallet::request_read");
    authorize(&caller, &request).map_err(Failure::of_the_call)?;
    // After the customer: what is another's does not exist, whatever else is wrong.
    let IdempotencyKey(key) = key.map_err(Failure::of_the_call)?;
    let tenders = planning::check(&request).map_err(|problem| Failure::of_the_call((*problem).into()))?;
    let deadline = began + Duration::from_millis(planning::deadline_ms(&request));
    let caller = caller.into_caller();
    let (business, key) = (caller.business_id.clone(), saga_key(&caller, key));
    let key_id = LegsId::derive(&business, REDEEM, &key.scope, &key.key);
    let mut call = Call::new(app.clone(), business, (key, key_id), requests::redeem(&request), deadline);
    if request.on_deadline == OnDeadline::Cancel {
        call = call.cancelled_on_deadline();
    }
    let needs = planning::needs(tenders.as_deref());
    let redeem = Redeem { app, caller, request, tenders, needs };
    let answer = call.answer(&redeem).await;
    fail_point!("wallet::answering");
    let is_over = answer.as_ref().is_ok_and(|a| [StatusCode::CREATED, StatusCode::OK].contains(&a.status()));
    if call.written().is_some() && !is_over {
        // Under way, going back or under review: a balance read from here on shows what may be taken.
        redeem.app.live.cache.note_doubt(&redeem.owner()).await;
    }
    answer
}

fn authorize(caller: &Caller, request: &RedeemRequest) -> Result<(), ApiError> {
    caller.require_customer(&request.customer_id)?;
    caller.require_location(request.location_id.as_deref())
}

/// A customer's own token has a namespace of keys of its own.
fn saga_key(caller: &Caller, key: String) -> Key {
    Key {
        business_id: caller.business_id.as_str().to_owned(),
        operation: REDEEM.to_owned(),
        scope: caller.own_customer.as_ref().map_or_else(String::new, |c| c.as_str().to_owned()),
        key,
    }
}

struct Redeem {
    app: App,
    caller: Caller,
    request: RedeemRequest,
    tenders: Option<Vec<Tender>>,
    needs: Needs,
}

impl Operation for Redeem {
    fn admit(&self) -> Result<(), Refused> {
        let (engine, business) = (&self.app.engine, self.caller.business_id.as_str());
        if !engine.is_ready() || engine.is_full(business) {
            return Err(Refused::overloaded());
        }
        let limits = &self.app.limits;
        if let Some(own) = &self.caller.own_customer {
            let admitted = limits.redeems.admit(&format!("{} {own}", self.caller.business_id));
            admitted.map_err(Refused::limited)?;
        }
        if !self.needs.codes.is_empty() {
            limits.admit_code(&self.code_source()).map_err(Refused::limited)?;
        }
        let named = self.tenders.as_deref().unwrap_or_default().iter().map(|t| t.kind);
        for kind in named.chain(self.needs.balances.iter().copied()) {
            if self.app.paused.is_paused(&self.caller.business_id, kind) {
                return Err(Refused::paused(kind));
            }
            if engine.is_unreachable(kind.as_str()) {
                return Err(Refused::unreachable(kind));
            }
            if engine.is_full_for(kind.as_str(), business) {
                return Err(Refused::busy(kind));
            }
        }
        Ok(())
    }

    fn looks_up_first(&self) -> bool {
        !self.needs.is_nothing()
    }

    async fn plan(&self, call: &Call, id: SagaId) -> Result<NewSaga<Sagas>, Unplanned> {
        let planned = match self.read().await.map_err(Unplanned::Refused)? {
            Ok(wallet) => {
                planning::plan(&self.caller.business_id, &self.request, self.tenders.as_deref(), &wallet)
            }
            Err(refused) => Err(refused),
        };
        Ok(self.saga(call, id, planned))
    }

    fn redemption(&self, id: SagaId) -> Uuid {
        id.0
    }

    fn under_way(&self, id: SagaId) -> Redemption {
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
            created_at: self
                .app
                .engine
                .clock()
                .now()
                .map_or_else(|| self.app.clock.now(), |now| now.to_utc()),
            completed_at: None,
            links: Links { own: link(id.0) },
        }
    }
}

impl Redeem {
    fn owner(&self) -> Owner {
        let customer_id = self.request.customer_id.clone();
        Owner { business_id: self.caller.business_id.clone(), customer_id }
    }

    fn code_source(&self) -> CodeSource {
        CodeSource::of(&self.caller, &self.request)
    }

    /// Reads what planning needs; `Err` inside is a refusal to be recorded.
    async fn read(&self) -> Result<Result<Wallet, Refusal>, Refused> {
        let mut wallet = Wallet::default();
        let customer = self.request.customer_id.as_str();
        let accounts = self.needs.balances.iter().map(|kind| async {
            (*kind, self.app.tenders.get(*kind).account(&self.caller.business_id, customer).await)
        });
        for (kind, account) in futures_util::future::join_all(accounts).await {
            let account = account.map_err(|_| Refused::unreachable(kind))?;
            wallet.lots.insert(kind, self.spendable(kind, &account)?);
        }
        for (position, code) in &self.needs.codes {
            let resolve = Resolve {
                business_id: self.caller.business_id.clone(),
                customer_id: self.request.customer_id.clone(),
                code: Some(code.clone()),
                reward_id: None,
            };
            match self.app.tenders.get(TenderKind::DigitalReward).resolve(&resolve).await {
                Ok(resolved) => drop(wallet.resolved.insert(*position, resolved)),
                Err(CallError::Rejected(problem)) if problem.code() == Some(Code::RewardNotUsable) => {
                    self.app.limits.note_wrong_code(&self.code_source());
                    return Ok(Err(Box::new(Problem::new(
                        Code::RewardNotUsable,
                        "The reward cannot be used.",
                    ))));
                }
                // Codes fail closed.
                Err(_) => return Err(Refused::unreachable(TenderKind::DigitalReward)),
            }
        }
        Ok(Ok(wallet))
    }

    /// Lots that this redemption could take, in the tender's own order. A frozen account has none. What has ended is judged as the
    /// tender will: by the wallet database's clock, and how far the tender's is ahead of that.
    fn spendable(&self, kind: TenderKind, account: &AccountView) -> Result<Vec<SpendableLot>, Refused> {
        if account.status != AccountStatus::Active {
            return Ok(Vec::new());
        }
        let now = self.app.engine.clock().now().ok_or_else(Refused::overloaded)?;
        let skew = self.app.tenders.get(kind).skew_ms().unwrap_or_default();
        let now = now.to_utc() + chrono::TimeDelta::milliseconds(skew);
        let lots = account.lots.iter().filter(|lot| {
            lot.remaining > 0
                && lot.currency.is_none_or(|currency| currency == self.request.currency)
                && lot.grace_until.or(lot.expires_at).is_none_or(|end| end > now)
        });
        let spendable = lots.map(|lot| SpendableLot {
            remaining: lot.remaining,
            expires_at: lot.expires_at,
            reward_id: lot.reward_id,
        });
        Ok(spendable.collect())
    }

    fn saga(&self, call: &Call, id: SagaId, planned: Result<RedeemPlan, Refusal>) -> NewSaga<Sagas> {
        let opening = |standing| Some(Change::Opened(Box::new(self.opening(standing))));
        let (plan, begin, change) = match planned {
            Ok(plan) => (Plan::Redeem(plan), Begin::Run, opening(Standing::on(RedemptionStatus::Pending))),
            Err(mut problem) => {
                problem.redemption_id = Some(id.0);
                let trace_id = trace::current().map(|trace| trace.id());
                let response = declined_response(*problem, PATH, trace_id);
                (Plan::Nothing, Begin::Refused(response), opening(Standing::DECLINED))
            }
        };
        let (kind, parent_id, deadline) = (Kind::Compensable, None, SAGA_DEADLINE);
        call.saga(id, Draft { kind, plan, begin, change, parent_id, deadline })
    }

    fn opening(&self, standing: Standing) -> Opening {
        let request = &self.request;
        Opening {
            business_id: self.caller.business_id.as_str().to_owned(),
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
}
