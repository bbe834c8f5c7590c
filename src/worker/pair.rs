//! The pair of a call: MsgSeq and MsgRandom, derived so that it is the same in each repeat and shared by no two calls.

use sha2::{Digest, Sha256};

use crate::{
    domain::{AppName, JobId, message::Message},
    store::CallPair,
};

/// Keeps these derivations apart from any other use of SHA-256 over such strings.
const DOMAIN: &[u8] = b"im-dispatcher/pair/1";

/// The pair of a call, from its app, its job, its part, its first recipient and its generation.
///
/// What the job's message names is taken from there: MsgSeq always, since it orders messages; MsgRandom for the job's
/// first call only, since no two calls may share a pair.
pub(super) fn derive(
    app: &AppName,
    job: &JobId,
    part: i32,
    first: &str,
    generation: i32,
    message: &Message,
) -> CallPair {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    for field in [app.as_str(), job.as_str(), first] {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    hash.update(part.to_be_bytes());
    hash.update(generation.to_be_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let word = |at: usize| u32::from_be_bytes([hash[at], hash[at + 1], hash[at + 2], hash[at + 3]]);
    let own_random = message.random.filter(|_| part == 0 && generation == 0);
    CallPair {
        seq: message.seq.unwrap_or(word(0)),
        random: own_random.unwrap_or(word(4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(job: &str, part: i32, first: &str, generation: i32) -> CallPair {
        derive(
            &AppName::default_app(),
            &JobId::parse(job).unwrap(),
            part,
            first,
            generation,
            &Message::from_text("hi"),
        )
    }

    #[test]
    fn the_derivation_is_pinned_since_repeats_after_an_upgrade_must_be_the_same() {
        assert_eq!(pair("order-1", 0, "alice", 0), pair("order-1", 0, "alice", 0));
        let CallPair { seq, random } = pair("order-1", 0, "alice", 0);
        // SHA-256 of the fields as documented, computed by another program.
        assert_eq!((seq, random), (2_342_086_906, 1_786_966_646));
    }

    #[test]
    fn another_job_part_recipient_or_generation_gets_another_pair() {
        let base = pair("order-1", 0, "alice", 0);
        for other in [
            pair("order-2", 0, "alice", 0),
            pair("order-1", 1, "alice", 0),
            pair("order-1", 0, "bob", 0),
            pair("order-1", 0, "alice", 1),
            pair("order-1a", 0, "lice", 0),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn the_messages_own_seq_holds_for_every_call_and_its_random_for_the_first() {
        let message = Message {
            seq: Some(7),
            random: Some(9),
            ..Message::from_text("hi")
        };
        let call = |part, generation| {
            derive(
                &AppName::default_app(),
                &JobId::parse("j").unwrap(),
                part,
                "a",
                generation,
                &message,
            )
        };
        assert_eq!(call(0, 0), CallPair { seq: 7, random: 9 });
        assert_eq!(call(1, 0).seq, 7);
        assert_ne!(call(1, 0).random, 9);
        assert_ne!(call(0, 1).random, 9);
    }
}
