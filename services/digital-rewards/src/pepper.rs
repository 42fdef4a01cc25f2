//! The secrets behind the codes, by version: one for new codes, and those that other codes were made with.
//!
//! Which one is for new codes is said by the order in the configuration, not by the version: so a new pepper can be given to every
//! process before the first code is made with it.

use std::collections::BTreeMap;

use api::BusinessId;
use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use service::{config::AppEnv, db::Probe};
use sqlx::FromRow;

use crate::code::{Pepper, PepperTooShort};

/// The pepper that the repository has for development: anybody can read it, and compute codes with it.
const DEVELOPMENT: &str = include_str!("../../../deploy/development/reward-code-pepper");

/// Most peppers that a process takes: each costs a look-up whenever a code is typed.
const PEPPERS_MAX: usize = 16;

/// The versions that codes were made with, one look-up in the index for each, and those on record.
const MADE_WITH: &str = "
WITH RECURSIVE used (version) AS (
    (SELECT pepper_version FROM tender.reward_code ORDER BY pepper_version LIMIT 1)
    UNION ALL
    SELECT next.version FROM used CROSS JOIN LATERAL (
        SELECT pepper_version AS version FROM tender.reward_code
        WHERE pepper_version > used.version ORDER BY pepper_version LIMIT 1
    ) next
)
SELECT version, p.fingerprint, v.is_used
FROM (
    SELECT version, true AS is_used FROM used
    UNION ALL SELECT version, false FROM tender.reward_pepper WHERE version NOT IN (SELECT version FROM used)
) v
LEFT JOIN tender.reward_pepper p USING (version)
ORDER BY version";

/// A version that the database knows.
#[derive(Debug, FromRow)]
struct Stored {
    version: i16,
    /// `None` for a version without a record.
    fingerprint: Option<Vec<u8>>,
    /// Codes were made with it.
    is_used: bool,
}

/// Peppers by version: that of new codes, and all of them.
#[derive(Debug, Clone)]
pub struct Peppers {
    issuing: (i16, Pepper),
    all: BTreeMap<i16, Pepper>,
}

/// What is wrong with the peppers that were given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PepperError {
    /// A secret is too short.
    #[error(transparent)]
    TooShort(#[from] PepperTooShort),
    /// None, or more than can be looked up with.
    #[error("REWARD_CODE_PEPPER has {0} peppers: from 1 to {PEPPERS_MAX} are needed")]
    Count(usize),
    /// A line that is not `version:secret`, or a version that is there twice.
    #[error("REWARD_CODE_PEPPER: every line is `version:secret`, and no version is there twice (line {0})")]
    Line(usize),
    /// Everybody knows it.
    #[error(
        "the pepper of version {0} is the one for development, which everybody can read: APP_ENV is not `development`"
    )]
    Development(i16),
}

/// Peppers that do not fit those on record in the database.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Codes were made with a version that was not given.
    #[error(
        "codes were made with pepper version {0}, which REWARD_CODE_PEPPER does not have: nobody could use them"
    )]
    Missing(i16),
    /// Another secret is on record for a version.
    #[error(
        "codes were made with another pepper of version {0} than REWARD_CODE_PEPPER has: nobody could use them"
    )]
    Other(i16),
    /// The database cannot be asked.
    #[error("the peppers on record cannot be read")]
    Database(#[from] sqlx::Error),
}

impl From<Pepper> for Peppers {
    /// A lone pepper has version 1.
    fn from(pepper: Pepper) -> Self {
        Self { issuing: (1, pepper.clone()), all: BTreeMap::from([(1, pepper)]) }
    }
}

impl Peppers {
    /// Peppers as configured: a line each, `version:secret`, that of new codes first; a single secret without a version has
    /// version 1.
    ///
    /// # Errors
    /// [`PepperError`], without the secrets.
    pub fn read(text: &str, env: AppEnv) -> Result<Self, PepperError> {
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        if !(1..=PEPPERS_MAX).contains(&lines.len()) {
            return Err(PepperError::Count(lines.len()));
        }
        let is_lone = lines.len() == 1;
        let (mut issuing, mut all) = (None, BTreeMap::new());
        for (number, line) in (1..).zip(lines) {
            let versioned = line.split_once(':').and_then(|(version, secret)| {
                Some((version.parse().ok().filter(|version: &i16| *version > 0)?, secret))
            });
            let (version, secret) =
                versioned.or(is_lone.then_some((1, line))).ok_or(PepperError::Line(number))?;
            if env == AppEnv::Production && is_for_development(secret) {
                return Err(PepperError::Development(version));
            }
            let pepper = Pepper::try_new(secret)?;
            issuing.get_or_insert_with(|| (version, pepper.clone()));
            if all.insert(version, pepper).is_some() {
                return Err(PepperError::Line(number));
            }
        }
        Ok(Self { issuing: issuing.ok_or(PepperError::Count(0))?, all })
    }

    /// The pepper of new codes, and its version.
    pub(crate) fn issuing(&self) -> (i16, &Pepper) {
        (self.issuing.0, &self.issuing.1)
    }

    /// The pepper of a version.
    pub(crate) fn version(&self, version: i16) -> Option<&Pepper> {
        self.all.get(&version)
    }

    /// What a typed code may be stored as, a hash for each pepper; none for what cannot be a code.
    pub(crate) fn hashes(&self, business: &BusinessId, typed: &str) -> Vec<Vec<u8>> {
        self.all.values().filter_map(|pepper| pepper.hash(business, typed)).map(Vec::from).collect()
    }

    /// Compares the peppers with those that codes were made with. Versions on record that are not among these, and that no code was
    /// made with, are harmless: they are returned.
    ///
    /// # Errors
    /// When a code that was issued could not be found with these peppers, or the database cannot be asked.
    pub async fn compare(&self, database: &Probe) -> Result<Vec<i16>, RecordError> {
        self.judge(&database.fetch(MADE_WITH).await?)
    }

    fn judge(&self, stored: &[Stored]) -> Result<Vec<i16>, RecordError> {
        let mut unused = Vec::new();
        for Stored { version, fingerprint, is_used } in stored {
            match (self.version(*version), fingerprint) {
                (None, _) if *is_used => return Err(RecordError::Missing(*version)),
                (None, _) => unused.push(*version),
                (Some(pepper), Some(fingerprint)) if pepper.fingerprint() != fingerprint.as_slice() => {
                    return Err(RecordError::Other(*version));
                }
                (Some(_), _) => {}
            }
        }
        Ok(unused)
    }
}

/// Whether this is the pepper that everybody knows, as it is or as hexadecimal or base 64 of it.
#[must_use]
pub fn is_for_development(secret: &str) -> bool {
    // Padding or not, either alphabet.
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let is_known = |bytes: &[u8]| bytes.trim_ascii() == DEVELOPMENT.trim().as_bytes();
    let secret = secret.trim().trim_matches(['"', '\'']);
    let base64 = [alphabet::STANDARD, alphabet::URL_SAFE]
        .iter()
        .filter_map(|alphabet| GeneralPurpose::new(alphabet, LENIENT).decode(secret).ok())
        .any(|bytes| is_known(&bytes));
    is_known(secret.as_bytes()) || base64 || from_hex(secret).is_some_and(|bytes| is_known(&bytes))
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16)?.try_into().ok()).collect();
    Some(digits?.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

    const TWO: &str = "2:the second pepper of all\n1:the first pepper of all\n";

    fn read(text: &str) -> Result<Vec<i16>, PepperError> {
        Peppers::read(text, AppEnv::Production).map(|peppers| peppers.all.into_keys().collect())
    }

    #[test]
    fn peppers_are_lines_with_versions() {
        assert_eq!(read("a pepper for a test\n"), Ok(vec![1]));
        assert_eq!(read("7:a pepper for a test"), Ok(vec![7]));
        assert_eq!(read(TWO), Ok(vec![1, 2]));
        let peppers = Peppers::read(TWO, AppEnv::Production).unwrap();
        assert_eq!(peppers.issuing().0, 2);
        let reversed =
            Peppers::read("1:the first pepper of all\n2:the second pepper of all", AppEnv::Production);
        assert_eq!(reversed.unwrap().issuing().0, 1, "the first line is for new codes");
        assert_eq!(read(""), Err(PepperError::Count(0)));
        assert_eq!(read(&"1:a pepper for a test\n".repeat(17)), Err(PepperError::Count(17)));
        assert_eq!(read("1:a pepper for a test\n1:another pepper of all"), Err(PepperError::Line(2)));
        assert_eq!(read("1:a pepper for a test\nanother pepper of all"), Err(PepperError::Line(2)));
        assert_eq!(read("1:a pepper for a test\n0:another pepper of all"), Err(PepperError::Line(2)));
        assert_eq!(read("1:short"), Err(PepperError::TooShort(PepperTooShort)));
    }

    #[test]
    fn the_pepper_of_development_stays_there_however_it_is_written() {
        let known = DEVELOPMENT.trim();
        let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
        for text in [
            known.to_owned(),
            format!("{known}\n"),
            format!("  {known}\r\n"),
            format!("\"{known}\""),
            format!("3:{known}"),
            hex(known),
            hex(known).to_uppercase(),
            hex(&format!("{known}\n")),
            STANDARD.encode(known),
            STANDARD.encode(format!("{known}\n")),
            URL_SAFE_NO_PAD.encode(known),
        ] {
            let error = Peppers::read(&text, AppEnv::Production).unwrap_err();
            assert!(matches!(error, PepperError::Development(_)), "{text:?}: {error}");
            assert!(Peppers::read(&text, AppEnv::Development).is_ok(), "{text:?}");
        }
        assert_eq!(read("a pepper for developers only"), Ok(vec![1]));
        let second = format!("2:a pepper for a test\n1:{known}");
        assert_eq!(read(&second), Err(PepperError::Development(1)), "codes of old are worth as much");
    }
}
