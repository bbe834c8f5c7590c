//! From bytes to a tree that borrows from them. A key given twice is refused here, whatever the types make of it.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::HashSet,
    fmt,
};

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use super::Fault;

/// The most entries of an array. It is the most recipients of a job (contract), the longest list there is; beyond it
/// nothing is kept, so that a body of many megabytes can't become hundreds of megabytes of tree.
pub(crate) const MAX_ENTRIES: usize = 100_000;
/// The most values of a document: every list that the contract allows, with room to spare.
const MAX_VALUES: usize = 300_000;
/// Up to here the keys of an object are compared one by one, which is faster than a set.
const SMALL_OBJECT: usize = 12;

/// A field of an object.
pub(crate) type Field<'a> = (Cow<'a, str>, Node<'a>);

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node<'a> {
    /// null
    Null,
    /// true or false
    Bool(bool),
    /// A whole number from zero up.
    Unsigned(u64),
    /// A whole number below zero.
    Signed(i64),
    /// Any other number.
    Float(f64),
    /// A string.
    Text(Cow<'a, str>),
    /// An array.
    Array(Vec<Node<'a>>),
    /// An object; no key is there twice.
    Object(Vec<Field<'a>>),
}

impl Node<'_> {
    /// What it is, as a sentence calls it.
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "true or false",
            Self::Unsigned(_) | Self::Signed(_) | Self::Float(_) => "a number",
            Self::Text(_) => "a string",
            Self::Array(_) => "an array",
            Self::Object(_) => "an object",
        }
    }
}

/// Why bytes are no tree.
#[derive(Debug)]
pub(crate) enum ParseError {
    /// They are not JSON; the text says where.
    Syntax(String),
    /// They are JSON that is refused.
    Refused(Fault),
}

/// Parses a document.
pub(crate) fn parse(bytes: &[u8]) -> Result<Node<'_>, ParseError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|error| ParseError::Syntax(format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    if text.starts_with('\u{feff}') {
        return Err(ParseError::Syntax("starts with a byte order mark".to_owned()));
    }
    let state = State {
        fault: RefCell::new(None),
        values_left: Cell::new(MAX_VALUES),
    };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Seed(&state)
        .deserialize(&mut deserializer)
        .and_then(|node| deserializer.end().map(|()| node));
    parsed.map_err(|error| match state.fault.into_inner() {
        // Reading stopped at the fault, so what follows it may still be no JSON, which is the graver fault.
        Some(fault) => match serde_json::from_str::<de::IgnoredAny>(text) {
            Ok(_) => ParseError::Refused(fault),
            Err(error) => syntax(&error),
        },
        None => syntax(&error),
    })
}

/// `serde_json`'s texts on syntax are fixed phrases with a line and a column: they never quote the document.
fn syntax(error: &serde_json::Error) -> ParseError {
    ParseError::Syntax(error.to_string())
}

/// What the visitors share. A fault goes here with its path, since `serde_json`'s error can carry only a text.
struct State {
    fault: RefCell<Option<Fault>>,
    values_left: Cell<usize>,
}

impl State {
    fn refuse<E: de::Error>(&self, fault: Fault) -> E {
        *self.fault.borrow_mut() = Some(fault);
        E::custom("refused")
    }

    /// Adds a step to the path of the fault that an error is about, if it is about one.
    fn extend(&self, step: impl FnOnce(Fault) -> Fault) {
        let mut slot = self.fault.borrow_mut();
        *slot = slot.take().map(step);
    }
}

#[derive(Clone, Copy)]
struct Seed<'s>(&'s State);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Node<'de>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Node<'de>, D::Error> {
        let Some(left) = self.0.values_left.get().checked_sub(1) else {
            return Err(self
                .0
                .refuse(Fault::new(format!("the job holds more than {MAX_VALUES} values"))));
        };
        self.0.values_left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Node<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Node<'de>, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node<'de>, E> {
        Ok(Node::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node<'de>, E> {
        Ok(Node::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node<'de>, E> {
        Ok(u64::try_from(value).map_or(Node::Signed(value), Node::Unsigned))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node<'de>, E> {
        Ok(Node::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Node<'de>, E> {
        Ok(Node::Text(Cow::Owned(value)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node<'de>, A::Error> {
        let mut entries = Vec::new();
        loop {
            match seq.next_element_seed(self) {
                Ok(None) => return Ok(Node::Array(entries)),
                Ok(Some(_)) if entries.len() == MAX_ENTRIES => {
                    return Err(self
                        .0
                        .refuse(Fault::new(format!("must hold at most {MAX_ENTRIES} entries"))));
                }
                Ok(Some(entry)) => entries.push(entry),
                Err(error) => {
                    self.0.extend(|fault| fault.at_index(entries.len()));
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node<'de>, A::Error> {
        let mut entries: Vec<Field<'de>> = Vec::new();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            if entries.len() < SMALL_OBJECT && entries.iter().any(|(known, _)| *known == key) {
                return Err(self.0.refuse(Fault::twice(&key)));
            }
            match map.next_value_seed(self) {
                Ok(value) => entries.push((key, value)),
                Err(error) => {
                    self.0.extend(|fault| fault.at(&key));
                    return Err(error);
                }
            }
        }
        if entries.len() > SMALL_OBJECT {
            let mut seen = HashSet::with_capacity(entries.len());
            if let Some((key, _)) = entries.iter().find(|(key, _)| !seen.insert(key.as_ref())) {
                return Err(self.0.refuse(Fault::twice(key)));
            }
        }
        Ok(Node::Object(entries))
    }
}

/// Reads a key, borrowed where it has no escapes.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Cow<'de, str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        match parse(json.as_bytes()) {
            Err(ParseError::Refused(fault)) => fault.to_string(),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn a_key_given_twice_is_refused_at_any_depth_and_in_big_objects() {
        assert_eq!(refused(r#"{"a": 1, "a": 2}"#), "a: is given twice");
        assert_eq!(
            refused(r#"{"a": [0, {"b": {"c": 1, "\u0063": 1}}]}"#),
            "a[1].b.c: is given twice"
        );
        let mut big: Vec<String> = (0..1000).map(|n| format!("\"k{n}\": 1")).collect();
        big.push("\"k500\": 1".to_owned());
        assert_eq!(
            refused(&format!("{{\"a\": {{{}}}}}", big.join(","))),
            "a.k500: is given twice"
        );
    }

    #[test]
    fn a_list_that_is_too_long_is_refused_by_its_name() {
        let json = format!(r#"{{"to": [{}1]}}"#, "1,".repeat(MAX_ENTRIES));
        assert_eq!(refused(&json), "to: must hold at most 100000 entries");
    }

    #[test]
    fn many_values_in_short_lists_are_refused_too() {
        let inner = format!("[{}1]", "1,".repeat(90_000));
        assert!(refused(&format!("[{inner},{inner},{inner},{inner}]")).contains("more than 300000 values"));
    }

    #[test]
    fn what_is_not_json_is_a_syntax_error_even_after_a_fault() {
        for json in [
            &b"{\"a\": 1, \"a\": 2"[..],
            b"",
            b"{} x",
            b"\xff",
            b"\xef\xbb\xbf{}",
            b"{'a': 1}",
            b"[1,]",
        ] {
            assert!(
                matches!(parse(json), Err(ParseError::Syntax(_))),
                "{}",
                String::from_utf8_lossy(json)
            );
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let json = "[".repeat(1_000_000);
        assert!(matches!(parse(json.as_bytes()), Err(ParseError::Syntax(_))));
    }

    #[test]
    fn strings_without_escapes_are_borrowed() {
        let Ok(Node::Array(entries)) = parse(br#"["plain", "with \n escape"]"#) else {
            panic!("expected an array");
        };
        assert!(matches!(
            entries.as_slice(),
            [Node::Text(Cow::Borrowed(_)), Node::Text(Cow::Owned(_))]
        ));
    }
}
