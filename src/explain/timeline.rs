//! What happened to a job, in order.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Entry, Event, waiting::clock};
use crate::{
    domain::{MessageState, Owner, job::JobType, status::JobState},
    store::{AttemptFact, CallFact, JobFacts, MessageFact, RevocationFact, RevocationTarget},
};

/// The class under which `attempts` keeps what the history said.
const RECONCILED: &str = "reconciled";

pub(super) fn of(facts: &JobFacts, state: JobState) -> Vec<Entry> {
    let mut entries = vec![received(facts)];
    if let Some(revocation) = &facts.revocation {
        entries.push(own_tombstone(revocation));
    }
    entries.extend(facts.tombstones.iter().map(|tombstone| covering(facts, tombstone)));
    entries.extend(facts.calls.iter().map(called));
    entries.extend(facts.attempts.iter().map(attempt));
    match &facts.message {
        Some(message) => of_message(facts, message, &mut entries),
        None => entries.extend(ended(facts, state)),
    }
    for key in &facts.keys {
        let how = if key.found {
            "found in the history"
        } else {
            "answered late"
        };
        let undone = key
            .revoked_at
            .map_or(String::new(), |at| format!("; revoked at {}", clock(at)));
        let text = format!(
            "a further MsgKey {} was {how}: the message was sent twice{undone}",
            key.msg_key
        );
        entries.push(Entry::new(Some(key.at), Event::FurtherKey, text));
    }
    for row in &facts.outbox {
        let what = if row.letter { "dead letter" } else { "event" };
        let text = format!("the {what} {} is written and waits to be published", row.what);
        entries.push(Entry::new(Some(row.created_at), Event::Unpublished, text));
    }
    // Stable: what has no time stays behind, in the order of telling.
    entries.sort_by_key(|entry| entry.at.unwrap_or(DateTime::<Utc>::MAX_UTC));
    entries
}

fn received(facts: &JobFacts) -> Entry {
    let mut clauses = vec![match &facts.queue {
        Some(queue) => format!("received from the queue {queue}"),
        None => format!("received in the lane {}", facts.lane),
    }];
    clauses.push(match facts.owner {
        Owner::Queue => "its delivery owns it".to_owned(),
        Owner::Table => "the table owns it".to_owned(),
    });
    clauses.extend(facts.send_at.map(|at| format!("not to be sent before {}", clock(at))));
    clauses.extend(facts.expires_at.map(|at| format!("not to be sent after {}", clock(at))));
    if facts.online_only {
        clauses.push("for those online only (life_time 0), so no history keeps it".to_owned());
    }
    Entry::new(Some(facts.created_at), Event::Received, clauses.join("; "))
}

fn of_message(facts: &JobFacts, message: &MessageFact, entries: &mut Vec<Entry>) {
    if message.generation > 0 {
        let text = format!(
            "tried again as generation {}: by `retry` or a replayed dead letter",
            message.generation
        );
        entries.push(Entry::new(message.first_call_at, Event::Retried, text));
    }
    // Batch calls tell their own claims; after a shared one a send may have been tried alone.
    let shared = facts.calls.iter().rfind(|call| call.shared);
    let own = match shared {
        Some(call) => message.last_call_at.filter(|last| is_another(call.last_call_at, *last)),
        None => message.first_call_at.filter(|_| facts.calls.is_empty()),
    };
    if let Some(at) = own {
        let pair = message.pair.map_or(String::new(), |(seq, random)| {
            format!(", MsgSeq {seq}, MsgRandom {random}")
        });
        entries.push(Entry::new(
            Some(at),
            Event::Claimed,
            format!("claimed for a call{pair}"),
        ));
        if let Some(last) = message.last_call_at.filter(|last| is_another(at, *last)) {
            let text = format!("claimed again; {} calls have been made in all", message.attempts);
            entries.push(Entry::new(Some(last), Event::Claimed, text));
        }
    }
    entries.extend(outcome(facts, message));
    if message.state == MessageState::Revoked {
        let by = message.revoke_id.as_deref().unwrap_or("none");
        let text = format!("revoked by job {by}");
        entries.push(Entry::new(message.revoked_at, Event::Revoked, text));
    } else if message.revoke_state == 3 {
        let error = message.revoke_error.as_deref().unwrap_or_default();
        let code = error.split(": ").next().unwrap_or_default().to_owned();
        let text = format!("could not be revoked: {error}");
        entries.push(Entry::new(None, Event::Revoked, text).with_code(code));
    }
}

fn outcome(facts: &JobFacts, message: &MessageFact) -> Option<Entry> {
    let verb = if facts.job_type == JobType::Import {
        "imported"
    } else {
        "sent"
    };
    // No table keeps when a recipient failed: not before its last call.
    let times = facts.attempts.iter().map(|attempt| attempt.at);
    let last = times
        .chain(facts.calls.iter().map(|call| call.last_call_at))
        .chain(message.last_call_at)
        .max();
    Some(match message.state {
        MessageState::Pending | MessageState::Calling | MessageState::Doubt => return None,
        MessageState::Sent | MessageState::Revoked => {
            let key = message.msg_key.as_deref().unwrap_or("none");
            let text = format!("{verb} from {} to {}, MsgKey {key}", message.from, message.to);
            Entry::new(message.sent_at, Event::Outcome, text)
        }
        MessageState::Cancelled => {
            let by = message.revoke_id.as_deref().unwrap_or("none");
            Entry::new(
                None,
                Event::Outcome,
                format!("cancelled: revoked by job {by} before it was sent"),
            )
        }
        MessageState::Expired => Entry::new(
            facts.expires_at,
            Event::Outcome,
            "expired: its time was over before it was sent",
        ),
        state @ (MessageState::Failed | MessageState::Unknown | MessageState::Suppressed) => {
            let word = state.as_str();
            match &message.error {
                Some(error) => {
                    Entry::new(last, Event::Outcome, format!("{word}: {}", error.message)).with_code(error.code.clone())
                }
                None => Entry::new(last, Event::Outcome, word),
            }
        }
    })
}

/// Whether the last claim is another than the first. One statement writes both times of a first claim, some microseconds
/// apart; a second claim comes after a call.
fn is_another(first: DateTime<Utc>, last: DateTime<Utc>) -> bool {
    last - first >= TimeDelta::milliseconds(1)
}

/// The end of a job that is told as a whole.
fn ended(facts: &JobFacts, state: JobState) -> Option<Entry> {
    if state == JobState::Pending {
        return None;
    }
    let last = facts.attempts.iter().map(|attempt| attempt.at).max();
    Some(match &facts.error {
        Some(error) => {
            Entry::new(last, Event::Outcome, format!("{state}: {}", error.message)).with_code(error.code.clone())
        }
        None => Entry::new(None, Event::Outcome, format!("nothing is pending: {state}")),
    })
}

fn called(call: &CallFact) -> Entry {
    let again = if is_another(call.first_call_at, call.last_call_at) {
        format!("; again at {}", clock(call.last_call_at))
    } else {
        String::new()
    };
    if call.shared {
        let text = format!(
            "claimed for a call that it shares with other sends of the same content (coalesce): {} recipients, MsgSeq {}, \
             MsgRandom {}",
            call.members, call.seq, call.random
        );
        return Entry::new(Some(call.first_call_at), Event::Called, text);
    }
    let text = format!(
        "claimed for a batch call: part {}, generation {}, {} recipients, MsgSeq {}, MsgRandom {}{again}",
        call.part, call.generation, call.members, call.seq, call.random
    );
    Entry::new(Some(call.first_call_at), Event::Called, text)
}

fn attempt(fact: &AttemptFact) -> Entry {
    let told = fact.message.as_deref().unwrap_or_default();
    if fact.class == RECONCILED {
        let text = format!("the IM history was asked: {told}");
        return Entry::new(Some(fact.at), Event::Reconciled, text).with_code(fact.code.clone());
    }
    let command = fact.command.map_or("a call", |command| command.as_str());
    let follows = match fact.class.as_str() {
        "ambiguous" => "; whether it was carried out is not known, so the history is asked",
        "transient" => "; surely not carried out, tried again unless the attempts are used up",
        "throttled" => "; the service asked for less, the attempt doesn't count",
        "auth" => "; a fault of the app's credentials: the app pauses, the attempt doesn't count",
        "already_done" => "; it had been done before, which is a success",
        _ => "; a definite refusal, not tried again",
    };
    let support = fact
        .url_random
        .map_or(String::new(), |random| format!(" (random {random})"));
    let text = format!("attempt {}, {command}: {told}{support}{follows}", fact.attempt);
    Entry::new(Some(fact.at), Event::Attempt, text).with_code(fact.code.clone())
}

fn own_tombstone(revocation: &RevocationFact) -> Entry {
    let what = match &revocation.target {
        RevocationTarget::Job(job, None) => format!("every message of job {job}"),
        RevocationTarget::Job(job, Some(some)) => format!("the messages of job {job} to {some} recipients"),
        RevocationTarget::Group(group) => match revocation.expires_at {
            Some(until) => format!(
                "the jobs of group {group}, also those that arrive until {}",
                clock(until)
            ),
            None => format!("the jobs of group {group}"),
        },
        RevocationTarget::Message { from, to, msg_key } => format!("the message {msg_key} from {from} to {to}"),
    };
    let how_far = if revocation.fanned_out {
        "; spread over all of them"
    } else {
        "; not yet spread over all of them"
    };
    let lifted = revocation
        .lifted_at
        .map_or(String::new(), |at| format!("; lifted at {}", clock(at)));
    let text = format!("in force for {what}{how_far}{lifted}");
    Entry::new(Some(revocation.created_at), Event::Revocation, text)
}

fn covering(facts: &JobFacts, tombstone: &RevocationFact) -> Entry {
    let what = match &tombstone.target {
        RevocationTarget::Job(_, None) => "the job".to_owned(),
        RevocationTarget::Job(_, Some(some)) => format!("{some} recipients of the job"),
        RevocationTarget::Group(group) => format!("the group {group}"),
        RevocationTarget::Message { msg_key, .. } => format!("the message {msg_key}"),
    };
    let lifted = match (tombstone.lifted_at, tombstone.expires_at) {
        (Some(at), _) => format!("; lifted at {}", clock(at)),
        (None, Some(at)) if at < facts.created_at => format!("; over since {}", clock(at)),
        _ => String::new(),
    };
    let text = format!("job {} revokes {what}{lifted}", tombstone.id);
    Entry::new(Some(tombstone.created_at), Event::Revocation, text)
}
