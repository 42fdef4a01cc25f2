//! Spans reach a collector under the trace id of the caller. In a binary of its own: what a process exports to is set once.

use std::{sync::Mutex, time::Duration};

use axum::{Extension, Router, body::Bytes, routing::get, routing::post};
use service::{config::LogFormat, http, telemetry, trace};
use testkit::Tokens;
use tokio::{net::TcpListener, sync::mpsc};
use tower::ServiceExt;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const UNSAMPLED: &str = "1bf7651916cd43dd8448eb211c80319d";

/// A collector on a real socket: hands on what is posted to it.
async fn collector() -> (String, mpsc::UnboundedReceiver<Bytes>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let take = async |Extension(sender): Extension<mpsc::UnboundedSender<Bytes>>, body: Bytes| {
        let _ = sender.send(body);
    };
    let routes = Router::new().route("/v1/traces", post(take)).layer(Extension(sender));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let listener = listener.into_std().expect("a socket");
        runtime
            .block_on(async { axum::serve(TcpListener::from_std(listener).expect("a socket"), routes).await })
            .expect("a server");
    });
    (url, receiver)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_exported_under_its_callers_trace() {
    static SENT: Mutex<Option<String>> = Mutex::new(None);
    let (url, mut received) = collector().await;
    let _logs = telemetry::init_logs("spans-test", LogFormat::Json, Some(&url)).unwrap();
    let calls_on = get(async || {
        *SENT.lock().unwrap() = trace::outgoing().map(|header| header.to_str().unwrap().to_owned());
    });
    let routes = http::finish(Router::new().route("/calls-on", calls_on), Tokens::new().public_verifier());
    let request = axum::http::Request::get("/calls-on")
        .header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01"))
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(routes.clone().oneshot(request).await.unwrap().status(), 200);

    let sent = SENT.lock().unwrap().clone().unwrap();
    let span_id = sent.split('-').nth(2).unwrap();
    assert!(
        sent.contains(TRACE) && span_id != "b7ad6b7169203331",
        "the next service's parent is our span: {sent}"
    );
    // A caller that records nothing has nothing recorded here, nor further on.
    let silent = axum::http::Request::get("/calls-on")
        .header("traceparent", format!("00-{UNSAMPLED}-b7ad6b7169203331-00"))
        .body(axum::body::Body::empty())
        .unwrap();
    assert_eq!(routes.oneshot(silent).await.unwrap().status(), 200);
    let unsampled = SENT.lock().unwrap().clone().unwrap();
    assert!(unsampled.contains(UNSAMPLED) && unsampled.ends_with("-00"), "{unsampled}");
    assert!(sent.ends_with("-01"), "{sent}");

    let exported = tokio::time::timeout(Duration::from_secs(20), received.recv()).await.unwrap().unwrap();
    let bytes = |hex: &str| -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    };
    let has = |hex: &str| exported.windows(hex.len() / 2).any(|window| window == bytes(hex));
    assert!(!has(UNSAMPLED), "exported against the caller's word");
    for (what, hex) in [("trace", TRACE), ("our span", span_id), ("the caller's span", "b7ad6b7169203331")] {
        assert!(has(hex), "{what} was not exported");
    }
}
