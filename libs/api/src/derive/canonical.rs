//! The canonical form of a request, and its hash.
//!
//! A form says what a request means after parsing and defaults: its fields by name, in the order of their names. **A field that
//! has its default is left out**, so a field that is added later changes the hash of no request that lacks it. Every part is
//! tagged and says its own length, so no two forms are the same bytes:
//!
//! ```text
//! form   = text(name of the request) object
//! object = '{' count (text(name) value)*     names ascend by their bytes
//! value  = 'n' | 'f' | 't'                    null, false, true
//!        | 'i' 16 bytes                       an integer, two's complement, big endian
//!        | 'd' text | 's' text                any other number of JSON as it is written, a string
//!        | '[' count value* | object
//! text   = length bytes                       counts and lengths: 4 bytes, big endian
//! ```

use std::fmt;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// The version that new requests are hashed with: SHA-256 of the canonical form.
pub const HASH_VERSION: i16 = 1;

/// The hash of a request as it is stored, to tell a retry from another request under the same key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestHash {
    /// By which rules it was made; above 0.
    pub version: i16,
    /// The hash.
    pub bytes: [u8; 32],
}

impl fmt::Debug for RequestHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v{}:", self.version)?;
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A hash was stored by a version of this software that this one does not know: whether a request is the same cannot be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("request hashes of version {0} are not known here")]
pub struct UnknownHashVersion(pub i16);

/// A request in canonical form, with its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestForm {
    bytes: Vec<u8>,
    hash: RequestHash,
}

/// Without the form, in which codes of rewards may be.
impl fmt::Debug for RequestForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hash.fmt(f)
    }
}

impl RequestForm {
    /// The form of a request of this name, with the fields that `write` gives it.
    #[must_use]
    pub fn of(name: &str, write: impl FnOnce(&mut Fields<'_>)) -> Self {
        let mut bytes = Vec::with_capacity(256);
        put_text(&mut bytes, name);
        put_object(&mut bytes, write);
        let hash = RequestHash { version: HASH_VERSION, bytes: Sha256::digest(&bytes).into() };
        Self { bytes, hash }
    }

    /// Its hash, to be stored.
    #[must_use]
    pub const fn hash(&self) -> RequestHash {
        self.hash
    }

    /// Whether this is the request that was stored, by the version that was stored with it.
    ///
    /// # Errors
    /// When that version is not known here.
    pub fn is_same_as(&self, stored: RequestHash) -> Result<bool, UnknownHashVersion> {
        Ok(self.hash_as(stored.version)? == stored.bytes)
    }

    fn hash_as(&self, version: i16) -> Result<[u8; 32], UnknownHashVersion> {
        match version {
            1 => Ok(Sha256::digest(&self.bytes).into()),
            other => Err(UnknownHashVersion(other)),
        }
    }
}

/// Writes the fields of an object, in the order of their names. Only what differs from its default is written.
#[derive(Debug)]
pub struct Fields<'a> {
    out: &'a mut Vec<u8>,
    count: u32,
    last: &'static str,
}

impl Fields<'_> {
    /// A string.
    pub fn text(&mut self, name: &'static str, value: &str) {
        self.name(name);
        put_string(self.out, value);
    }

    /// A string, if there is one.
    pub fn some_text(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    /// An integer.
    pub fn integer(&mut self, name: &'static str, value: i64) {
        self.name(name);
        put_integer(self.out, value.into());
    }

    /// An integer, if there is one.
    pub fn some_integer(&mut self, name: &'static str, value: Option<i64>) {
        if let Some(value) = value {
            self.integer(name, value);
        }
    }

    /// An integer, unless it is its default.
    pub fn integer_but(&mut self, name: &'static str, default: i64, value: i64) {
        if value != default {
            self.integer(name, value);
        }
    }

    /// A flag, if it is set.
    pub fn flag(&mut self, name: &'static str, value: bool) {
        if value {
            self.name(name);
            self.out.push(b't');
        }
    }

    /// An object within.
    pub fn object(&mut self, name: &'static str, write: impl FnOnce(&mut Fields<'_>)) {
        self.name(name);
        put_object(self.out, write);
    }

    /// A list of objects.
    pub fn objects<T>(&mut self, name: &'static str, items: &[T], write: impl Fn(&mut Fields<'_>, &T)) {
        self.name(name);
        self.out.push(b'[');
        put_length(self.out, items.len());
        for item in items {
            put_object(self.out, |fields| write(fields, item));
        }
    }

    /// An object of any JSON, if it has members.
    pub fn json<'v>(
        &mut self,
        name: &'static str,
        members: impl IntoIterator<Item = (&'v String, &'v Value)>,
    ) {
        let members: Vec<_> = members.into_iter().collect();
        if !members.is_empty() {
            self.name(name);
            put_members(self.out, members);
        }
    }

    fn name(&mut self, name: &'static str) {
        debug_assert!(self.last < name, "{name} is out of order");
        self.last = name;
        self.count += 1;
        put_text(self.out, name);
    }
}

fn put_object(out: &mut Vec<u8>, write: impl FnOnce(&mut Fields<'_>)) {
    out.push(b'{');
    let at = out.len();
    put_length(out, 0);
    let mut fields = Fields { out, count: 0, last: "" };
    write(&mut fields);
    let count = fields.count;
    out[at..at + 4].copy_from_slice(&count.to_be_bytes());
}

fn put_json(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(false) => out.push(b'f'),
        Value::Bool(true) => out.push(b't'),
        Value::Number(number) => match number.as_i128() {
            Some(integer) => put_integer(out, integer),
            None => {
                out.push(b'd');
                put_text(out, &number.to_string());
            }
        },
        Value::String(text) => put_string(out, text),
        Value::Array(items) => {
            out.push(b'[');
            put_length(out, items.len());
            items.iter().for_each(|item| put_json(out, item));
        }
        Value::Object(members) => put_members(out, members.iter().collect()),
    }
}

fn put_members(out: &mut Vec<u8>, mut members: Vec<(&String, &Value)>) {
    members.sort_unstable_by_key(|(name, _)| *name);
    out.push(b'{');
    put_length(out, members.len());
    for (name, value) in members {
        put_text(out, name);
        put_json(out, value);
    }
}

fn put_integer(out: &mut Vec<u8>, value: i128) {
    out.push(b'i');
    out.extend(value.to_be_bytes());
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.push(b's');
    put_text(out, text);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_length(out, text.len());
    out.extend(text.as_bytes());
}

/// Bodies have at most 64 KiB: a length fits into 32 bits.
fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_is_judged_by_the_version_that_is_stored() {
        let form = RequestForm::of("capture", |fields| fields.integer("amount", 5));
        assert_eq!(form.is_same_as(form.hash()), Ok(true));
        let other = RequestForm::of("capture", |fields| fields.integer("amount", 6));
        assert_eq!(form.is_same_as(other.hash()), Ok(false));
        let newer = RequestHash { version: 2, ..form.hash() };
        assert_eq!(form.is_same_as(newer), Err(UnknownHashVersion(2)));
    }

    #[test]
    fn the_form_is_not_shown() {
        let form = RequestForm::of("redeem", |fields| fields.text("code", "SECRET"));
        assert!(!format!("{form:?}").contains("SECRET"));
        assert!(format!("{form:?}").starts_with("v1:"));
    }
}
