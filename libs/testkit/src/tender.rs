//! A tender in process: the real router on real sockets over a database of its own.

use std::sync::Arc;

use axum::{Router, routing::get};
use service::{
    accept::{self, Limits},
    auth::Verifier,
    db, http,
};
use sqlx::PgPool;
use tender::{
    App,
    executor::{Executor, ExecutorConfig},
    rules::Rules,
};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{TestDatabase, Tokens};

/// A running tender. When it is dropped it stops, then its database is checked.
pub struct TestTender {
    /// `http://127.0.0.1:…` for callers.
    pub public_url: String,
    /// `http://127.0.0.1:…` for other services.
    pub internal_url: String,
    /// Its parts.
    pub app: App,
    // Fields are dropped in this order: tasks stop before the database goes.
    _stop: DropGuard,
    /// Its database.
    pub database: TestDatabase,
}

impl TestTender {
    /// Starts a tender of these rules.
    ///
    /// # Panics
    /// When no socket or database can be had.
    pub async fn start(database: schema::Database, rules: Arc<dyn Rules>, tokens: &Tokens) -> Self {
        Self::start_with(database, rules, tokens, |app| (app, Router::new())).await
    }

    /// As [`TestTender::start`]; `finish` adds what only this tender has: an issuer, more internal routes.
    ///
    /// # Panics
    /// When no socket or database can be had.
    pub async fn start_with(
        database: schema::Database,
        rules: Arc<dyn Rules>,
        tokens: &Tokens,
        finish: impl FnOnce(App) -> (App, Router),
    ) -> Self {
        let database = TestDatabase::create(database).await;
        let stop = CancellationToken::new();
        let executor = executor(&database, rules.name(), &stop);
        let (app, more) = finish(App::new(rules, executor, pool(&database), pool(&database)));
        let public_url = listen(app.public(), tokens.public_verifier(), &stop).await;
        let internal_url = listen(app.internal().merge(more), tokens.internal_verifier(), &stop).await;
        Self { public_url, internal_url, app, _stop: stop.drop_guard(), database }
    }
}

/// One more executor on a tender's database, as another instance would have it.
///
/// # Panics
/// When the database's URL cannot be read.
#[must_use]
pub fn executor(database: &TestDatabase, tender: &'static str, stop: &CancellationToken) -> Executor {
    let options = db::connect_options(&database.url(), tender).expect("a URL");
    let config = ExecutorConfig { tender, shards: 1, queue: 4096, database: db::for_executor(options) };
    Executor::start(&config, &TaskTracker::new(), stop)
}

fn pool(database: &TestDatabase) -> PgPool {
    db::pool(db::connect_options(&database.url(), "test").expect("a URL"), 4)
}

async fn listen(routes: Router, verifier: Verifier, stop: &CancellationToken) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    // What a process adds by itself: whoever probes this tender looks here.
    let routes = routes.route("/health/ready", get(async || "ready"));
    let app = http::finish(routes, verifier);
    TaskTracker::new().spawn(accept::serve(listener, app, Limits::default(), stop.clone()));
    url
}
