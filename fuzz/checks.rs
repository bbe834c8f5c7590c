//! What must hold for any bytes at all: fuzzed here, and replayed over `corpus/` by the dispatcher's own tests.

use im_dispatcher::{
    domain::{Command, job::Job},
    im::{ImErrorKind, Pair, encode_send, reply},
};

/// The job decoder: bytes that are taken for a job are one, and the same after a way through its own encoding. The first
/// byte says whether a `message_id` came along.
pub(crate) fn job(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else {
        return;
    };
    let message_id = (first % 2 == 1).then_some("message-id");
    let job = match Job::decode(body, message_id) {
        Ok(job) => job,
        Err(error) => {
            assert!(!error.word.is_empty() && !error.sentence.is_empty());
            // It names a field, and never quotes a value: so it is no longer than any path.
            assert!(
                error.sentence.len() < 1_000,
                "a sentence of {} bytes",
                error.sentence.len()
            );
            return;
        }
    };
    job.check().expect("a decoded job has passed every check");
    let encoded = job.encode();
    let again = Job::decode(&encoded, None).expect("what it encodes itself it decodes");
    assert!(again == job, "a job differs after its own encoding");
    assert!(again.digest() == job.digest(), "equal jobs have equal digests");
    if let im_dispatcher::domain::job::Task::Send { from, to, message } = &job.task {
        let body = encode_send(from.as_ref(), to, message, Pair { seq: 1, random: 2 });
        assert!(body.len() < 64 << 10, "a body of {} bytes", body.len());
    }
}

/// The reader of replies: a success, a refusal with its code, or proof of nothing. The first byte is the command.
pub(crate) fn reply(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else {
        return;
    };
    let command = Command::ALL[usize::from(*first) % Command::ALL.len()];
    if let Err(error) = reply::check_reply(command, body) {
        let refused = error.kind == ImErrorKind::Refused;
        assert!(refused == error.code.is_some(), "a code belongs to a refusal");
        assert!(error.code.is_none_or(|code| code.0 != 0), "code 0 is no refusal");
    }
}

/// The reader of the roaming history, page by page, and what is asked of its messages.
pub(crate) fn roaming(bytes: &[u8]) {
    let Ok(page) = reply::read_page(bytes) else { return };
    for message in &page.messages {
        let own = message
            .seq
            .zip(message.random)
            .map(|(seq, random)| Pair { seq, random });
        assert!(
            own.is_none_or(|pair| message.has_pair(pair)),
            "a message has its own pair"
        );
        let flagged = message.flags.is_some_and(|flags| flags & 8 != 0);
        assert!(message.is_revoked() == flagged);
    }
    assert!(page.messages.len() <= bytes.len(), "a message takes bytes");
}
