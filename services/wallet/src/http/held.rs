//! What capture and void share: an authorized redemption is moved on, once, under a key of its own.

use std::{sync::Arc, time::Duration};

use api::{BusinessId, Code, LegsId, Problem, wallet::Redemption};
use axum::response::Response;
use saga::{Begin, Key, NewSaga, SagaId, Stored, Submitted, Waited, machine::Kind};
use service::{ApiError, trace};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    redeem::{key_cancelled, key_reused, stored_answer, unknown},
    redemptions,
};
use crate::{
    app::App,
    plan::Plan,
    redemption::Change,
    returning::{self, Returnable},
    sagas::{Sagas, declined_response},
};

/// How long the caller waits before it hears 202.
const WAIT: Duration = Duration::from_millis(4_900);
/// Plans again this often when the redemption moves between planning and writing.
const TRIES: usize = 5;

/// A request to move a held redemption on.
pub(super) struct Request {
    pub app: App,
    pub business: BusinessId,
    /// The operation's name in keys.
    pub operation: &'static str,
    pub key: String,
    pub hash: Vec<u8>,
    pub redemption: Uuid,
}

impl Request {
    /// Moves the redemption by what `plan` makes of it, or says what is stored under the key.
    pub async fn answer(
        self,
        plan: impl Fn(&Returnable, Redemption) -> Result<Plan, Box<Problem>> + Send,
    ) -> Result<Response, ApiError> {
        self.app.require_database()?;
        let until = Instant::now() + WAIT;
        let pool = &self.app.pool;
        for _ in 0..TRIES {
            let shown = redemptions::by_id(pool, &self.business, None, self.redemption).await?;
            let held = returning::load(pool, &self.business, self.redemption).await?;
            let (Some(shown), Some(held)) = (shown, held) else { return Err(ApiError::not_found()) };
            if let Some(stored) = self.app.engine.find(&self.saga_key()).await? {
                return self.answer_stored(&stored, until).await;
            }
            let planned = may_move(&held).and_then(|()| plan(&held, shown));
            let id = SagaId::fresh();
            let submitted = self.app.engine.submit(self.saga(id, &held, planned)).await;
            match submitted.map_err(|error| unknown(&error))? {
                Submitted::Running => return self.wait(id, false, until).await,
                Submitted::Refused(response) => return Ok(stored_answer(&response, false)),
                Submitted::KeyTaken | Submitted::Cancelled | Submitted::Stale => {}
            }
        }
        Err(ApiError::overloaded())
    }

    fn saga_key(&self) -> Key {
        Key {
            business_id: self.business.as_str().to_owned(),
            operation: self.operation.to_owned(),
            scope: String::new(),
            key: self.key.clone(),
        }
    }

    fn saga(&self, id: SagaId, held: &Returnable, planned: Result<Plan, Box<Problem>>) -> NewSaga<Sagas> {
        let trace_id = trace::current().map(|trace| trace.id());
        let (kind, plan, begin, change) = match planned {
            Ok(plan) => {
                let change = Change::started_by(&plan);
                (Kind::ForwardOnly, plan, Begin::Run, change)
            }
            Err(mut problem) => {
                problem.redemption_id = Some(held.id);
                let path = format!("/api/v1/wallet/redemptions/{}/{}", held.id, self.operation);
                let refused = Begin::Refused(declined_response(*problem, &path, trace_id.clone()));
                (Kind::Compensable, Plan::Nothing, refused, None)
            }
        };
        NewSaga {
            id,
            key: self.saga_key(),
            request_hash: self.hash.clone(),
            kind,
            legs_id: LegsId::derive(&self.business, self.operation, "", &self.key).0,
            parent_id: Some(SagaId(held.id)),
            plan: Arc::new(plan),
            deadline: returning::DEADLINE,
            trace_id,
            change,
            begin,
            cancel_parent_key: false,
        }
    }

    async fn answer_stored(&self, stored: &Stored, until: Instant) -> Result<Response, ApiError> {
        if stored.request_hash != self.hash {
            return Err(key_reused());
        }
        self.wait(stored.id, true, until).await
    }

    async fn wait(&self, id: SagaId, is_replay: bool, until: Instant) -> Result<Response, ApiError> {
        match self.app.engine.wait(id, until).await.map_err(|error| unknown(&error))? {
            Waited::Answered(response) => Ok(stored_answer(&response, is_replay)),
            Waited::KeyCancelled => Err(key_cancelled()),
            Waited::Pending(_) => redemptions::pending(&self.app.pool, &self.business, self.redemption).await,
        }
    }
}

/// Whether a redemption is authorized; whether its hold has ended is judged when the saga is written.
fn may_move(held: &Returnable) -> Result<(), Box<Problem>> {
    let refusal = |code, detail| Err(Box::new(Problem::new(code, detail)));
    match held.status.as_str() {
        "authorized" if held.is_over => {
            refusal(Code::HoldExpired, "The hold has ended; its value goes back.")
        }
        "authorized" => Ok(()),
        "expired" => refusal(Code::HoldExpired, "The hold has ended; its value went back."),
        _ => refusal(Code::AlreadyFinal, "The redemption holds nothing any more."),
    }
}
