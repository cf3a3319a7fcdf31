//! What the decoder of ProtoJSON lets pass: a field or a key given twice, two
//! bodies, a whole number that none of its kind can hold. And unknown fields,
//! which it refuses without their path.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// 2^64, the first that no field holds.
const TOO_LARGE: f64 = 18_446_744_073_709_551_616.0;

/// What stands at one place of a text.
#[derive(Clone)]
pub(super) enum Strict {
    Message(MessageDescriptor),
    Map,
    Plain,
    /// Nothing may stand here, for this reason.
    Never(String),
}

// === impl Strict ===

impl Strict {
    pub(super) fn message(descriptor: &MessageDescriptor) -> Self {
        Self::Message(descriptor.clone())
    }

    /// A field's value; of a list, one of its elements.
    fn of(field: &FieldDescriptor) -> Self {
        match field.kind() {
            _ if field.is_map() => Self::Map,
            Kind::Message(message) => Self::Message(message),
            _ => Self::Plain,
        }
    }

    fn checked<E: Error>(&self) -> Result<(), E> {
        match self {
            Self::Never(why) => Err(E::custom(why)),
            _ => Ok(()),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = bool;

    /// Whether there is a value: `null` is none.
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<bool, E> {
        self.checked().map(|()| true)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<bool, E> {
        self.checked().map(|()| true)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<bool, E> {
        self.checked().map(|()| true)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<bool, E> {
        if number >= TOO_LARGE {
            return Err(E::custom("the number is too large"));
        }
        self.checked().map(|()| true)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<bool, E> {
        self.checked().map(|()| true)
    }

    fn visit_unit<E: Error>(self) -> Result<bool, E> {
        self.checked().map(|()| false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        self.checked()?;
        while seq.next_element_seed(self.clone())?.is_some() {}
        Ok(true)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        self.checked()?;
        let mut keys = HashSet::new();
        let mut fields = HashSet::new();
        let mut choices = HashSet::new();
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            let mut choice = None;
            let value = match &self {
                // The decoder says what should have stood here instead.
                Self::Plain | Self::Never(_) => Self::Plain,
                Self::Map if keys.insert(key.clone()) => Self::Plain,
                Self::Map => Self::Never("the key is given twice".to_owned()),
                Self::Message(message) => {
                    let field = message.get_field_by_json_name(&key);
                    match field.or_else(|| message.get_field_by_name(&key)) {
                        None => Self::Never(format!("{} has no such field", message.name())),
                        Some(field) if !fields.insert(field.number()) => {
                            Self::Never("the field is given twice".to_owned())
                        }
                        Some(field) => {
                            let oneof = field.containing_oneof();
                            choice = oneof.map(|oneof| oneof.name().to_owned());
                            match &choice {
                                Some(name) if choices.contains(name) => {
                                    Self::Never(format!("a second {name}"))
                                }
                                _ => Self::of(&field),
                            }
                        }
                    }
                }
            };
            if map.next_value_seed(value)? {
                choices.extend(choice);
            }
        }
        Ok(true)
    }
}
