//! Times that no database keeps.

use reqwest::StatusCode;

use crate::support::Server;

#[tokio::test]
async fn a_time_before_all_history_is_a_time() {
    let server = Server::points().await;
    for time in [
        "-262143-01-01T00:00:00Z",
        "-200000-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "%2B262142-12-31T23:59:59Z",
    ] {
        for query in [format!("/entries?from={time}"), format!("/entries?to={time}"), format!("?at={time}")] {
            let reply = server.get("pos", &format!("/points/accounts/cus{query}")).await;
            // What a balance will be is not known.
            let is_future = query.starts_with("?at=%2B");
            let expected = if is_future { StatusCode::BAD_REQUEST } else { StatusCode::OK };
            assert_eq!(reply.status, expected, "{query}: {}", reply.text);
        }
    }
}
