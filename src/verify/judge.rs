//! What does the history say of one record? Pure rules.

use std::time::Duration;

use serde::Serialize;

use crate::{
    domain::MessageState,
    im::{HistoryMessage, Pair},
    store::ScopeRecord,
};

/// What was found of a record. Exactly one for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// In the history, once, under its key.
    Sent,
    /// Not in the history, though it is on record as sent.
    Missing,
    /// There more than once.
    SentTwice,
    /// Nobody knows whether it was sent.
    InDoubt,
    /// In the history, though it is on record as not sent.
    Unrecorded,
    /// The history could not be asked.
    Unasked,
    /// In no history by its nature.
    OnlineOnly,
    /// Older than the history.
    Beyond,
    /// The service shows the conversation to nobody.
    Refused,
    /// Under way.
    Waiting,
    /// Sent and revoked.
    Revoked,
    /// On record as revoked, and still there.
    NotRevoked,
    /// Failed, and not in the history.
    Failed,
    /// Cancelled, and not in the history.
    Cancelled,
    /// Expired, and not in the history.
    Expired,
    /// Held back by sending policy, and not in the history.
    Suppressed,
}

impl Finding {
    /// Whether its message is named in the report.
    pub const fn is_named(self) -> bool {
        matches!(
            self,
            Self::Missing | Self::SentTwice | Self::InDoubt | Self::Unrecorded | Self::Unasked | Self::NotRevoked
        )
    }
}

/// A finding with its reasons.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// What was found.
    pub finding: Finding,
    /// The keys that it is about.
    pub msg_keys: Vec<String>,
    /// Why, in a sentence.
    pub why: String,
}

/// What the history showed of a conversation.
#[derive(Debug, Clone)]
pub(super) enum Sight {
    /// These messages; whatever else it may hold is of no record that was asked about.
    Seen(Vec<HistoryMessage>),
    /// It is shown to neither side.
    Refused,
    /// It could not be asked.
    Unasked(String),
}

impl Verdict {
    pub(super) fn new(finding: Finding, msg_keys: Vec<String>, why: impl Into<String>) -> Self {
        Self {
            finding,
            msg_keys,
            why: why.into(),
        }
    }

    fn plain(finding: Finding) -> Self {
        Self::new(finding, Vec::new(), "")
    }
}

/// Whether the history has something to say of a record.
pub(super) fn asks(record: &ScopeRecord, retention: Duration) -> bool {
    let state = record.state;
    let under_way = matches!(
        state,
        MessageState::Pending | MessageState::Calling | MessageState::Doubt
    );
    !under_way && !record.online_only && !is_beyond(record, retention)
}

/// An import's own time may be older than the history, whenever it was imported.
fn is_beyond(record: &ScopeRecord, retention: Duration) -> bool {
    let age_of_message = record.msg_time.map_or(Duration::ZERO, |time| {
        let called = record.last_call.saturating_sub(time);
        Duration::from_secs(u64::try_from(called).unwrap_or(0))
    });
    record.age.saturating_add(age_of_message) > retention
}

/// Whether a message of the history is a record's: by one of its keys or by the pair of one of its calls.
pub(super) fn is_own(record: &ScopeRecord, message: &HistoryMessage) -> bool {
    let key = message.key.as_str();
    message.from.as_str() == record.from
        && message.to.as_str() == record.to
        && (record.msg_key.as_deref() == Some(key)
            || record.further_keys.iter().any(|further| further == key)
            || record
                .pairs
                .iter()
                .any(|&(seq, random)| message.has_pair(Pair { seq, random })))
}

/// Whether the history shows what it must show of a record.
pub(super) fn is_shown(record: &ScopeRecord, messages: &[HistoryMessage]) -> bool {
    record.state != MessageState::Sent || messages.iter().any(|message| is_the_recorded(record, message))
}

/// Whether it is the message that the record tells of. The service answers no key to an import.
fn is_the_recorded(record: &ScopeRecord, message: &HistoryMessage) -> bool {
    is_own(record, message) && (record.imported || record.msg_key.as_deref() == Some(message.key.as_str()))
}

/// Keys of a record's messages in the history other than the recorded one: to be looked up among other records.
pub(super) fn strangers(record: &ScopeRecord, messages: &[HistoryMessage]) -> Vec<String> {
    let others = messages
        .iter()
        .filter(|message| is_own(record, message) && record.msg_key.as_deref() != Some(message.key.as_str()));
    others.map(|message| message.key.to_string()).collect()
}

/// Judges a record. `others` are the keys among its strangers that other records own.
pub(super) fn judge(
    record: &ScopeRecord,
    sight: &Sight,
    others: &[String],
    quiet: Duration,
    retention: Duration,
) -> Verdict {
    match record.state {
        MessageState::Pending => return Verdict::plain(Finding::Waiting),
        MessageState::Calling | MessageState::Doubt if record.age <= quiet => return Verdict::plain(Finding::Waiting),
        MessageState::Calling | MessageState::Doubt => {
            let why = "a call's outcome isn't on record, and reconciliation hasn't come to its end";
            return Verdict::new(Finding::InDoubt, Vec::new(), why);
        }
        _ => {}
    }
    let seen: Vec<&HistoryMessage> = match sight {
        Sight::Seen(messages) => messages
            .iter()
            .filter(|message| is_own(record, message) && !others.iter().any(|other| *other == message.key.as_str()))
            .collect(),
        _ => Vec::new(),
    };
    let live: Vec<String> = seen
        .iter()
        .filter(|message| !message.is_revoked())
        .map(|message| message.key.to_string())
        .collect();
    if record.state == MessageState::Unknown {
        let why = match live.first() {
            Some(_) => "the record says unknown; the history shows it: it was sent",
            None => "nobody could tell whether it was sent",
        };
        return Verdict::new(Finding::InDoubt, live, why);
    }
    if let Some(twice) = twice(record, &live) {
        return twice;
    }
    if !asks(record, retention) {
        let finding = if record.online_only {
            Finding::OnlineOnly
        } else {
            Finding::Beyond
        };
        return Verdict::plain(match record.state {
            MessageState::Sent => finding,
            state => unseen(state),
        });
    }
    match (sight, record.state) {
        (Sight::Unasked(why), _) => {
            Verdict::new(Finding::Unasked, record.msg_key.iter().cloned().collect(), why.clone())
        }
        (Sight::Refused, MessageState::Sent) => Verdict::plain(Finding::Refused),
        (Sight::Seen(_), MessageState::Sent) => sent(record, &seen),
        (Sight::Seen(_), MessageState::Revoked) if !live.is_empty() => Verdict::new(
            Finding::NotRevoked,
            live,
            "the history shows it without the mark of a revoked message",
        ),
        (Sight::Seen(_), MessageState::Revoked) => Verdict::plain(Finding::Revoked),
        (Sight::Seen(_), state) if !live.is_empty() => {
            let why = format!("the record says {}, and the history shows it", state.as_str());
            Verdict::new(Finding::Unrecorded, live, why)
        }
        (Sight::Seen(_) | Sight::Refused, state) => Verdict::plain(unseen(state)),
    }
}

fn twice(record: &ScopeRecord, live: &[String]) -> Option<Verdict> {
    let mut keys = live.to_vec();
    let recorded = matches!(record.state, MessageState::Sent | MessageState::Revoked);
    if recorded {
        keys.extend(record.further_keys.iter().cloned());
    }
    if record.state == MessageState::Sent && !record.further_keys.is_empty() {
        keys.extend(record.msg_key.iter().cloned());
    }
    keys.sort_unstable();
    keys.dedup();
    (keys.len() > 1).then(|| {
        let why = format!("{} messages that have not been revoked", keys.len());
        Verdict::new(Finding::SentTwice, keys, why)
    })
}

fn sent(record: &ScopeRecord, seen: &[&HistoryMessage]) -> Verdict {
    if seen.iter().any(|message| is_the_recorded(record, message)) {
        return Verdict::plain(Finding::Sent);
    }
    let recorded = record.msg_key.iter().cloned();
    match seen.first() {
        Some(other) => Verdict::new(
            Finding::Missing,
            recorded.chain([other.key.to_string()]).collect(),
            "the history has it under another key than the record",
        ),
        None => Verdict::new(
            Finding::Missing,
            recorded.collect(),
            "the record says sent, and neither side of the history shows it",
        ),
    }
}

/// What a record is that the history shows nothing of, and need not.
const fn unseen(state: MessageState) -> Finding {
    match state {
        MessageState::Revoked => Finding::Revoked,
        MessageState::Cancelled => Finding::Cancelled,
        MessageState::Expired => Finding::Expired,
        MessageState::Suppressed => Finding::Suppressed,
        _ => Finding::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{AppName, JobId};

    const WEEK: Duration = Duration::from_hours(168);
    const QUIET: Duration = Duration::from_secs(18);

    fn record(state: MessageState) -> ScopeRecord {
        ScopeRecord {
            app: AppName::default_app(),
            job: JobId::parse("job").unwrap(),
            idx: 0,
            imported: false,
            from: "a".to_owned(),
            to: "b".to_owned(),
            state,
            pairs: vec![(1, 2)],
            msg_key: matches!(state, MessageState::Sent | MessageState::Revoked).then(|| "1_2_100".to_owned()),
            msg_time: Some(100),
            further_keys: Vec::new(),
            online_only: false,
            first_call: 100,
            last_call: 100,
            age: Duration::from_mins(1),
        }
    }

    fn message(key: &str, revoked: bool) -> HistoryMessage {
        let flags = if revoked { 8 } else { 0 };
        serde_json::from_value(serde_json::json!({
            "From_Account": "a", "To_Account": "b", "MsgKey": key, "MsgFlagBits": flags,
        }))
        .unwrap()
    }

    fn judged(record: &ScopeRecord, messages: &[(&str, bool)]) -> Finding {
        let messages = messages.iter().map(|(key, revoked)| message(key, *revoked)).collect();
        judge(record, &Sight::Seen(messages), &[], QUIET, WEEK).finding
    }

    #[test]
    fn a_sent_message_is_there_once_under_its_key_or_something_is_wrong() {
        let sent = record(MessageState::Sent);
        assert_eq!(judged(&sent, &[("1_2_100", false)]), Finding::Sent);
        assert_eq!(judged(&sent, &[]), Finding::Missing);
        assert_eq!(judged(&sent, &[("9_9_100", false)]), Finding::Missing);
        assert_eq!(
            judged(&sent, &[("1_2_101", false)]),
            Finding::Missing,
            "under another key"
        );
        assert_eq!(
            judged(&sent, &[("1_2_100", false), ("1_2_101", false)]),
            Finding::SentTwice
        );
        assert_eq!(judged(&sent, &[("1_2_100", false), ("1_2_101", true)]), Finding::Sent);
        let imported = ScopeRecord { imported: true, ..sent };
        assert_eq!(judged(&imported, &[("1_2_101", false)]), Finding::Sent);
    }

    #[test]
    fn a_further_key_on_record_is_sent_twice_even_where_the_history_is_silent() {
        let twice = ScopeRecord {
            further_keys: vec!["1_2_101".to_owned()],
            ..record(MessageState::Sent)
        };
        assert_eq!(judged(&twice, &[("1_2_100", false)]), Finding::SentTwice);
        assert_eq!(judged(&twice, &[]), Finding::SentTwice);
    }

    #[test]
    fn a_message_of_another_record_with_the_same_pair_is_no_second_one() {
        let sent = record(MessageState::Sent);
        let messages = vec![message("1_2_100", false), message("1_2_101", false)];
        assert_eq!(strangers(&sent, &messages), ["1_2_101"]);
        let sight = Sight::Seen(messages);
        let verdict = judge(&sent, &sight, &["1_2_101".to_owned()], QUIET, WEEK);
        assert_eq!(verdict.finding, Finding::Sent);
    }

    #[test]
    fn a_call_without_an_outcome_is_in_doubt_once_it_cannot_be_on_its_way() {
        for state in [MessageState::Calling, MessageState::Doubt] {
            let doubt = record(state);
            assert_eq!(judged(&doubt, &[]), Finding::InDoubt);
            let young = ScopeRecord {
                age: Duration::from_secs(1),
                ..doubt
            };
            assert_eq!(judged(&young, &[]), Finding::Waiting);
        }
        assert_eq!(
            judged(&record(MessageState::Unknown), &[("1_2_100", false)]),
            Finding::InDoubt
        );
    }

    #[test]
    fn what_was_not_sent_must_not_be_there() {
        for (state, finding) in [
            (MessageState::Failed, Finding::Failed),
            (MessageState::Cancelled, Finding::Cancelled),
            (MessageState::Expired, Finding::Expired),
            (MessageState::Suppressed, Finding::Suppressed),
        ] {
            assert_eq!(judged(&record(state), &[]), finding);
            assert_eq!(judged(&record(state), &[("1_2_100", true)]), finding);
            assert_eq!(judged(&record(state), &[("1_2_100", false)]), Finding::Unrecorded);
        }
        let revoked = record(MessageState::Revoked);
        assert_eq!(judged(&revoked, &[("1_2_100", true)]), Finding::Revoked);
        assert_eq!(judged(&revoked, &[("1_2_100", false)]), Finding::NotRevoked);
    }

    #[test]
    fn what_the_history_cannot_tell_is_neither_sent_nor_missing() {
        let online = ScopeRecord {
            online_only: true,
            ..record(MessageState::Sent)
        };
        assert_eq!(judged(&online, &[]), Finding::OnlineOnly);
        let old = ScopeRecord {
            age: WEEK + QUIET,
            ..record(MessageState::Sent)
        };
        assert_eq!(judged(&old, &[]), Finding::Beyond);
        let old_import = ScopeRecord {
            imported: true,
            msg_time: Some(100),
            last_call: 100 + 8 * 86_400,
            ..record(MessageState::Sent)
        };
        assert_eq!(judged(&old_import, &[]), Finding::Beyond);
        let sent = record(MessageState::Sent);
        let sight = Sight::Refused;
        assert_eq!(judge(&sent, &sight, &[], QUIET, WEEK).finding, Finding::Refused);
        let sight = Sight::Unasked("timeout".to_owned());
        assert_eq!(judge(&sent, &sight, &[], QUIET, WEEK).finding, Finding::Unasked);
    }
}
