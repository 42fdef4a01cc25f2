//! A JSON document that means one thing only.

use std::{collections::BTreeMap, fmt};

use api::Code;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::Fault;

/// Deepest nesting of arrays and objects.
const DEPTH_LIMIT: usize = 32;

/// A document without duplicate keys, NUL characters, lone surrogates or deep nesting. Objects are sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// An integer in plain digits.
    Number(Number),
    /// A number that is no such integer; kept so that the field at fault can be named.
    NotAnInteger,
    /// A string.
    Text(String),
    /// A query parameter, which may stand for a string or, in plain digits, for an integer.
    Parameter(String),
    /// An array.
    List(Vec<Document>),
    /// An object.
    Object(BTreeMap<String, Document>),
}

/// An integer of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// Below zero.
    Negative(i64),
    /// Zero or above.
    Natural(u64),
}

impl Document {
    /// Reads the bytes of a body.
    ///
    /// # Errors
    /// `malformed_json` when they are not JSON, or not JSON that means one thing only.
    pub fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        Depth(0).deserialize(&mut reader).and_then(|document| reader.end().map(|()| document)).map_err(
            |error| Fault { code: Code::MalformedJson, pointer: String::new(), detail: error.to_string() },
        )
    }
}

/// Builds a document at some depth.
#[derive(Clone, Copy)]
struct Depth(usize);

impl Depth {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.0 < DEPTH_LIMIT { Ok(Self(self.0 + 1)) } else { Err(E::custom("nested too deeply")) }
    }
}

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = Document;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Document, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Document, E> {
        Ok(Document::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Document, E> {
        Ok(Document::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Document, E> {
        Ok(Document::Number(u64::try_from(value).map_or(Number::Negative(value), Number::Natural)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Document, E> {
        Ok(Document::Number(Number::Natural(value)))
    }

    // Whatever has a point, an exponent, a sign before zero or more than 64 bits arrives here.
    fn visit_f64<E>(self, _: f64) -> Result<Document, E> {
        Ok(Document::NotAnInteger)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Document, E> {
        refuse_nul(text)?;
        Ok(Document::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Document, A::Error> {
        let deeper = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(deeper)? {
            list.push(item);
        }
        Ok(Document::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Document, A::Error> {
        let deeper = self.deeper()?;
        let mut object = BTreeMap::new();
        while let Some(key) = fields.next_key::<String>()? {
            refuse_nul(&key)?;
            let value = fields.next_value_seed(deeper)?;
            if object.insert(key, value).is_some() {
                return Err(de::Error::custom("duplicate key"));
            }
        }
        Ok(Document::Object(object))
    }
}

/// Postgres cannot store U+0000 in text; nobody means it.
fn refuse_nul<E: de::Error>(text: &str) -> Result<(), E> {
    if text.contains('\0') { Err(E::custom("a string contains U+0000")) } else { Ok(()) }
}
