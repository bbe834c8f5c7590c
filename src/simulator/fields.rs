//! Which fields does a request have, and is each of the documented type? One pass over the body, nothing copied: a
//! value stays JSON text until the command that knows its meaning asks for it.

use std::{borrow::Cow, fmt};

use serde::de::{Deserialize, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::{error::Category, value::RawValue};

use super::codes::{self, Refusal};

/// Names every field of the seven commands, once.
macro_rules! fields {
    ($($variant:ident = $name:literal,)*) => {
        /// A field of a request.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Field { $($variant,)* }

        impl Field {
            const COUNT: usize = [$(Self::$variant,)*].len();

            fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            const ALL: [Self; Self::COUNT] = [$(Self::$variant,)*];
        }
    };
}

fields! {
    SyncOtherMachine = "SyncOtherMachine",
    FromAccount = "From_Account",
    ToAccount = "To_Account",
    OnlineOnlyFlag = "OnlineOnlyFlag",
    MsgLifeTime = "MsgLifeTime",
    MsgSeq = "MsgSeq",
    MsgRandom = "MsgRandom",
    MsgTimeStamp = "MsgTimeStamp",
    ForbidCallbackControl = "ForbidCallbackControl",
    SendMsgControl = "SendMsgControl",
    MsgBody = "MsgBody",
    CloudCustomData = "CloudCustomData",
    SupportMessageExtension = "SupportMessageExtension",
    IsNeedReadReceipt = "IsNeedReadReceipt",
    OfflinePushInfo = "OfflinePushInfo",
    SyncFromOldSystem = "SyncFromOldSystem",
    OperatorAccount = "Operator_Account",
    PeerAccount = "Peer_Account",
    MaxCnt = "MaxCnt",
    MinTime = "MinTime",
    MaxTime = "MaxTime",
    LastMsgKey = "LastMsgKey",
    MsgKey = "MsgKey",
    ReportAccount = "Report_Account",
    MsgReadTime = "MsgReadTime",
}

/// The fields of one request, as JSON text of the body.
pub(super) struct Fields<'a> {
    values: [Option<&'a RawValue>; Field::COUNT],
    /// Names that no command has.
    pub(super) unknown: Vec<String>,
}

impl<'a> Fields<'a> {
    /// Reads the body: 60003 if it isn't JSON, 90001 if it isn't an object.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body).map_err(|error| match error.classify() {
            Category::Data => codes::BODY,
            Category::Io | Category::Syntax | Category::Eof => codes::JSON,
        })
    }

    pub(super) const fn get(&self, field: Field) -> Option<&'a RawValue> {
        self.values[field as usize]
    }

    pub(super) const fn has(&self, field: Field) -> bool {
        self.get(field).is_some()
    }

    /// Fields that are there although the command has no such field.
    pub(super) fn besides(&self, known: &[Field]) -> impl Iterator<Item = &'static str> {
        Field::ALL
            .into_iter()
            .filter(|field| self.has(*field) && !known.contains(field))
            .map(Field::name)
    }

    /// A string; absent is `None`, any other type is refused.
    pub(super) fn text(&self, field: Field, refusal: Refusal) -> Result<Option<Cow<'a, str>>, Refusal> {
        self.get(field).map(|raw| string(raw).ok_or(refusal)).transpose()
    }

    /// A string that must be there and not be empty.
    pub(super) fn required_text(&self, field: Field, refusal: Refusal) -> Result<Cow<'a, str>, Refusal> {
        self.text(field, refusal)?
            .filter(|text| !text.is_empty())
            .ok_or(refusal)
    }

    /// An unsigned number of 32 bits; absent is `None`.
    pub(super) fn u32(&self, field: Field, refusal: Refusal) -> Result<Option<u32>, Refusal> {
        self.get(field)
            .map(|raw| raw.get().parse().map_err(|_| refusal))
            .transpose()
    }

    /// A flag of 0 or 1; absent is `None`.
    pub(super) fn flag(&self, field: Field, refusal: Refusal) -> Result<Option<bool>, Refusal> {
        self.get(field)
            .map(|raw| match raw.get() {
                "0" => Ok(false),
                "1" => Ok(true),
                _ => Err(refusal),
            })
            .transpose()
    }

    /// An array of strings; absent is `None`.
    pub(super) fn texts(&self, field: Field, refusal: Refusal) -> Result<Option<Vec<Cow<'a, str>>>, Refusal> {
        self.get(field).map(|raw| strings(raw).ok_or(refusal)).transpose()
    }
}

/// The text of a JSON string; `None` if the value is something else. Borrowed unless it has escapes.
pub(super) fn string(raw: &RawValue) -> Option<Cow<'_, str>> {
    let inner = raw.get().strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        return serde_json::from_str(raw.get()).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inner))
}

/// The texts of an array of strings; `None` if the value is something else.
pub(super) fn strings(raw: &RawValue) -> Option<Vec<Cow<'_, str>>> {
    let items: Vec<&RawValue> = serde_json::from_str(raw.get()).ok()?;
    items.into_iter().map(string).collect()
}

/// An object's fields in their order, whatever they are; `None` if the value is no object.
pub(super) fn object(raw: &RawValue) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    /// The pairs of an object.
    struct Pairs<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

    impl<'de> Deserialize<'de> for Pairs<'de> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            /// Collects them.
            struct Collect;
            impl<'de> Visitor<'de> for Collect {
                type Value = Pairs<'de>;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                    let mut pairs = Vec::with_capacity(map.size_hint().unwrap_or(4));
                    while let Some(name) = map.next_key_seed(Name)? {
                        pairs.push((name, map.next_value()?));
                    }
                    Ok(Pairs(pairs))
                }
            }
            deserializer.deserialize_map(Collect)
        }
    }

    serde_json::from_str::<Pairs<'_>>(raw.get()).ok().map(|pairs| pairs.0)
}

/// Reads a key, borrowed where it has no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }
    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Sorts the fields into their places.
        struct Sort;
        impl<'de> Visitor<'de> for Sort {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields {
                    values: [None; Field::COUNT],
                    unknown: Vec::new(),
                };
                while let Some(name) = map.next_key_seed(Name)? {
                    let value = map.next_value()?;
                    match Field::from_name(&name) {
                        Some(field) => fields.values[field as usize] = Some(value),
                        None => fields.unknown.push(name.into_owned()),
                    }
                }
                Ok(fields)
            }
        }
        deserializer.deserialize_map(Sort)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> i32 {
        Fields::parse(body.as_bytes()).err().map_or(0, |refusal| refusal.code)
    }

    #[test]
    fn a_body_that_is_no_json_and_one_that_is_no_object_have_their_codes() {
        assert_eq!(code("{}"), 0);
        for body in ["", "nonsense", "{\"a\":", "{\"a\":1} x", "{\"To_Account\":\"\u{1}\"}"] {
            assert_eq!(code(body), 60003, "{body}");
        }
        for body in ["[]", "1", "\"a\"", "null"] {
            assert_eq!(code(body), 90001, "{body}");
        }
    }

    #[test]
    fn numbers_flags_and_strings_are_of_exactly_their_type() {
        let body = br#"{"MsgSeq":4294967295,"MsgRandom":4294967296,"MsgTimeStamp":1.0,"From_Account":"a\u00e9\"","To_Account":7,
            "OnlineOnlyFlag":1,"IsNeedReadReceipt":"1","Other":{},"MsgKey":null}"#;
        let fields = Fields::parse(body).unwrap();
        let refusal = codes::BODY;
        assert_eq!(fields.u32(Field::MsgSeq, refusal), Ok(Some(u32::MAX)));
        assert_eq!(fields.u32(Field::MsgRandom, refusal), Err(refusal));
        assert_eq!(fields.u32(Field::MsgTimeStamp, refusal), Err(refusal));
        assert_eq!(fields.u32(Field::MaxCnt, refusal), Ok(None));
        assert_eq!(fields.required_text(Field::FromAccount, refusal).unwrap(), "aé\"");
        assert_eq!(fields.text(Field::ToAccount, refusal), Err(refusal));
        assert_eq!(fields.text(Field::MsgKey, refusal), Err(refusal), "null is no string");
        assert_eq!(fields.flag(Field::OnlineOnlyFlag, refusal), Ok(Some(true)));
        assert_eq!(fields.flag(Field::IsNeedReadReceipt, refusal), Err(refusal));
        assert_eq!(fields.unknown, ["Other"]);
    }
}
