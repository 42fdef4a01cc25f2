//! Reward codes, as people type them.

use std::{str::from_utf8, sync::LazyLock};

use api::BusinessId;
use digital_rewards::Pepper;

static PEPPER: LazyLock<Pepper> =
    LazyLock::new(|| Pepper::try_new("a pepper for fuzzing").expect("long enough"));

/// Reads the bytes as a code.
pub fn run(data: &[u8]) {
    let Ok(typed) = from_utf8(data) else { return };
    let business = BusinessId::try_from("demo".to_owned()).expect("an id");
    let hash = PEPPER.hash(&business, typed);
    let letters: Vec<u8> = data.iter().copied().filter(|byte| !b" -".contains(byte)).collect();
    let is_letter = |byte: &u8| byte.is_ascii_alphanumeric() && !b"iloILOuU".contains(byte);
    assert_eq!(hash.is_some(), letters.len() == 20 && letters.iter().all(is_letter), "{typed:?}");
    if hash.is_some() {
        let plain = String::from_utf8(letters).expect("ASCII");
        assert_eq!(PEPPER.hash(&business, &plain.to_lowercase()), hash);
        assert_eq!(PEPPER.hash(&business, &plain.to_uppercase()), hash);
        let other = BusinessId::try_from("other".to_owned()).expect("an id");
        assert_ne!(PEPPER.hash(&other, typed), hash);
    }
}
