//! The codes on rewards. Pure: a code is a function of a secret and the reward's id.

use std::fmt;

use api::BusinessId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// Letters and digits that nobody confuses (Crockford's base 32: no I, L, O, U).
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Characters of a code: 20 of 5 bits are 100 bits.
const LENGTH: usize = 20;

/// Shortest secret in bytes.
const PEPPER_MIN: usize = 16;

/// The secret without which the stored hashes tell nothing about codes, and codes cannot be made up.
#[derive(Clone)]
pub struct Pepper(Vec<u8>);

/// The secret is too short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("REWARD_CODE_PEPPER must have at least 16 bytes")]
pub struct PepperTooShort;

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Pepper {
    /// The secret as configured.
    ///
    /// # Errors
    /// [`PepperTooShort`] below 16 bytes.
    pub fn try_new(secret: &str) -> Result<Self, PepperTooShort> {
        if secret.len() < PEPPER_MIN { Err(PepperTooShort) } else { Ok(Self(secret.as_bytes().to_vec())) }
    }

    /// The code of the reward with this id. It is derived, not drawn, so that a repeated request shows the same code
    /// again although it is stored nowhere.
    #[must_use]
    pub fn code(&self, reward_id: Uuid) -> String {
        let digest = self.mac("code", &[reward_id.as_bytes()]);
        let bits = digest.iter().take(16).fold(0_u128, |bits, byte| (bits << 8) | u128::from(*byte));
        let letter = |place: usize| {
            let index = usize::try_from((bits >> (5 * place)) & 31).unwrap_or_default();
            char::from(ALPHABET[index])
        };
        (0..LENGTH).map(letter).collect()
    }

    /// What is stored of a code, as a person typed it: spaces and hyphens do not count, nor does case. None for
    /// what cannot be a code.
    #[must_use]
    pub fn hash(&self, business: &BusinessId, typed: &str) -> Option<[u8; 32]> {
        let code: String =
            typed.chars().filter(|c| !matches!(c, ' ' | '-')).map(|c| c.to_ascii_uppercase()).collect();
        let is_code = code.len() == LENGTH && code.bytes().all(|byte| ALPHABET.contains(&byte));
        is_code.then(|| self.mac("hash", &[business.as_str().as_bytes(), code.as_bytes()]))
    }

    /// Tells this secret from others, and nothing of it.
    #[must_use]
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        self.mac("fingerprint", &[])
    }

    /// The secret is used for one purpose at a time: what is published for one tells nothing about another.
    fn mac(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        for part in [purpose.as_bytes()].iter().chain(parts) {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// The end of a code, to name it to a person.
#[must_use]
pub fn last_four(code: &str) -> &str {
    code.get(code.len().saturating_sub(4)..).unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper() -> Pepper {
        Pepper::try_new("a pepper for tests").unwrap()
    }

    fn business(id: &str) -> BusinessId {
        BusinessId::try_from(id.to_owned()).unwrap()
    }

    /// Computed by a program of its own (Python's hmac). **A literal that changes is a change of the contract**: printed
    /// codes would no longer be found.
    #[test]
    fn golden_codes() {
        let code = pepper().code(Uuid::from_u128(7));
        assert_eq!(code, "2RQ5YHQV7S65KGAY8FBY");
        let hash = pepper().hash(&business("demo"), &code).unwrap();
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "8f9f36836f39e117ff542acc6e25707395eb8c52cd1d03e16537787174c6a7e2");
    }

    #[test]
    fn a_code_is_the_same_for_the_same_reward_only() {
        let id = Uuid::from_u128(7);
        let code = pepper().code(id);
        assert_eq!(code.len(), LENGTH);
        assert!(code.bytes().all(|byte| ALPHABET.contains(&byte)), "{code}");
        assert_eq!(code, pepper().code(id));
        assert_ne!(code, pepper().code(Uuid::from_u128(8)));
        assert_ne!(code, Pepper::try_new("another pepper for tests").unwrap().code(id));
        assert_eq!(last_four(&code), &code[16..]);
    }

    #[test]
    fn a_code_is_found_however_it_is_typed_but_in_its_business_only() {
        let code = pepper().code(Uuid::from_u128(7));
        let hash = pepper().hash(&business("demo"), &code);
        let typed = format!("{}-{} {}", &code[..4], code[4..9].to_lowercase(), &code[9..]);
        assert!(hash.is_some());
        assert_eq!(pepper().hash(&business("demo"), &typed), hash);
        assert_ne!(pepper().hash(&business("other"), &code), hash);
        for bad in ["", "0", "ü", &"0".repeat(21), &"I".repeat(20)] {
            assert_eq!(pepper().hash(&business("demo"), bad), None, "{bad}");
        }
    }

    #[test]
    fn a_short_pepper_is_refused() {
        assert_eq!(Pepper::try_new("short").unwrap_err(), PepperTooShort);
    }
}
