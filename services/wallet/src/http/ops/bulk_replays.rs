//! `POST /ops/dead-letters/replay` and `GET /ops/bulk-replays/{operation_id}`: replaying many dead letters, at a pace.
//!
//! The answer comes once the replay and its members are durable. Whichever process claims it carries it out, also when the
//! one that was asked dies.

use api::{
    Problem,
    derive::requests,
    ops::{BulkFilter, BulkPreview, BulkReplay, BulkReplayRequest},
};
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use saga::ops::{BulkFiled, BulkReplayCommand, DeadLetterFilter};
use service::{
    ApiError,
    auth::{Allow, Operate},
    extract::Path,
    json::Body,
};

use utoipa::ToSchema;

use super::{check_age, check_command, check_dead_letter_code, plan_filter, reused, unsure, views};
use crate::app::App;
use crate::http::keyed::same::{is_same, kept, not_known};

/// What [`replay_dead_letters`] answers 200 with.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum PreviewOrReplay {
    Preview(BulkPreview),
    Replay(BulkReplay),
}

/// Replays the open dead letters that match, at most so many a second.
#[utoipa::path(post, path = "/dead-letters/replay", request_body = BulkReplayRequest,
    responses((status = 202, description = "Durable: it is carried out; look it up at Location", body = BulkReplay),
        (status = 200, description = "With dry_run, what it would do; else the replay that this operation id has made before",
            body = PreviewOrReplay)))]
pub(super) async fn replay_dead_letters(
    State(app): State<App>,
    caller: Allow<Operate>,
    body: Body<BulkReplayRequest>,
) -> Result<Response, ApiError> {
    let request = body.value;
    let form = requests::bulk_replay(&request);
    check(&request)?;
    let filter = letter_filter(&request.filter);
    if request.dry_run {
        let preview = app.engine.preview_bulk_replay(caller.business_id.as_str(), &filter).await?;
        return Ok(Json(views::bulk_preview(preview)).into_response());
    }
    let command = BulkReplayCommand {
        business_id: caller.business_id.as_str().to_owned(),
        actor: caller.subject.clone(),
        request_hash: kept(&form),
        filter,
        filter_shown: serde_json::to_value(&request.filter).unwrap_or_default(),
        rate: request.rate_per_second,
        operation_id: request.operation_id,
        reason: request.reason,
    };
    let is_same_as = |stored| is_same(&form, stored).ok();
    let (status, bulk) = match app.engine.file_bulk_replay(&command, is_same_as).await.map_err(unsure)? {
        BulkFiled::Started(bulk) => (StatusCode::ACCEPTED, bulk),
        BulkFiled::Known(bulk) => (StatusCode::OK, bulk),
        BulkFiled::Reused => return Err(reused()),
        BulkFiled::NotJudged => return Err(not_known()),
    };
    let mut answer = (status, Json(views::bulk_replay(bulk))).into_response();
    if let Ok(location) = HeaderValue::from_str(&location(&command.operation_id)) {
        answer.headers_mut().insert(header::LOCATION, location);
    }
    Ok(answer)
}

/// How far a replay of many is.
#[utoipa::path(get, path = "/bulk-replays/{operation_id}", params(("operation_id" = String, Path)),
    responses((status = 200, description = "The replay", body = BulkReplay)))]
pub(super) async fn show_bulk_replay(
    State(app): State<App>,
    caller: Allow<Operate>,
    Path(operation_id): Path<String>,
) -> Result<Json<BulkReplay>, ApiError> {
    let bulk = app.engine.show_bulk_replay(caller.business_id.as_str(), &operation_id).await?;
    bulk.map(|bulk| Json(views::bulk_replay(bulk))).ok_or_else(ApiError::not_found)
}

fn check(request: &BulkReplayRequest) -> Result<(), ApiError> {
    check_command(&request.operation_id, &request.reason)?;
    check_age("/filter/older_than_s", request.filter.older_than_s)?;
    check_dead_letter_code("/filter/code", request.filter.code.as_deref())?;
    if !(1..=500).contains(&request.rate_per_second) {
        return Err(Problem::invalid("/rate_per_second", "must be 1 to 500").into());
    }
    Ok(())
}

fn letter_filter(filter: &BulkFilter) -> DeadLetterFilter {
    DeadLetterFilter {
        with_closed: false,
        code: filter.code.clone(),
        participant: filter.tender.map(|tender| tender.as_str().to_owned()),
        plan_contains: plan_filter(filter.customer_id.as_ref(), None),
        older_than_s: filter.older_than_s,
    }
}

/// Where a replay is looked up. An operation id may have any visible characters; a path segment may not.
fn location(operation_id: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
    let segment: String = operation_id
        .bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    format!("/api/v1/ops/bulk-replays/{segment}")
}

#[cfg(test)]
mod tests {
    use super::location;

    #[test]
    fn a_location_is_one_path() {
        assert_eq!(location("op-1"), "/api/v1/ops/bulk-replays/op-1");
        assert_eq!(location("a/b?c%"), "/api/v1/ops/bulk-replays/a%2Fb%3Fc%25");
    }
}
