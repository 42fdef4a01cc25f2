//! `GET /wallet/ws`: live balances over a WebSocket.
//!
//! The client has nothing to say but pongs; whatever else it sends is read and forgotten, up to a size. A client that
//! reads nothing, or answers no ping, is closed.

use std::time::Duration;

use api::{live::LiveMessage, tender::Owner};
use axum::{
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code},
    },
    http::HeaderMap,
    response::Response,
};
use service::{
    ApiError,
    auth::{AllowSocket, Read, SOCKET_PROTOCOL},
    extract::Query,
};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::{
    balance::Of,
    session::{Ended, Session},
};
use crate::app::App;

/// How often a client is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(15);
/// A client that was not heard of for so long is gone.
const PONG_LIMIT: Duration = Duration::from_secs(30);
/// Longest time that a client may take to read one message.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Longest time that a client may take to confirm the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);
/// Longest message of a client, and the memory that its connection may hold unread or unsent: clients say nothing, and
/// there are many.
const BUFFER: usize = 4 * 1024;
/// Close code for a token whose time is up; codes from 4000 are an application's own.
const TOKEN_EXPIRED: u16 = 4401;

/// Opens a WebSocket on a customer's balances.
#[utoipa::path(get, path = "/ws", params(Of),
    responses((status = 101, description = "A WebSocket with the messages of /wallet/stream, one a text frame")))]
pub(super) async fn open_socket(
    State(app): State<App>,
    AllowSocket(caller): AllowSocket<Read>,
    headers: HeaderMap,
    Query(Of { customer_id }): Query<Of>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let owner = Owner { business_id: caller.business_id.clone(), customer_id };
    let upgrade = upgrade.map_err(|_| {
        api::Problem::invalid("upgrade", "this is a WebSocket: send the headers that open one")
    })?;
    let session = Session::open(&app, &caller, &headers, owner, "ws").await?;
    let serving = app.live.sockets;
    Ok(upgrade
        .protocols([SOCKET_PROTOCOL])
        .read_buffer_size(BUFFER)
        .max_message_size(BUFFER)
        .max_frame_size(BUFFER)
        .on_upgrade(move |socket| serving.track_future(serve(socket, session))))
}

async fn serve(mut socket: WebSocket, mut session: Session) {
    if let Some((code, reason)) = talk(&mut socket, &mut session).await {
        let close = Message::Close(Some(CloseFrame { code, reason: reason.into() }));
        // The client gives up its slot first: confirming the end is a courtesy.
        drop(session);
        let goodbye = async {
            if socket.send(close).await.is_ok() {
                while let Some(Ok(_)) = socket.recv().await {}
            }
        };
        let _ = timeout(CLOSE_LIMIT, goodbye).await;
    }
}

/// Serves until one side ends it; what is left to be said, if there is anybody to hear it.
async fn talk(socket: &mut WebSocket, session: &mut Session) -> Option<(u16, &'static str)> {
    let mut ping = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut heard_at = Instant::now();
    loop {
        let message = tokio::select! {
            next = session.next() => match next {
                Ok(message) => text(&message),
                Err(Ended::TokenExpired) => return Some((TOKEN_EXPIRED, "the token has expired")),
                Err(Ended::Draining) => return Some((close_code::RESTART, "connect again")),
            },
            heard = socket.recv() => match heard {
                Some(Ok(Message::Close(_))) | None => return None,
                Some(Ok(_)) => {
                    heard_at = Instant::now();
                    continue;
                }
                Some(Err(_)) => return Some((close_code::SIZE, "not a message that is read here")),
            },
            _ = ping.tick() => {
                if heard_at.elapsed() > PONG_LIMIT {
                    return None;
                }
                Message::Ping(axum::body::Bytes::new())
            }
        };
        match timeout(SEND_LIMIT, socket.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return None,
        }
    }
}

fn text(message: &LiveMessage) -> Message {
    Message::Text(serde_json::to_string(message).unwrap_or_default().into())
}
