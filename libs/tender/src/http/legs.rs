//! Leg commands, one by one or as a batch whose answers are streamed as they come.

use api::{
    LegsId, Problem,
    legs::{Account, BATCH_MAX, Batch, LegAction, LegCommand, SingleCapture, SingleForward},
};
use axum::{
    body::Body as HttpBody,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use fail::fail_point;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use metrics::counter;
use serde::Serialize;
use serde_json::value::RawValue;
use service::{
    ApiError,
    auth::Peer,
    extract::{Path, Query},
    json::Body,
    trace::{self, Trace},
};
use tracing::Instrument as _;

use super::answer;
use crate::{App, admit, command::Outcome};

/// `POST /internal/v1/legs/batch`
pub async fn run_batch(
    State(app): State<App>,
    _: Peer,
    body: Body<Batch>,
) -> Result<impl IntoResponse, ApiError> {
    let commands = body.value.commands;
    if !(1..=BATCH_MAX).contains(&commands.len()) {
        return Err(Problem::invalid("/commands", "must be 1 to 64 commands").into());
    }
    let lines: FuturesUnordered<_> = commands
        .into_iter()
        .enumerate()
        .map(|(index, command)| {
            let app = app.clone();
            async move { run_line(&app, index, command).await }
        })
        .collect();
    // Legs that were committed together are answered together: what comes in one piece is one step for its reader.
    // The stream is polled until its caller goes away; what was queued by then is done all the same.
    let pieces = lines.ready_chunks(BATCH_MAX).map(|ready| Ok::<_, std::convert::Infallible>(ready.concat()));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], HttpBody::from_stream(pieces)))
}

/// [`api::legs::BatchLine`], with the stored answer as it is.
#[derive(Serialize)]
struct Line {
    index: usize,
    at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

async fn run_line(app: &App, index: usize, leg: LegCommand) -> Vec<u8> {
    let line = match run(app, leg).await {
        Ok((at_ms, body)) => Line { index, at_ms, answer: RawValue::from_string(body).ok(), problem: None },
        Err(error) => Line { index, at_ms: 0, answer: None, problem: Some(error.into_problem()) },
    };
    // Lines of the same batch that were committed before have gone out by now: half a reply.
    fail_point!("tender::half_a_reply");
    let mut text = serde_json::to_vec(&line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// `PUT /internal/v1/legs/{legs_id}/{leg}`
pub async fn forward_leg(
    State(app): State<App>,
    _: Peer,
    Path((legs_id, leg)): Path<(LegsId, u16)>,
    body: Body<SingleForward>,
) -> Result<Response, ApiError> {
    let SingleForward { account, forward, epoch, sent_at } = body.value;
    let action = LegAction::Forward(forward);
    single(&app, LegCommand { legs_id, leg, account, action, epoch, trace: None, sent_at }).await
}

/// `POST /internal/v1/legs/{legs_id}/{leg}/cancel`
pub async fn cancel_leg(
    State(app): State<App>,
    _: Peer,
    Path((legs_id, leg)): Path<(LegsId, u16)>,
    body: Body<Account>,
) -> Result<Response, ApiError> {
    let account = body.value;
    single(
        &app,
        LegCommand {
            legs_id,
            leg,
            account,
            action: LegAction::Cancel,
            epoch: None,
            trace: None,
            sent_at: None,
        },
    )
    .await
}

/// `POST /internal/v1/legs/{legs_id}/{leg}/release`
pub async fn release_leg(
    State(app): State<App>,
    _: Peer,
    Path((legs_id, leg)): Path<(LegsId, u16)>,
    body: Body<Account>,
) -> Result<Response, ApiError> {
    let (account, action) = (body.value, LegAction::Release);
    single(&app, LegCommand { legs_id, leg, account, action, epoch: None, trace: None, sent_at: None }).await
}

/// `POST /internal/v1/legs/{legs_id}/{leg}/capture`
pub async fn capture_leg(
    State(app): State<App>,
    _: Peer,
    Path((legs_id, leg)): Path<(LegsId, u16)>,
    body: Body<SingleCapture>,
) -> Result<Response, ApiError> {
    let SingleCapture { account, amount } = body.value;
    let action = LegAction::Capture { amount };
    single(&app, LegCommand { legs_id, leg, account, action, epoch: None, trace: None, sent_at: None }).await
}

/// `GET /internal/v1/legs/{legs_id}/{leg}`
pub async fn query_leg(
    State(app): State<App>,
    _: Peer,
    Path((legs_id, leg)): Path<(LegsId, u16)>,
    Query(account): Query<Account>,
) -> Result<Response, ApiError> {
    single(
        &app,
        LegCommand {
            legs_id,
            leg,
            account,
            action: LegAction::Query,
            epoch: None,
            trace: None,
            sent_at: None,
        },
    )
    .await
}

async fn single(app: &App, command: LegCommand) -> Result<Response, ApiError> {
    let (_, body) = run(app, command).await?;
    Ok(answer::stored(200, body, false))
}

/// The database's clock in milliseconds since 1970, and the answer as stored.
async fn run(app: &App, mut command: LegCommand) -> Result<(i64, String), ApiError> {
    // A batch carries legs of many sagas, each with a trace of its own; a single leg has its request's.
    let trace = match command.trace.take() {
        Some(header) => Trace::of_header(Some(&header), "leg"),
        None => trace::current().unwrap_or_else(|| Trace::begin("leg")),
    };
    let (action, legs_id, leg) = (action_name(&command.action), command.legs_id, command.leg);
    let span = tracing::info_span!("leg", trace_id = trace.id(), %legs_id, leg, action);
    trace.adopt(&span);
    execute(app, command, action).instrument(span).await
}

async fn execute(app: &App, command: LegCommand, action: &'static str) -> Result<(i64, String), ApiError> {
    let command = admit::leg(&*app.rules, command).map_err(|refusal| ApiError::from(*refusal))?;
    let reply = app.executor.submit(command).await.map_err(answer::execute_error)?;
    let (answer, is_replayed) = match reply.outcome {
        Outcome::Recorded(answer) => (answer, false),
        Outcome::Replayed(answer) => (answer, true),
        Outcome::Rejected(rejection) => return Err(answer::leg_problem(&rejection).into()),
    };
    let state = answer.state.as_str();
    tracing::info!(state, is_replayed, "leg answered");
    counter!("tender_legs_total", "action" => action, "state" => state, "replayed" => if is_replayed { "true" } else { "false" })
        .increment(1);
    Ok((reply.at.timestamp_millis(), answer.body.to_string()))
}

const fn action_name(action: &LegAction) -> &'static str {
    match action {
        LegAction::Forward(_) => "forward",
        LegAction::Cancel => "cancel",
        LegAction::Release => "release",
        LegAction::Capture { .. } => "capture",
        LegAction::Query => "query",
    }
}
