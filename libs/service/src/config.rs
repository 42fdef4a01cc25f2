//! Configuration that every service shares. `--help` of a binary is the reference.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};

/// Where the process runs. Production is the default, and refuses everything made for development.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AppEnv {
    /// Development keys are refused.
    Production,
    /// Keys whose id begins with `dev-` are accepted.
    Development,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON document a line.
    Json,
    /// For people.
    Pretty,
}

/// The options of every service.
#[derive(Debug, Clone, Args)]
pub struct Config {
    /// Address of the public listener.
    #[arg(long, env = "PUBLIC_ADDR", default_value = "127.0.0.1:8080")]
    pub public_addr: SocketAddr,
    /// Address of the internal listener: metrics, deep health and calls between services.
    #[arg(long, env = "INTERNAL_ADDR", default_value = "127.0.0.1:9080")]
    pub internal_addr: SocketAddr,
    /// Where the service's own database is.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Redis, for live updates and caches; the service works without it.
    #[arg(long, env = "REDIS_URL", hide_env_values = true)]
    pub redis_url: Option<Secret>,
    /// Production refuses development keys.
    #[arg(long, env = "APP_ENV", value_enum, default_value_t = AppEnv::Production)]
    pub app_env: AppEnv,
    /// How log lines look; what is logged is said by RUST_LOG.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
    /// Where spans are exported to by OTLP over HTTP, such as http://collector:4318; nowhere unless set.
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    pub otlp_endpoint: Option<String>,
    /// JWKS file with the keys that sign callers' tokens; read again when it changes.
    #[arg(long, env = "JWKS_FILE")]
    pub jwks_file: PathBuf,
    /// `iss` of callers' tokens.
    #[arg(long, env = "JWT_ISSUER", default_value = "unified-wallet")]
    pub jwt_issuer: String,
    /// JWKS file with the keys that sign the services' tokens to each other: never the callers' issuer.
    #[arg(long, env = "INTERNAL_JWKS_FILE")]
    pub internal_jwks_file: PathBuf,
    /// Most open connections on the public listener, streams and WebSockets included. Where all are taken, the one that has
    /// waited longest for a request is closed for the next; while all are being answered, more wait in the kernel's backlog.
    #[arg(long, env = "MAX_CONNECTIONS", default_value_t = 8192)]
    pub max_connections: usize,
    /// Milliseconds between the moment readiness says no and the moment listeners close.
    #[arg(long, env = "DRAIN_DELAY_MS", default_value_t = 500)]
    pub drain_delay_ms: u64,
}

/// Where a database is, and how many connections to keep.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// PostgreSQL URL of the service's own database, with the service's own role.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<Secret>,
    /// A file that holds the URL, in the place of DATABASE_URL.
    #[arg(long, env = "DATABASE_URL_FILE")]
    pub database_url_file: Option<PathBuf>,
    /// Most connections for requests; executors and background work have their own.
    #[arg(long, env = "DATABASE_POOL", default_value_t = 10)]
    pub database_pool: u32,
}

impl DatabaseArgs {
    /// The URL, from wherever it was given.
    ///
    /// # Errors
    /// When neither or both places are given, or the file cannot be read.
    pub fn url(&self) -> anyhow::Result<Secret> {
        secret("DATABASE_URL", self.database_url.as_ref(), self.database_url_file.as_ref())?
            .context("DATABASE_URL (or DATABASE_URL_FILE) is not set")
    }
}

/// A value that is never shown in logs or errors.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value itself.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// A secret given as `NAME` or in the file that `NAME_FILE` names; a trailing line break is dropped.
///
/// # Errors
/// When both are given, the file cannot be read, or the value is empty.
pub fn secret(name: &str, value: Option<&Secret>, file: Option<&PathBuf>) -> anyhow::Result<Option<Secret>> {
    let text = match (value, file) {
        (Some(_), Some(_)) => bail!("{name} and {name}_FILE are both set; set one"),
        (Some(value), None) => value.0.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .with_context(|| format!("{name}_FILE: cannot read {}", path.display()))?
            .trim_end_matches(['\r', '\n'])
            .to_owned(),
        (None, None) => return Ok(None),
    };
    if text.is_empty() {
        bail!("{name} is empty");
    }
    Ok(Some(Secret(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_comes_from_one_place_and_is_never_shown() {
        let value = Secret("hunter2".to_owned());
        let file = std::env::temp_dir().join(format!("secret-{}", uuid::Uuid::new_v4()));
        std::fs::write(&file, "from file\n").unwrap();

        assert_eq!(secret("N", Some(&value), None).unwrap().unwrap().expose(), "hunter2");
        assert_eq!(secret("N", None, Some(&file)).unwrap().unwrap().expose(), "from file");
        assert!(secret("N", None, None).unwrap().is_none());
        assert!(secret("N", Some(&value), Some(&file)).is_err());
        assert!(secret("N", Some(&Secret(String::new())), None).is_err());
        assert_eq!(format!("{value:?}"), "[secret]");
        std::fs::remove_file(file).unwrap();
    }
}
