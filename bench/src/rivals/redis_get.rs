//! The floor of a cached read: a plain handler behind the same listener, the same tokens and the same middleware that does
//! one `GET`. A process of its own, as the services are: `bench serve-redis-get`.

use std::{path::PathBuf, process::Stdio, time::Duration};

use anyhow::Context;
use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use clap::Args;
use deadpool_redis::{Pool, Runtime};
use service::{
    Config, Process,
    auth::{Allow, Read},
};

/// What the process needs.
#[derive(Debug, Args)]
pub struct Serve {
    #[command(flatten)]
    config: Config,
}

/// Serves until it is told to stop.
///
/// # Errors
/// When it cannot start.
pub async fn serve(serve: Serve) -> anyhow::Result<()> {
    let url = serve.config.redis_url.clone().context("REDIS_URL")?;
    let process = Process::init("redis-get", serve.config)?;
    let pool = deadpool_redis::Config::from_url(url.expose()).create_pool(Some(Runtime::Tokio1))?;
    let public = Router::new().route("/api/v1/wallet/balance", get(balance)).with_state(pool);
    process.run(public, Router::new()).await
}

#[derive(serde::Deserialize)]
struct Of {
    customer_id: String,
}

async fn balance(_: Allow<Read>, State(pool): State<Pool>, Query(of): Query<Of>) -> Response {
    match read(&pool, &of.customer_id).await {
        Ok(Some(body)) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Ok(None) => StatusCode::NOT_FOUND.into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

async fn read(pool: &Pool, customer: &str) -> anyhow::Result<Option<String>> {
    let mut connection = pool.get().await?;
    Ok(redis::cmd("GET").arg(key(customer)).query_async(&mut connection).await?)
}

/// Where a customer's body is.
#[must_use]
pub fn key(customer: &str) -> String {
    format!("bench:{customer}")
}

/// The process, started.
pub struct Rival {
    /// Where callers come in.
    pub port: u16,
    child: tokio::process::Child,
}

impl Rival {
    /// Starts this program as the rival, with the files of the services' keys.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(keys: &std::path::Path) -> anyhow::Result<Self> {
        let (port, internal) = (crate::system::free_port()?, crate::system::free_port()?);
        let file = |name: &str| PathBuf::from(keys).join(name).display().to_string();
        let child = tokio::process::Command::new(std::env::current_exe()?)
            .arg("serve-redis-get")
            .env_clear()
            .env("PUBLIC_ADDR", format!("127.0.0.1:{port}"))
            .env("INTERNAL_ADDR", format!("127.0.0.1:{internal}"))
            .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none")
            .env("REDIS_URL", std::env::var("TEST_REDIS_URL").context("TEST_REDIS_URL")?)
            .env("JWKS_FILE", file("public.jwks.json"))
            .env("INTERNAL_JWKS_FILE", file("internal.jwks.json"))
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(Self { port, child })
    }

    /// Ends it.
    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}
