//! What does a word of an attempt, a failure or a dead letter mean, and what is to be done about it?
//!
//! `docs/reference/words.md` is generated from it.

use serde::Serialize;

use crate::{
    domain::ErrorCode,
    im::{self, CodeInfo},
};

/// The meaning of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Meaning {
    /// What happened.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

/// The words that are ours; those of the service are in the table of its codes.
///
/// `http` stands for `http-STATUS`, `broker` for `broker-REASON`.
const WORDS: [(&str, Meaning); 22] = [
    word(
        "retries-exhausted",
        "every attempt that the settings allow was made",
        "look at the attempts for the cause; once it is mended, `retry --job` tries again",
    ),
    word(
        "outcome-unknown",
        "a call's answer was lost, and the history can't tell whether the message was sent",
        "ask the recipient; `retry --job J --code outcome-unknown` sends it again, at the risk of a second message",
    ),
    word(
        "capped",
        "the recipient had got as many messages as the job's or its lane's cap allows",
        "nothing; that is what the cap is for. Another job may send once the cap's period is over",
    ),
    word(
        "poison",
        "worker after worker died with the job in its hands",
        "look into the workers' logs for the crash; then replay the dead letter",
    ),
    word(
        "internal",
        "a fault of the dispatcher's own",
        "look into the worker's log, report it, then replay the dead letter",
    ),
    word(
        "invalid-json",
        "the job is not JSON",
        "mend the producer, publish it again and discard the letter",
    ),
    word(
        "invalid-job",
        "a field of the job is missing or wrong",
        "mend the producer, publish it again and discard the letter",
    ),
    word(
        "unknown-app",
        "the job names an app that is not configured",
        "configure the app, then replay the dead letter",
    ),
    word(
        "id-conflict",
        "the id belongs to another job whose content differs",
        "publish the job under an id of its own and discard the letter",
    ),
    word(
        "unrouted",
        "it was published with a routing key that no lane has",
        "publish it under `high`, `normal` or `bulk` (or `LANE.APP` where the app has queues of its own), then discard the letter",
    ),
    word(
        "broker",
        "RabbitMQ itself took it out of a queue, for the reason that the word names",
        "look for a policy or an argument of the queue that isn't ours (a time to live, a length); then replay the dead letter",
    ),
    word(
        "unknown",
        "somebody else put it into the dead queue, without a reason",
        "ask who publishes to the dead queue; replay it if it is a job, else discard it",
    ),
    word(
        "deadline",
        "the time of the claim was over before anything was written",
        "nothing; it is tried again. If it happens often, the worker lacks CPU time",
    ),
    word(
        "connect",
        "no connection to the service was made",
        "nothing; it is tried again. If it lasts, check the base URL, DNS and the firewall",
    ),
    word(
        "timeout",
        "the service didn't answer in time",
        "nothing; it is looked up and repeated. If it lasts, check the network or raise im.total_timeout",
    ),
    word(
        "connection-lost",
        "the connection broke before the whole answer was there",
        "nothing; it is looked up and repeated",
    ),
    word(
        "bad-reply",
        "the answer isn't what the API documents",
        "nothing; it is looked up and repeated. If it lasts, check what is between here and the service",
    ),
    word(
        "request",
        "the request could not be made",
        "look into the worker's log and report it",
    ),
    word("found", "the history shows the message: it had been sent", "nothing"),
    word(
        "absent",
        "neither side of the history shows the message: it had not been sent",
        "nothing; it is sent again",
    ),
    word(
        "cannot-tell",
        "the history can't tell whether the message was sent",
        "nothing; the job's on_unknown decides",
    ),
    word(
        "http",
        "the service, or something before it, answered with an HTTP status other than 2xx",
        "nothing; it is looked up and repeated. If it lasts, check the base URL and what is before the service",
    ),
];

const fn word(word: &'static str, meaning: &'static str, advice: &'static str) -> (&'static str, Meaning) {
    (word, Meaning { meaning, advice })
}

/// The meaning of a word; `None` for one that nobody has documented.
pub fn meaning(word: &str) -> Option<Meaning> {
    if let Some(code) = word.strip_prefix("im-").and_then(|code| code.parse().ok()) {
        let CodeInfo { meaning, advice, .. } = *im::lookup(ErrorCode(code))?;
        return Some(Meaning { meaning, advice });
    }
    let word = match word.split_once('-') {
        Some((family @ ("http" | "broker"), _)) => family,
        _ => word,
    };
    WORDS
        .iter()
        .find(|(known, _)| *known == word)
        .map(|(_, meaning)| *meaning)
}

/// Every word that is ours, with its meaning; `http` and `broker` stand for `http-STATUS` and `broker-REASON`.
pub fn words() -> impl Iterator<Item = (&'static str, Meaning)> {
    WORDS.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::im::ImErrorKind;

    #[test]
    fn words_of_the_service_come_from_its_table() {
        let info = meaning("im-90012").unwrap();
        assert!(info.meaning.contains("not registered"));
        assert!(info.advice.contains("import the account"));
        assert_eq!(meaning("im-1"), None);
    }

    #[test]
    fn every_kind_of_failed_call_has_a_meaning() {
        for kind in ImErrorKind::ALL
            .into_iter()
            .filter(|kind| *kind != ImErrorKind::Refused)
        {
            assert!(meaning(kind.as_str()).is_some(), "{kind}");
        }
        assert!(meaning("http-502").is_some());
    }

    #[test]
    fn every_word_of_the_contracts_dead_letters_has_a_meaning() {
        for word in [
            "invalid-json",
            "invalid-job",
            "unknown-app",
            "id-conflict",
            "retries-exhausted",
            "outcome-unknown",
            "poison",
            "internal",
            "unrouted",
            "broker-maxlen",
            "broker-delivery_limit",
        ] {
            assert!(meaning(word).is_some(), "{word}");
        }
    }
}
