//! `POST /api/v1/…/credits`: a new lot.

use api::{
    Code, Problem,
    derive::{BEARER, RequestForm, bearer_owner, public_operation_id, requests, reward_id},
    id::is_visible_ascii,
    tender::{CreditAnswer, CreditRequest},
};
use axum::{extract::State, response::Response};
use chrono::SubsecRound as _;
use money::Asset;
use serde_json::json;
use service::{
    ApiError,
    auth::{Allow, Caller, Issue, Role, Till},
    extract::IdempotencyKey,
    json::Body,
    problem::PROBLEM_JSON,
    trace,
};
use uuid::Uuid;

use super::answer;
use crate::{
    App,
    command::{AccountKey, Action, Answer, Command, Credit, Outcome, RequestRef, State as Stands},
    rules::{Issued, Rules},
    wire,
};

/// Longest reason in characters.
const REASON_MAX: usize = 500;

/// What a credit may be refused for, whatever its sender may do.
const REFUSED: &str = "Not issued. `limit_exceeded`: the balance would be above 9007199254740991 (2^53 - 1), the greatest \
    whole number that every JSON reader keeps exactly; a smaller credit needs a new key";

/// Issue value: a new lot.
#[utoipa::path(post, path = "/credits", params(IdempotencyKey), request_body = CreditRequest,
    responses((status = 201, description = "Issued", body = CreditAnswer),
        (status = 200, description = "Issued before under this key: the stored answer", body = CreditAnswer),
        (status = 422, description = REFUSED, body = Problem, content_type = PROBLEM_JSON)))]
pub async fn create_credit(
    State(app): State<App>,
    caller: Allow<Issue>,
    key: IdempotencyKey,
    body: Body<CreditRequest>,
) -> Result<Response, ApiError> {
    issue(app, &caller, key, body).await
}

/// Issue value: a new lot. A till issues only what the tender lets tills issue.
#[utoipa::path(post, path = "/credits", params(IdempotencyKey), request_body = CreditRequest,
    responses((status = 201, description = "Issued", body = CreditAnswer),
        (status = 200, description = "Issued before under this key: the stored answer", body = CreditAnswer),
        (status = 422, description = REFUSED, body = Problem, content_type = PROBLEM_JSON)))]
pub async fn create_credit_at_till(
    State(app): State<App>,
    caller: Allow<Till>,
    key: IdempotencyKey,
    body: Body<CreditRequest>,
) -> Result<Response, ApiError> {
    issue(app, &caller, key, body).await
}

async fn issue(
    app: App,
    caller: &Caller,
    IdempotencyKey(key): IdempotencyKey,
    body: Body<CreditRequest>,
) -> Result<Response, ApiError> {
    let request = body.value;
    let form = requests::credit(&request);
    require_kind(caller, &*app.rules, &request.kind)?;
    caller.require_location(request.location_id.as_deref())?;
    let (asset, amount) = quantity(&*app.rules, &request)?;
    check_text(&*app.rules, &request)?;

    let issued = match &app.issuer {
        Some(issuer) => {
            let customer = request.customer_id.as_ref().map_or("", |customer| customer.as_str());
            let reward_id = reward_id(&caller.business_id, customer, &key);
            let issued = issuer.issue(&caller.business_id, reward_id).await;
            Some(issued.map_err(answer::step_error)?)
        }
        None => None,
    };
    let account = AccountKey {
        business_id: caller.business_id.clone(),
        owner: owner(&request, issued.as_ref())?,
        asset,
    };
    let operation_id = public_operation_id(&account.business_id, &account.owner, "credit", &key);
    let credit = credit(&app, caller, request, amount, issued.as_ref().map(|one| one.reward_id), form);
    let command = Command { operation_id, account, action: Action::Credit(credit) };
    let reply = app.executor.submit(command).await.map_err(answer::execute_error)?;
    match reply.outcome {
        Outcome::Recorded(answer) => respond(&answer, issued, false),
        Outcome::Replayed(answer) => respond(&answer, issued, true),
        Outcome::Rejected(rejection) => Err(answer::operation_problem(&rejection).into()),
    }
}

fn respond(answer: &Answer, issued: Option<Issued>, is_replayed: bool) -> Result<Response, ApiError> {
    let internal = |error: serde_json::Error| ApiError::internal(&error);
    // A credit that was taken back since was issued all the same, and its answer stands.
    if answer.state == Stands::Declined {
        let problem: Problem = serde_json::from_str(&answer.body).map_err(internal)?;
        return Ok(answer::stored(problem.status, answer.body.to_string(), is_replayed));
    }
    let status = if is_replayed { 200 } else { 201 };
    let Some(Issued { code, .. }) = issued else {
        return Ok(answer::stored(status, answer.body.to_string(), is_replayed));
    };
    // What is stored lacks the code; derived again, it makes the same document every time.
    let shown: CreditAnswer = serde_json::from_str(&answer.body).map_err(internal)?;
    let shown = CreditAnswer { code: Some(code), ..shown };
    Ok(answer::stored(status, serde_json::to_string(&shown).map_err(internal)?, is_replayed))
}

fn require_kind(caller: &Caller, rules: &dyn Rules, kind: &str) -> Result<(), ApiError> {
    let may_issue_all = caller.has(Role::Manager) || caller.has(Role::Admin);
    if !may_issue_all && !rules.till_kinds().contains(&kind) {
        return Err(ApiError::new(Code::RoleMissing, "A till may not issue this kind of credit."));
    }
    if !rules.credit_kinds().contains(&kind) {
        let detail = format!("must be one of {}", rules.credit_kinds().join(", "));
        return Err(Problem::invalid("/kind", detail).into());
    }
    Ok(())
}

/// What is issued, and how many units: points for a tender of points, an amount with its currency for others.
fn quantity(rules: &dyn Rules, request: &CreditRequest) -> Result<(Asset, i64), ApiError> {
    let invalid = |field: &str, detail: &str| Err(Problem::invalid(field, detail).into());
    let missing = |field| invalid(field, "is missing");
    let foreign = |field| invalid(field, "is not a field of this tender");
    let is_points = rules.accepts(Asset::Points);
    let (asset, units, field) = match (is_points, request.points, request.amount, request.currency) {
        (true, _, Some(_), _) => return foreign("/amount"),
        (true, _, None, Some(_)) => return foreign("/currency"),
        (true, None, None, None) => return missing("/points"),
        (true, Some(points), None, None) => (Asset::Points, points, "/points"),
        (false, Some(_), _, _) => return foreign("/points"),
        (false, None, None, _) => return missing("/amount"),
        (false, None, Some(_), None) => return missing("/currency"),
        (false, None, Some(amount), Some(currency)) => (Asset::Money(currency), amount, "/amount"),
    };
    if units > 0 { Ok((asset, units)) } else { invalid(field, "must be above zero") }
}

fn check_text(rules: &dyn Rules, request: &CreditRequest) -> Result<(), ApiError> {
    if !is_visible_ascii(&request.reference, 128) {
        return Err(Problem::invalid("/reference", "must be 1 to 128 visible ASCII characters").into());
    }
    if request.location_id.as_ref().is_some_and(|location| !is_visible_ascii(location, 128)) {
        return Err(Problem::invalid("/location_id", "must be 1 to 128 visible ASCII characters").into());
    }
    if request.reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_MAX) {
        return Err(Problem::invalid("/reason", "must be at most 500 characters").into());
    }
    match &request.customer_id {
        None if !rules.takes_from_rewards() => Err(Problem::invalid("/customer_id", "is missing").into()),
        Some(id) if id.as_str().starts_with(BEARER) => {
            Err(Problem::invalid("/customer_id", "must not begin with bearer:").into())
        }
        _ => Ok(()),
    }
}

/// The customer; or the reward itself, for one that belongs to the bearer of its code: no two such rewards
/// share an account, so none of them waits for another's lock.
fn owner(request: &CreditRequest, issued: Option<&Issued>) -> Result<String, ApiError> {
    match (&request.customer_id, issued) {
        (Some(customer), _) => Ok(customer.to_string()),
        (None, Some(issued)) => Ok(bearer_owner(issued.reward_id)),
        (None, None) => Err(Problem::invalid("/customer_id", "is missing").into()),
    }
}

fn credit(
    app: &App,
    caller: &Caller,
    request: CreditRequest,
    amount: i64,
    reward_id: Option<Uuid>,
    form: RequestForm,
) -> Credit {
    // The database keeps microseconds: what is answered is what is kept.
    let terms = app.rules.lot_terms(request.expires_at.map(|end| end.trunc_subsecs(6)));
    let trace = trace::current();
    Credit {
        lot_id: Uuid::now_v7(),
        amount,
        funding: wire::funding_from(request.funding),
        expires_at: terms.expires_at,
        grace_until: terms.grace_until,
        reward_id,
        details: json!({
            "actor": caller.subject,
            "reference": request.reference,
            "location_id": request.location_id,
            "reason": request.reason,
            "metadata": request.metadata,
        }),
        kind: request.kind,
        reference: request.reference,
        customer_id: request.customer_id.map(String::from),
        form,
        request: RequestRef {
            instance: trace.as_ref().map(|trace| trace.path().to_owned()),
            trace_id: trace.as_ref().map(|trace| trace.id()),
        },
    }
}
