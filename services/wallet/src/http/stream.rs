//! `GET /wallet/stream`: live balances as server-sent events.
//!
//! The body ends when the token or the process does; an `EventSource` then comes back by itself, and begins with a
//! snapshot. Nothing is queued for a client that reads slowly: the next event is made when there is room for it.

use std::{convert::Infallible, time::Duration};

use api::{live::LiveMessage, tender::Owner};
use axum::{
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use service::{
    ApiError,
    auth::{Allow, Read},
    extract::Query,
};

use super::{
    balance::Of,
    session::{Ended, Session},
};
use crate::app::App;

/// How often a client hears something, if only that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a client is asked to wait before it comes back.
const RETRY: Duration = Duration::from_secs(1);
/// nginx would collect events otherwise.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Streams a customer's balances.
#[utoipa::path(get, path = "/stream", params(Of),
    responses((status = 200, description = "Server-sent events, each with a message: first a snapshot, then what changes",
        body = LiveMessage, content_type = "text/event-stream")))]
pub(super) async fn stream_balances(
    State(app): State<App>,
    caller: Allow<Read>,
    headers: HeaderMap,
    Query(Of { customer_id }): Query<Of>,
) -> Result<Response, ApiError> {
    let owner = Owner { business_id: caller.business_id.clone(), customer_id };
    let session = Session::open(&app, &caller, &headers, owner, "sse").await?;
    let events = Sse::new(events(session)).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    Ok(([UNBUFFERED], events).into_response())
}

/// What is left of a stream once its session is over is nothing.
fn events(session: Session) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(Some((session, true)), async |state| {
        let (mut session, is_first) = state?;
        match session.next().await {
            Ok(message) => Some((Ok(event(&message, is_first)), Some((session, false)))),
            Err(Ended::TokenExpired) => Some((Ok(event(&session.token_expired(), is_first)), None)),
            Err(Ended::Draining) => None,
        }
    })
}

fn event(message: &LiveMessage, is_first: bool) -> Event {
    let data = serde_json::to_string(message).unwrap_or_default();
    let event = Event::default().event(message.name()).data(data);
    if is_first { event.retry(RETRY) } else { event }
}
