//! What a listener answers to requests that nobody should send, over real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use service::accept::Limits;
use support::{STALL_LIMIT, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A head in which nothing is wrong but what a test adds.
fn head(extra: &str) -> String {
    format!("POST /debit HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{extra}\r\n")
}

#[tokio::test]
async fn slow_heads_are_cut_off_in_five_shapes() {
    let server = Server::start().await;
    let shapes: [&[&str]; 5] = [
        &[""],
        &["P"],
        &["POST /debit HTTP/1.1\r\n"],
        &[
            "POST /debit HTTP/1.1\r\nHost: x\r\n",
            "A: 1\r\n",
            "B: 2\r\n",
            "C: 3\r\n",
            "D: 4\r\n",
            "E: 5\r\n",
            "F: 6\r\n",
        ],
        // Keep-alive: a whole request, then nothing.
        &["GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"],
    ];
    for shape in shapes {
        let mut socket = server.connect().await;
        let begun = Instant::now();
        for part in shape {
            // A peer that closed already is what this test waits for.
            let _ = socket.write_all(part.as_bytes()).await;
            // No part comes too late; all of them together do.
            tokio::time::sleep(support::HEAD_LIMIT / 4).await;
        }
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest))
            .await
            .expect("cut off");
        assert!(begun.elapsed() < support::HEAD_LIMIT * 4, "{shape:?}: {:?}", begun.elapsed());
    }
    assert_eq!(server.get("/health/live").await.0, 200, "everybody else is served");
}

#[tokio::test]
async fn thousands_of_idle_sockets_do_not_keep_others_out() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(server.connect().await);
    }
    let begun = Instant::now();
    assert_eq!(server.get("/health/live").await.0, 200);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_full_listener_has_the_longest_idle_make_room_and_nobody_who_is_answered() {
    let server = Server::start_with(Limits { connections: 8, ..Limits::default() }).await;
    // Silent, in the middle of a head, and answered before: idle all of them.
    let mut idle = Vec::new();
    for said in ["", "GET /health/live HT", "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"] {
        let mut socket = server.connect().await;
        socket.write_all(said.as_bytes()).await.unwrap();
        idle.push(socket);
    }
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut socket = server.connect().await;
        socket.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(socket.read(&mut [0; 1024]).await.unwrap() > 0);
        streams.push(socket);
    }
    let mut newcomers = Vec::new();
    for _ in 0..4 {
        let mut socket = server.connect().await;
        socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        let read = tokio::time::timeout(Duration::from_secs(3), socket.read_exact(&mut answer));
        read.await.expect("a place in time").unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        // Open still, and idle: the next ones take its place in their turn.
        newcomers.push(socket);
    }
    for stream in &mut streams {
        assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0, "an answer goes on");
    }
    for mut socket in idle {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(1), socket.read_to_end(&mut rest));
        assert!(closed.await.is_ok(), "closed for others");
    }
}

#[tokio::test]
async fn two_ways_to_end_a_body_are_refused() {
    let server = Server::start().await;
    for extra in [
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
    ] {
        let answer = server.raw(&format!("{}{{}}", head(extra))).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{extra}: {answer}");
    }
}

#[tokio::test]
async fn a_body_is_at_most_64_kib_however_it_is_sent() {
    let server = Server::start().await;
    let body = |length: usize| format!(r#"{{"amount":1,"note":"{}"}}"#, "x".repeat(length - 22));
    assert_eq!(server.debit(body(65_536)).await.0, 200);
    let (status, problem) = server.debit(body(65_537)).await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("body_too_large")));
    let (status, _) = server.debit(body(2 * 1024 * 1024)).await;
    assert_eq!(status, 413);

    let token = server.tokens.staff("demo", "manager");
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    let chunked = format!(
        "{}{chunk}{chunk}0\r\n\r\n",
        head(&format!(
            "Authorization: Bearer {token}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        ))
    );
    assert!(server.raw(&chunked).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_json_is_not_read() {
    let server = Server::start().await;
    for declared in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/json; charset=utf-16",
        "application/jsonp",
    ] {
        let (status, problem) = server.debit_as(declared, r#"{"amount":1}"#).await;
        assert_eq!((status, problem["code"].as_str()), (415, Some("unsupported_media_type")), "{declared}");
    }
    assert_eq!(server.debit_as("application/json; charset=UTF-8", r#"{"amount":1}"#).await.0, 200);
}

#[tokio::test]
async fn amounts_are_whole_or_refused() {
    let server = Server::start().await;
    for good in ["1", "9007199254740993", "9223372036854775807"] {
        let (status, answer) = server.debit(format!(r#"{{"amount":{good}}}"#)).await;
        assert_eq!((status, answer["amount"].to_string().as_str()), (200, good));
    }
    let huge = format!("1{}", "0".repeat(400));
    for bad in [
        "-0",
        "NaN",
        "1e2",
        "1.0",
        "0x10",
        "+5",
        "9223372036854775808",
        &huge,
        "\"5\"",
        "５",
        "[7]",
        "null",
        "Infinity",
        "1_000",
        "01",
    ] {
        let (status, problem) = server.debit(format!(r#"{{"amount":{bad}}}"#)).await;
        assert_eq!(status, 400, "{bad}: {problem}");
        assert!(problem["trace_id"].is_string(), "{bad}");
    }
    let deep = format!(r#"{{"amount":1,"note":{}{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let many = format!(r#"{{"amount":1,"note":[{}]}}"#, ["1"; 20_000].join(","));
    let utf8 = b"{\"amount\":1,\"note\":\"\xc3\x28\"}".to_vec();
    let bodies: [Vec<u8>; 7] = [
        b"[7]".to_vec(),
        br#"{"amount":1,"amount":2}"#.to_vec(),
        br#"{"amount":1,"note":"\udc00"}"#.to_vec(),
        br#"{"amount":1,"role":"admin"}"#.to_vec(),
        deep.into_bytes(),
        many.into_bytes(),
        utf8,
    ];
    for body in bodies {
        let (status, problem) = server.debit(body.clone()).await;
        assert_eq!(status, 400, "{}: {problem}", String::from_utf8_lossy(&body[..body.len().min(60)]));
    }
}

#[tokio::test]
async fn problems_are_documents_and_tell_nothing_of_the_inside() {
    let server = Server::start().await;
    let (status, headers, text) = server.full("GET", "/panic", None).await;
    assert_eq!(status, 500);
    assert_eq!(headers["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(problem["code"], "internal");
    assert_eq!(problem["outcome"], "unknown");
    assert_eq!(problem["instance"], "/panic");
    let traceparent = headers["traceparent"].to_str().unwrap();
    assert!(traceparent.contains(problem["trace_id"].as_str().unwrap()));
    assert!(!text.contains("secret detail") && !text.contains(".rs"), "{text}");

    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/thing/not-a-uuid", 404, "not_found"),
        ("DELETE", "/debit", 405, "method_not_allowed"),
        ("GET", "/debit", 405, "method_not_allowed"),
        ("GET", "/down", 503, "overloaded"),
    ] {
        let (answered, headers, text) = server.full(method, path, None).await;
        let problem: Value = serde_json::from_str(&text).unwrap_or_else(|_| json!(text));
        assert_eq!((answered, &problem["code"]), (status, &json!(code)), "{method} {path}");
        assert_eq!(headers.contains_key("retry-after"), status == 503, "{path}");
    }
}

#[tokio::test]
async fn a_stop_lets_open_requests_end_and_takes_no_new_ones() {
    let server = Server::start().await;
    let mut socket = server.connect().await;
    socket.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut idle = server.connect().await;
    // Long enough for the request to begin; its answer takes longer.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    server.stop();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    let mut nothing = Vec::new();
    let _ = idle.read_to_end(&mut nothing).await;
    server.ended().await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert!(tokio::net::TcpStream::connect(server.address).await.is_err());
}

#[tokio::test]
async fn who_reads_nothing_is_cut_off_and_who_reads_slowly_is_not() {
    let server = Server::start().await;
    let request = b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n";
    let (mut deaf, mut slow) = (server.connect().await, server.connect().await);
    deaf.write_all(request).await.unwrap();
    slow.write_all(request).await.unwrap();
    // Longer than the limit in all, but never without taking something.
    let mut buffer = vec![0; 1024 * 1024];
    for _ in 0..12 {
        tokio::time::sleep(STALL_LIMIT / 4).await;
        for _ in 0..16 {
            assert!(slow.read(&mut buffer).await.unwrap() > 0);
        }
    }
    let rest = tokio::time::timeout(Duration::from_secs(5), async {
        while matches!(deaf.read(&mut buffer).await, Ok(1..)) {}
    });
    rest.await.expect("what was in the buffers, and then the end");
    assert!(slow.read(&mut buffer).await.unwrap() > 0);
}
