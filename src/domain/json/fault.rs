//! What is wrong with a field, and its path. Never its value.

use std::fmt;

use serde::de;

/// The longest name that a sentence repeats, in characters: names come from the sender, so they are cut.
const MAX_NAME: usize = 64;
/// The most names that a sentence lists.
const MAX_LISTED: usize = 16;

/// A step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reason {
    /// The field is not known here; these are.
    Unknown { known: Vec<&'static str> },
    /// A rule, as a sentence without its subject: `must not be empty`.
    Rule(String),
}

/// A fault in a JSON document: the path to the field and the rule that it breaks.
///
/// It prints as `message.body[0].MsgContent.Text: must be a string, not a number`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// Innermost first: a path is put together while an error travels outwards, so it costs nothing without one.
    path: Vec<Step>,
    reason: Reason,
}

impl Fault {
    /// A fault of the place itself; the path is added on the way out.
    pub(crate) fn new(rule: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            reason: Reason::Rule(rule.into()),
        }
    }

    /// A field that is not known at its place.
    pub(crate) fn unknown(field: &str, known: &[&'static str]) -> Self {
        Self {
            path: Vec::new(),
            reason: Reason::Unknown { known: known.to_vec() },
        }
        .at(field)
    }

    /// A required field that is not there.
    pub(crate) fn missing(field: &str) -> Self {
        Self::new("is missing").at(field)
    }

    /// A field that is given twice.
    pub(crate) fn twice(field: &str) -> Self {
        Self::new("is given twice").at(field)
    }

    /// The fault is in this field of what the path said so far.
    pub(crate) fn at(mut self, key: &str) -> Self {
        self.path.push(Step::Key(printable(key)));
        self
    }

    /// The fault is in this entry of what the path said so far.
    pub(crate) fn at_index(mut self, index: usize) -> Self {
        self.path.push(Step::Index(index));
        self
    }

    /// Other names that would have been right for an unknown field of the outermost object.
    pub(crate) fn or_known(mut self, more: &[&'static str]) -> Self {
        if let (Reason::Unknown { known }, 1) = (&mut self.reason, self.path.len()) {
            known.extend_from_slice(more);
        }
        self
    }
}

/// A name as a sentence may repeat it: cut, and without control characters.
fn printable(name: &str) -> String {
    let mut shown: String = name
        .chars()
        .take(MAX_NAME)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if shown.len() < name.len() && name.chars().nth(MAX_NAME).is_some() {
        shown.push('…');
    }
    shown
}

/// The known name that is closest to an unknown one, if any is close.
fn nearest(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let lower = name.to_ascii_lowercase();
    let similarity = |candidate: &str| {
        let candidate = candidate.to_ascii_lowercase();
        // One slip of the finger, which the measure below misses in short names.
        if lower.chars().count() > 2 && strsim::damerau_levenshtein(&lower, &candidate) <= 1 {
            return 1.0;
        }
        strsim::jaro_winkler(&lower, &candidate)
    };
    known
        .iter()
        .map(|candidate| (similarity(candidate), *candidate))
        // 0.8 accepts a slip or two and refuses other words (clap's bound is 0.7, which suggests too freely here).
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.path.iter().rev().enumerate() {
            match step {
                Step::Key(key) if depth == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        if !self.path.is_empty() {
            f.write_str(": ")?;
        }
        match &self.reason {
            Reason::Rule(rule) => f.write_str(rule),
            Reason::Unknown { known } => {
                f.write_str("unknown field")?;
                if let Some(Step::Key(name)) = self.path.first()
                    && let Some(nearest) = nearest(name, known)
                {
                    return write!(f, ", did you mean `{nearest}`?");
                }
                if known.is_empty() {
                    return Ok(());
                }
                write!(
                    f,
                    ", known here: {}",
                    known.get(..MAX_LISTED).unwrap_or(known).join(", ")
                )
            }
        }
    }
}

impl std::error::Error for Fault {}

/// What serde reports. The `unexpected` values are dropped: only their kind is told.
impl de::Error for Fault {
    fn custom<T: fmt::Display>(rule: T) -> Self {
        Self::new(rule.to_string())
    }

    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("must be {expected}, not {}", kind(unexpected)))
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("must be {expected}"))
    }

    fn invalid_length(length: usize, expected: &dyn de::Expected) -> Self {
        Self::new(format!("holds {length} entries, must be {expected}"))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self::new(one_of(expected))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::unknown(field, expected)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::missing(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::twice(field)
    }
}

/// `must be a, b or c`.
pub(crate) fn one_of(words: &[&str]) -> String {
    match words {
        [] => "must not be given".to_owned(),
        [only] => format!("must be {only}"),
        [first @ .., last] => format!("must be {} or {last}", first.join(", ")),
    }
}

fn kind(unexpected: de::Unexpected<'_>) -> &'static str {
    match unexpected {
        de::Unexpected::Bool(_) => "true or false",
        de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
        de::Unexpected::Str(_) | de::Unexpected::Char(_) => "a string",
        de::Unexpected::Seq => "an array",
        de::Unexpected::Map => "an object",
        de::Unexpected::Unit | de::Unexpected::Option => "null",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_prints_from_the_outside_in() {
        let fault = Fault::new("must not be empty")
            .at("Text")
            .at_index(3)
            .at("body")
            .at("message");
        assert_eq!(fault.to_string(), "message.body[3].Text: must not be empty");
    }

    #[test]
    fn an_unknown_field_is_named_with_the_nearest_known_one() {
        assert_eq!(
            Fault::unknown("txt", &["text", "body"]).at("message").to_string(),
            "message.txt: unknown field, did you mean `text`?"
        );
        assert_eq!(
            Fault::unknown("colour", &["text", "body"]).to_string(),
            "colour: unknown field, known here: text, body"
        );
        assert_eq!(
            Fault::unknown("Group", &["text"]).or_known(&["group"]).to_string(),
            "Group: unknown field, did you mean `group`?"
        );
    }

    #[test]
    fn a_name_is_cut_and_made_printable() {
        let shown = Fault::unknown(&format!("a\nb{}", "x".repeat(1000)), &[]).to_string();
        assert!(shown.starts_with("a\u{fffd}bxxx"));
        assert!(shown.chars().count() < 100);
    }
}
