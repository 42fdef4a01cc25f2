//! What comes from Redis and from tenders: nobody's attack, but garbled perhaps.

use std::{fmt::Debug, str::from_utf8};

use api::{
    Problem,
    legs::{BatchLine, LegAnswer},
    live::LiveMessage,
    tender::BalanceChanged,
};
use serde::{Serialize, de::DeserializeOwned};

/// Reads the bytes as each message that a process hears.
pub fn run(data: &[u8]) {
    survives::<BalanceChanged>(data);
    survives::<LiveMessage>(data);
    survives::<BatchLine>(data);
    survives::<LegAnswer>(data);
    survives::<Problem>(data);
    if let Ok(text) = from_utf8(data) {
        floor(text);
    }
}

/// What is read is the same after it was written.
fn survives<T: DeserializeOwned + Serialize + PartialEq + Debug>(data: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(data) else { return };
    let written = serde_json::to_vec(&message).expect("a message is plain data");
    assert_eq!(serde_json::from_slice::<T>(&written).ok(), Some(message));
}

/// A floor is `asset=version` between commas; what is not is passed over.
fn floor(text: &str) {
    let read: Vec<(&str, i64)> = events::versions(text).collect();
    assert!(read.len() <= text.split(',').count());
    let written: Vec<String> = read.iter().map(|(asset, version)| format!("{asset}={version}")).collect();
    assert_eq!(events::versions(&written.join(",")).collect::<Vec<_>>(), read);
}
