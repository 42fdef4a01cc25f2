//! Key files: readable, nobody else's to read, and not made for development where that matters.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::Context;
use digital_rewards::Peppers;
use schema::Database;
use service::{
    auth::{KeySet, Signer},
    config::AppEnv,
    db,
};
use sqlx::postgres::PgConnectOptions;

use super::{About, Check};
use crate::environment::Environment;

/// How long the database may take to say which peppers are on record.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Public keys; anybody may read them.
    Jwks,
    /// A private key.
    Signing,
    /// The peppers of reward codes.
    Peppers,
    /// Another secret.
    Secret,
}

/// The variables with the files, and where `walletctl keys` puts those of development.
const FILES: [(&str, Kind, Option<&str>); 6] = [
    ("JWKS_FILE", Kind::Jwks, Some("dev-public.jwks.json")),
    ("INTERNAL_JWKS_FILE", Kind::Jwks, Some("dev-internal.jwks.json")),
    ("SERVICE_KEY_FILE", Kind::Signing, Some("dev-internal.pem")),
    ("TOKEN_KEY_FILE", Kind::Signing, Some("dev-public.pem")),
    ("REWARD_CODE_PEPPER_FILE", Kind::Peppers, Some("pepper")),
    ("DATABASE_URL_FILE", Kind::Secret, None),
];

/// Looks at every file that is named, or that development has.
pub(super) fn check(environment: &Environment) -> Vec<Check> {
    let is_development = environment.require_development("").is_ok();
    let app_env = if is_development { AppEnv::Development } else { AppEnv::Production };
    let mut checks = Vec::new();
    for (variable, kind, development) in FILES {
        let default =
            development.filter(|_| is_development).map(|name| PathBuf::from(".run/keys").join(name));
        let path =
            environment.get(variable).map(PathBuf::from).or_else(|| default.filter(|path| path.exists()));
        match path {
            Some(path) => checks.extend(file(variable, kind, &path, app_env)),
            None => checks.push(About(variable).skipped("can be used", "not set")),
        }
    }
    checks
}

fn file(variable: &str, kind: Kind, path: &Path, app_env: AppEnv) -> Vec<Check> {
    let about = About(variable);
    let mut checks = vec![usable(&about, kind, path, app_env)];
    if kind != Kind::Jwks
        && let Ok(metadata) = std::fs::metadata(path)
    {
        checks.push(private(&about, path, metadata.permissions().mode()));
    }
    checks
}

fn usable(about: &About<'_>, kind: Kind, path: &Path, app_env: AppEnv) -> Check {
    const CHECK: &str = "can be used";
    let is_dev = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("dev-"));
    if kind == Kind::Signing && is_dev && app_env == AppEnv::Production {
        let mend =
            "Make a key for production (Ed25519, PKCS #8), and name its file after the key id: not dev-….";
        return about.wrong(CHECK, format!("{} was made for development", path.display()), mend);
    }
    let read = match kind {
        Kind::Jwks => KeySet::read(path, app_env).map(drop),
        Kind::Signing => Signer::read(path).map(drop),
        Kind::Peppers => peppers(path, app_env).map(drop),
        Kind::Secret => std::fs::read_to_string(path).map(drop).map_err(anyhow::Error::from),
    };
    match read {
        Ok(()) => about.ok(CHECK, path.display().to_string()),
        Err(error) => about.wrong(
            CHECK,
            format!("{error:#}"),
            format!(
                "Correct {}, or {} itself; in development walletctl keys makes keys.",
                about.0,
                path.display()
            ),
        ),
    }
}

fn peppers(path: &Path, app_env: AppEnv) -> anyhow::Result<Peppers> {
    Ok(Peppers::read(&std::fs::read_to_string(path)?, app_env)?)
}

/// Whether every code that was issued can be found with the peppers that are configured.
pub(super) async fn codes(environment: &Environment) -> Check {
    const CHECK: &str = "every code that was issued can be found";
    let about = About("REWARD_CODE_PEPPER_FILE");
    let database = Database::DigitalRewards.url_variable();
    let (Some(path), Some(url)) = (environment.get(about.0), environment.get(database)) else {
        return about.skipped(CHECK, format!("{} or {database} is not set", about.0));
    };
    let compared = async {
        let peppers = peppers(Path::new(&path), AppEnv::Development)?;
        let probe = db::Probe::new(db::for_executor(PgConnectOptions::from_str(&url)?));
        let compared = tokio::time::timeout(TIMEOUT, peppers.compare(&probe));
        compared.await.context("no answer in time")?.map_err(anyhow::Error::from)
    };
    match compared.await {
        Ok(_) => about.ok(CHECK, "the peppers are those that codes were made with"),
        Err(error) => about.wrong(
            CHECK,
            format!("{error:#}"),
            "Put the missing version back into the file, a line each: version:secret. Codes of a version need its secret.",
        ),
    }
}

fn private(about: &About<'_>, path: &Path, mode: u32) -> Check {
    const CHECK: &str = "nobody else can read it";
    let found = format!("mode {:03o}", mode & 0o777);
    if mode & 0o007 == 0 {
        return about.ok(CHECK, found);
    }
    about.wrong(CHECK, found, format!("chmod o= {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;
    use service::auth::KeyPair;

    #[test]
    fn keys_are_private_and_those_of_development_stay_there() {
        let dir = std::env::temp_dir().join(format!("doctor-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&dir).unwrap();
        let outcomes = |name: &str, mode: u32, app_env| {
            let pair = KeyPair::generate(name).unwrap();
            let path = dir.join(format!("{name}.pem"));
            std::fs::write(&path, pair.private_pem).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            file("SERVICE_KEY_FILE", Kind::Signing, &path, app_env)
                .iter()
                .map(|c| c.outcome)
                .collect::<Vec<_>>()
        };
        assert_eq!(outcomes("k1", 0o600, AppEnv::Production), [Outcome::Ok, Outcome::Ok]);
        assert_eq!(outcomes("k2", 0o644, AppEnv::Production), [Outcome::Ok, Outcome::Wrong]);
        assert_eq!(outcomes("dev-x", 0o600, AppEnv::Production), [Outcome::Wrong, Outcome::Ok]);
        assert_eq!(outcomes("dev-y", 0o600, AppEnv::Development), [Outcome::Ok, Outcome::Ok]);
        let gone = file("SERVICE_KEY_FILE", Kind::Signing, &dir.join("gone.pem"), AppEnv::Production);
        assert_eq!(gone.iter().map(|c| c.outcome).collect::<Vec<_>>(), [Outcome::Wrong]);

        let pepper = dir.join("pepper");
        std::fs::copy(
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/development/reward-code-pepper"),
            &pepper,
        )
        .unwrap();
        let usable = |app_env| file("REWARD_CODE_PEPPER_FILE", Kind::Peppers, &pepper, app_env)[0].outcome;
        assert_eq!(usable(AppEnv::Production), Outcome::Wrong);
        assert_eq!(usable(AppEnv::Development), Outcome::Ok);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
