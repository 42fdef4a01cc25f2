//! Typed values from a [`Document`], with the place of whatever is wrong.

use std::fmt;

use api::Code;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};

use super::{Document, Fault, Number};

/// Reads a `T`.
///
/// # Errors
/// `unknown_field` or `invalid_field`, naming the place.
pub(crate) fn read<T: DeserializeOwned>(document: &Document) -> Result<T, Fault> {
    T::deserialize(Node(document)).map_err(|error| Fault {
        code: error.code,
        pointer: error.path.iter().rev().fold(String::new(), |mut pointer, step| {
            pointer.push('/');
            pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
            pointer
        }),
        detail: error.detail,
    })
}

/// What is wrong; `path` grows from the inside out while the error passes the containers.
#[derive(Debug)]
struct Misfit {
    code: Code,
    path: Vec<String>,
    detail: String,
}

impl Misfit {
    fn within(mut self, step: impl ToString) -> Self {
        self.path.push(step.to_string());
        self
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(detail: T) -> Self {
        Self { code: Code::InvalidField, path: Vec::new(), detail: detail.to_string() }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { code: Code::InvalidField, path: vec![field.to_owned()], detail: "is required".to_owned() }
    }

    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        Self { code: Code::UnknownField, path: Vec::new(), detail: "is not a field of this call".to_owned() }
    }
}

/// A deserializer over one value.
#[derive(Clone, Copy)]
struct Node<'a>(&'a Document);

impl<'a> Node<'a> {
    fn misfit<T>(self, expected: &dyn de::Expected) -> Result<T, Misfit> {
        let found = match self.0 {
            Document::Null => "null",
            Document::Bool(_) => "a boolean",
            Document::Number(_) => "a number",
            Document::NotAnInteger => "a number that is not an integer in plain digits",
            Document::Text(_) | Document::Parameter(_) => "a string",
            Document::List(_) => "an array",
            Document::Object(_) => "an object",
        };
        Err(de::Error::custom(format_args!("{found}, expected {expected}")))
    }

    fn integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let number = match self.0 {
            Document::Number(number) => Some(*number),
            Document::Parameter(text) => Number::from_digits(text),
            _ => None,
        };
        match number {
            Some(Number::Negative(value)) => visitor.visit_i64(value),
            Some(Number::Natural(value)) => visitor.visit_u64(value),
            None => self.misfit(&visitor),
        }
    }

    fn list<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::List(items) => visitor.visit_seq(Items { items: items.iter(), index: 0 }),
            _ => self.misfit(&visitor),
        }
    }

    fn object<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Object(fields) => visitor.visit_map(Fields { fields: fields.iter(), last: None }),
            _ => self.misfit(&visitor),
        }
    }
}

impl Number {
    /// Plain digits, as JSON would have them: no sign but a minus, no leading zeros.
    fn from_digits(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('-').unwrap_or(text);
        let is_plain = !digits.is_empty()
            && digits.bytes().all(|b| b.is_ascii_digit())
            && (digits == "0" || !digits.starts_with('0'))
            && text != "-0";
        if !is_plain {
            return None;
        }
        if text.len() == digits.len() {
            text.parse().ok().map(Self::Natural)
        } else {
            text.parse().ok().map(Self::Negative)
        }
    }
}

macro_rules! integers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            self.integer(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for Node<'_> {
    type Error = Misfit;

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Null => visitor.visit_unit(),
            Document::Bool(value) => visitor.visit_bool(*value),
            Document::Number(_) => self.integer(visitor),
            Document::NotAnInteger => self.misfit(&visitor),
            Document::Text(text) | Document::Parameter(text) => visitor.visit_str(text),
            Document::List(_) => self.list(visitor),
            Document::Object(_) => self.object(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Parameter(text) if text == "true" => visitor.visit_bool(true),
            Document::Parameter(text) if text == "false" => visitor.visit_bool(false),
            Document::Bool(value) => visitor.visit_bool(*value),
            _ => self.misfit(&visitor),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Text(text) | Document::Parameter(text) => visitor.visit_str(text),
            _ => self.misfit(&visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.list(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.list(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.object(visitor)
    }

    // The reason for this file: an object, and never an array.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.object(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self.0 {
            Document::Text(name) | Document::Parameter(name) => {
                visitor.visit_enum(Choice { name, content: None })
            }
            Document::Object(fields) => match fields.first_key_value() {
                Some((name, content)) if fields.len() == 1 => {
                    visitor.visit_enum(Choice { name, content: Some(content) })
                }
                _ => self.misfit(&"an object with one field"),
            },
            _ => self.misfit(&visitor),
        }
    }

    // serde asks for this to skip what a type does not name: nothing is skipped here, whether or not the
    // type says `deny_unknown_fields`.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Misfit> {
        Err(de::Error::unknown_field("", &[]))
    }

    serde::forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple_struct identifier }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Document>,
    index: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let index = self.index;
        self.index += 1;
        seed.deserialize(Node(item)).map(Some).map_err(|error| error.within(index))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

struct Fields<'a> {
    fields: std::collections::btree_map::Iter<'a, String, Document>,
    last: Option<(&'a str, &'a Document)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        let Some((key, value)) = self.fields.next() else { return Ok(None) };
        self.last = Some((key, value));
        seed.deserialize(key.as_str().into_deserializer())
            .map(Some)
            .map_err(|error: Misfit| error.within(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (key, value) =
            self.last.take().ok_or_else(|| <Misfit as de::Error>::custom("a value without its key"))?;
        seed.deserialize(Node(value)).map_err(|error| error.within(key))
    }
}

struct Choice<'a> {
    name: &'a str,
    content: Option<&'a Document>,
}

impl<'de, 'a> EnumAccess<'de> for Choice<'a> {
    type Error = Misfit;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'a>), Misfit> {
        let variant = seed.deserialize(self.name.into_deserializer())?;
        Ok((variant, Content { name: self.name, content: self.content }))
    }
}

struct Content<'a> {
    name: &'a str,
    content: Option<&'a Document>,
}

impl<'a> Content<'a> {
    fn node(&self) -> Result<Node<'a>, Misfit> {
        self.content.map(Node).ok_or_else(|| de::Error::custom("expected an object that names its kind"))
    }
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        match self.content {
            None => Ok(()),
            Some(_) => Err(de::Error::custom("expected a string")),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Misfit> {
        let node = self.node()?;
        seed.deserialize(node).map_err(|error| error.within(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.node()?.list(visitor).map_err(|error| error.within(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        self.node()?.object(visitor).map_err(|error| error.within(self.name))
    }
}
