//! Development keys and tokens. Services refuse both unless `APP_ENV=development`.

use std::{io::Write, os::unix::fs::OpenOptionsExt, path::Path, path::PathBuf};

use anyhow::{Context, ensure};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::{Args, ValueEnum};
use service::{
    Clock,
    auth::{Claims, KeyPair, PUBLIC_AUDIENCE, Signer},
};

use crate::{environment::Environment, output};

/// Names of the keys. Services refuse ids that begin with `dev-` in production.
const KEYS: [&str; 2] = ["dev-public", "dev-internal"];

/// What `walletctl keys` takes.
#[derive(Debug, Args)]
pub struct KeysArgs {
    /// Folder for the keys.
    #[arg(long, default_value = ".run/keys")]
    dir: PathBuf,
}

/// Makes `dev-public` (callers) and `dev-internal` (services): `<name>.pem` signs, `<name>.jwks.json` verifies.
///
/// # Errors
/// When a file cannot be written, or outside development.
pub fn make_keys(environment: &Environment, arguments: &KeysArgs) -> anyhow::Result<()> {
    environment.require_development("a generated key")?;
    std::fs::create_dir_all(&arguments.dir)
        .with_context(|| format!("cannot make {}", arguments.dir.display()))?;
    for name in KEYS {
        let (private, public) =
            (arguments.dir.join(format!("{name}.pem")), arguments.dir.join(format!("{name}.jwks.json")));
        if private.exists() && public.exists() {
            continue;
        }
        let pair = KeyPair::generate(name)?;
        write_private(&private, &pair.private_pem)?;
        std::fs::write(&public, pair.public_jwks)
            .with_context(|| format!("cannot write {}", public.display()))?;
    }
    Ok(())
}

fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}

/// The roles that a caller's token may have. Services sign their own tokens, with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TokenRole {
    /// The holder of one wallet.
    Customer,
    /// A till.
    Pos,
    /// Issues and adjusts.
    Manager,
    /// Reads and reports.
    Finance,
    /// Sagas and dead letters.
    Ops,
    /// Everything but operations.
    Admin,
}

/// What `walletctl token` takes.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The business that the token speaks for; any name works.
    #[arg(long)]
    business: String,
    /// What its bearer may do.
    #[arg(long, value_enum)]
    role: TokenRole,
    /// The customer, with role `customer`.
    #[arg(long)]
    customer: Option<String>,
    /// Life in seconds; below zero gives a token that has expired.
    #[arg(long, default_value_t = 3600, allow_negative_numbers = true)]
    ttl: i64,
    /// A location where it may act; may be given several times, none is everywhere.
    #[arg(long)]
    location: Vec<String>,
    /// Who bears it.
    #[arg(long)]
    subject: Option<String>,
}

/// Prints a token and nothing else.
///
/// # Errors
/// Outside development, without the key, or when role and customer do not go together.
pub fn print_token(environment: &Environment, arguments: &TokenArgs) -> anyhow::Result<()> {
    output::line(token(environment, arguments)?);
    Ok(())
}

fn token(environment: &Environment, arguments: &TokenArgs) -> anyhow::Result<String> {
    environment.require_development("walletctl token")?;
    ensure!(
        arguments.customer.is_some() || arguments.role != TokenRole::Customer,
        "role `customer` needs --customer: such a token acts for one customer only"
    );
    let key = environment.get("TOKEN_KEY_FILE").unwrap_or_else(|| ".run/keys/dev-public.pem".to_owned());
    let role = arguments.role.to_possible_value().context("a role without a name")?.get_name().to_owned();
    Signer::read(Path::new(&key))?.sign(&Claims {
        iss: environment.get("JWT_ISSUER").unwrap_or_else(|| PUBLIC_AUDIENCE.to_owned()),
        aud: PUBLIC_AUDIENCE.to_owned(),
        exp: Clock.unix_seconds().saturating_add(arguments.ttl),
        sub: arguments.subject.clone().unwrap_or_else(|| format!("walletctl-{role}")),
        business_id: Some(arguments.business.clone()),
        roles: vec![role],
        customer_id: arguments.customer.clone(),
        location_ids: Some(arguments.location.clone()).filter(|locations| !locations.is_empty()),
    })
}

/// The business that commands are about where neither the command nor a token names one.
const DEVELOPMENT_BUSINESS: &str = "demo";

/// A token for the other commands, and the business that it speaks for.
#[derive(Debug)]
pub struct Access {
    /// The bearer token.
    pub token: String,
    /// Its business.
    pub business: String,
}

/// `WALLETCTL_TOKEN`, or a token made for `role` in development. `business` is the one that the command names, if it does:
/// the token's own business must be the same.
///
/// # Errors
/// When there is no token, or it speaks for another business.
pub fn access(environment: &Environment, business: Option<&str>, role: TokenRole) -> anyhow::Result<Access> {
    if let Some(token) = environment.get("WALLETCTL_TOKEN") {
        let own = business_of(&token).context("WALLETCTL_TOKEN names no business")?;
        ensure!(
            business.is_none_or(|named| named == own),
            "--business names `{}`, and WALLETCTL_TOKEN speaks for `{own}`: nothing was asked",
            business.unwrap_or_default()
        );
        return Ok(Access { token, business: own });
    }
    let business = business.unwrap_or(DEVELOPMENT_BUSINESS).to_owned();
    let arguments = TokenArgs {
        business: business.clone(),
        role,
        customer: None,
        ttl: 3600,
        location: Vec::new(),
        subject: None,
    };
    let token = token(environment, &arguments).context("WALLETCTL_TOKEN is not set, and none can be made")?;
    Ok(Access { token, business })
}

/// The business in a token's claims. Whether the token is good is for the services to judge.
fn business_of(token: &str) -> Option<String> {
    let claims = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&claims).ok()?;
    claims["business_id"].as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use service::{auth::KeySet, config::AppEnv};

    fn arguments(role: TokenRole) -> TokenArgs {
        TokenArgs { business: "b".into(), role, customer: None, ttl: 60, location: vec![], subject: None }
    }

    #[test]
    fn tokens_and_keys_are_for_development_only() {
        let dir = std::env::temp_dir().join(format!("keys-{}", uuid::Uuid::new_v4()));
        let keys = KeysArgs { dir: dir.clone() };
        let key_file = format!("TOKEN_KEY_FILE={}", dir.join("dev-public.pem").display());
        let production = Environment::of(&format!("APP_ENV=production\n{key_file}"));
        let development = Environment::of(&format!("APP_ENV=development\n{key_file}"));
        assert!(make_keys(&production, &keys).is_err());
        make_keys(&development, &keys).unwrap();
        let made = std::fs::read(dir.join("dev-public.pem")).unwrap();
        make_keys(&development, &keys).unwrap();
        assert_eq!(std::fs::read(dir.join("dev-public.pem")).unwrap(), made, "a key is made once");

        assert_eq!(access(&development, None, TokenRole::Ops).unwrap().business, "demo");
        let made = access(&development, Some("acme"), TokenRole::Ops).unwrap();
        let given = Environment::of(&format!("WALLETCTL_TOKEN={}", made.token));
        assert_eq!(access(&given, None, TokenRole::Ops).unwrap().business, "acme", "the token's own");
        assert_eq!(access(&given, Some("acme"), TokenRole::Ops).unwrap().token, made.token);
        let refused = access(&given, Some("demo"), TokenRole::Ops).unwrap_err().to_string();
        assert!(refused.contains("demo") && refused.contains("acme"), "{refused}");
        assert!(access(&Environment::of("WALLETCTL_TOKEN=nonsense"), None, TokenRole::Ops).is_err());
        assert!(token(&production, &arguments(TokenRole::Pos)).is_err());
        assert!(token(&development, &arguments(TokenRole::Pos)).is_ok());
        assert!(token(&development, &arguments(TokenRole::Customer)).is_err(), "of which customer?");
        let jwks = dir.join("dev-public.jwks.json");
        assert!(KeySet::read(&jwks, AppEnv::Production).is_err());
        assert!(KeySet::read(&jwks, AppEnv::Development).is_ok());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
