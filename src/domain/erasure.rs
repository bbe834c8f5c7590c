//! Where a text or a job names an account: the pure rules of `erase`.
//!
//! A name counts where it stands alone: the account `ann` is not named by `annabel`, nor by `ann-2`.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::AccountId;

/// What stands where the name was.
pub const ERASED: &str = "(erased)";

/// The account in the audit log's entry of its own erasure: whoever knows the name can find the entry, and nobody can read
/// the name from it.
pub fn pseudonym(account: &AccountId) -> String {
    use std::fmt::Write as _;

    let digest = Sha256::digest(account.as_str().as_bytes());
    digest
        .iter()
        .take(8)
        .fold("account sha256:".to_owned(), |mut text, byte| {
            // Writing into a String can't fail.
            write!(text, "{byte:02x}").ok();
            text
        })
}

/// Whether a text names the account.
pub fn mentions(text: &str, account: &AccountId) -> bool {
    next_mention(text, account.as_str(), 0).is_some()
}

/// The text with [`ERASED`] for every mention of the account; `None`: there is none.
///
/// The end of a text that was cut off, which `…` tells, may be the beginning of the name.
pub fn without_mentions(text: &str, account: &AccountId) -> Option<String> {
    let name = account.as_str();
    let (mut clean, mut from) = (String::new(), 0);
    while let Some(at) = next_mention(text, name, from) {
        clean.push_str(&text[from..at]);
        clean.push_str(ERASED);
        from = at + name.len();
    }
    clean.push_str(&text[from..]);
    if let Some(whole) = clean.strip_suffix('…') {
        let cut = whole.rfind(|c| !in_name(c)).map_or(whole, |at| {
            &whole[at + whole[at..].chars().next().map_or(0, char::len_utf8)..]
        });
        if cut.len() > 2 && name.starts_with(cut) {
            let kept = whole.len() - cut.len();
            clean = format!("{}{ERASED}…", &whole[..kept]);
        }
    }
    (clean != text).then_some(clean)
}

/// Whether a job's JSON names the account in any string. What isn't JSON names it where the bytes are there.
pub fn json_mentions(body: &[u8], account: &AccountId) -> bool {
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => value_mentions(&value, account),
        Err(_) => body
            .windows(account.as_str().len())
            .any(|bytes| bytes == account.as_str().as_bytes()),
    }
}

/// A batch's JSON without this recipient; `None`: nobody would be left, or the account is named elsewhere in it.
pub fn without_recipient(body: &[u8], account: &AccountId) -> Option<Vec<u8>> {
    let mut job: Value = serde_json::from_slice(body).ok()?;
    let to = job.get_mut("to")?.as_array_mut()?;
    to.retain(|to| to.as_str() != Some(account.as_str()));
    if to.is_empty() || value_mentions(&job, account) {
        return None;
    }
    serde_json::to_vec(&job).ok()
}

fn value_mentions(value: &Value, account: &AccountId) -> bool {
    match value {
        Value::String(text) => mentions(text, account),
        Value::Array(values) => values.iter().any(|value| value_mentions(value, account)),
        Value::Object(fields) => fields
            .iter()
            .any(|(name, value)| mentions(name, account) || value_mentions(value, account)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Characters that names are commonly made of.
fn in_name(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '@' | '#')
}

fn next_mention(text: &str, name: &str, from: usize) -> Option<usize> {
    text[from..].match_indices(name).map(|(at, _)| from + at).find(|at| {
        let before = text[..*at].chars().next_back();
        // A full stop or a dash that ends the word is no part of it.
        let after = text[at + name.len()..].trim_start_matches(['.', '-']).chars().next();
        before.is_none_or(|c| !in_name(c)) && after.is_none_or(|c| !in_name(c))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> AccountId {
        AccountId::parse("ann").unwrap()
    }

    #[test]
    fn a_name_counts_where_it_stands_alone() {
        for text in [
            "ann",
            "from ann to bob",
            "bob,ann",
            "sent to ann.",
            "(ann)",
            "\"ann\":",
            "ann… and more",
        ] {
            assert!(mentions(text, &ann()), "{text}");
        }
        for text in ["", "annabel", "joann", "ann-2", "ann.b", "ann@home", "an"] {
            assert!(!mentions(text, &ann()), "{text}");
        }
    }

    #[test]
    fn every_mention_is_replaced_and_so_is_a_name_that_was_cut_off() {
        assert_eq!(
            without_mentions("job a to ann, annabel, ann", &ann()).unwrap(),
            "job a to (erased), annabel, (erased)"
        );
        assert_eq!(without_mentions("job a to bob", &ann()), None);
        let long = AccountId::parse("alexandra").unwrap();
        assert_eq!(
            without_mentions("job a to bob, alexan…", &long).unwrap(),
            "job a to bob, (erased)…"
        );
        assert_eq!(without_mentions("job a to bob, alexis…", &long), None);
        assert_eq!(without_mentions("größe…", &long), None);
    }

    #[test]
    fn a_batch_keeps_its_other_recipients_unless_the_account_is_named_elsewhere() {
        let body = br#"{"type":"batch_send","id":"b","to":["ann","bob"],"message":{"text":"hello"}}"#;
        let kept = without_recipient(body, &ann()).unwrap();
        assert_eq!(
            String::from_utf8(kept).unwrap(),
            r#"{"type":"batch_send","id":"b","to":["bob"],"message":{"text":"hello"}}"#
        );
        for body in [
            r#"{"to":["ann"],"message":{"text":"hello"}}"#,
            r#"{"to":["ann","bob"],"message":{"text":"hello ann"}}"#,
            r#"{"to":["bob"],"from":"ann"}"#,
            "no json",
        ] {
            assert_eq!(without_recipient(body.as_bytes(), &ann()), None, "{body}");
        }
    }

    #[test]
    fn a_jobs_json_is_read_through_its_escapes() {
        assert!(json_mentions(br#"{"type":"unread","user":"\u0061nn"}"#, &ann()));
        assert!(!json_mentions(
            br#"{"type":"unread","user":"bob","id":"annual"}"#,
            &ann()
        ));
        assert!(json_mentions(b"\xff not json: ann", &ann()));
    }

    #[test]
    fn the_pseudonym_doesnt_hold_the_name() {
        let shown = pseudonym(&ann());
        // printf ann | sha256sum
        assert_eq!(shown, "account sha256:49915e0d7d4b402e");
        assert!(!mentions(&shown, &ann()));
    }
}
