//! Redis and the services themselves.

use std::time::Duration;

use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use service::Clock;

use super::{About, Check, clock};
use crate::{environment::Environment, ready};

/// How long Redis, or a service, may take to answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Looks at Redis, which holds only what can be lost.
pub(super) async fn redis(environment: &Environment) -> Vec<Check> {
    const REACHABLE: &str = "reachable";
    let about = About("redis");
    let Some(url) = environment.get("REDIS_URL") else {
        return vec![about.skipped(
            REACHABLE,
            "REDIS_URL is not set: no live updates, limits a process, and events of redemptions stay in the outbox",
        )];
    };
    let facts = async {
        let mut connection = connect(&url).await?;
        let before = Clock.now().timestamp_millis();
        let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(&mut connection).await?;
        let after = Clock.now().timestamp_millis();
        let memory: String = redis::cmd("INFO").arg("memory").query_async(&mut connection).await?;
        let theirs = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
        redis::RedisResult::Ok(vec![
            about.ok(REACHABLE, "answers"),
            clock(&about, theirs, before, after),
            eviction(&about, &memory),
        ])
    };
    facts.await.unwrap_or_else(|error| {
        vec![about.wrong(
            REACHABLE,
            error.to_string(),
            "Start Redis, or correct REDIS_URL. Redemptions work without it; live updates and shared limits do not.",
        )]
    })
}

async fn connect(url: &str) -> redis::RedisResult<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(TIMEOUT))
        .set_response_timeout(Some(TIMEOUT));
    redis::Client::open(url)?.get_multiplexed_async_connection_with_config(&config).await
}

/// What happens when Redis is full. Nothing in it has to be kept, so persistence is not asked for.
fn eviction(about: &About<'_>, memory: &str) -> Check {
    const CHECK: &str = "makes room when it is full";
    let field = |name: &str| {
        memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
    };
    let (limit, policy) = (field("maxmemory").unwrap_or("0"), field("maxmemory_policy").unwrap_or("unknown"));
    let found = format!("maxmemory {limit}, {policy}");
    if limit != "0" && policy == "noeviction" {
        return about.wrong(
            CHECK,
            found,
            "Set maxmemory-policy allkeys-lru: everything in it can be read again.",
        );
    }
    about.ok(CHECK, found)
}

/// Asks every service whether it is ready.
pub(super) async fn services(environment: &Environment) -> Vec<Check> {
    const READY: &str = "ready";
    let urls = ready::all(environment);
    if urls.is_empty() {
        return vec![About("services").skipped(READY, format!("none of {} is set", ready::URLS.join(", ")))];
    }
    let http = match reqwest::Client::builder().timeout(TIMEOUT).build() {
        Ok(http) => http,
        Err(error) => {
            return vec![About("services").wrong(
                READY,
                error.to_string(),
                "Look at this machine's certificates.",
            )];
        }
    };
    let mut checks = Vec::new();
    for url in urls {
        let about = About(&url);
        checks.push(if ready::is_ready(&http, &url).await {
            about.ok(READY, "yes")
        } else {
            let mend = "Look at /health/deep on its internal listener, which says what it waits for, and at its log.";
            about.wrong(READY, "no", mend)
        });
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn a_limit_needs_a_way_to_make_room() {
        let outcome = |memory| eviction(&About("redis"), memory).outcome;
        assert_eq!(outcome("used:1\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"), Outcome::Ok);
        assert_eq!(outcome("maxmemory:100\r\nmaxmemory_policy:allkeys-lru\r\n"), Outcome::Ok);
        assert_eq!(outcome("maxmemory:100\r\nmaxmemory_policy:noeviction\r\n"), Outcome::Wrong);
    }
}
