//! What does a job wait for, and until when?

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::{
    domain::{Command, MessageState, Owner, status::JobState},
    store::{JobFacts, MessageFact, WorkFact},
};

/// Owners that died with a row in their hands make it poison; the worker's own limit.
const POISON: u32 = 20;

/// Something that a job waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// For what, in a word.
    #[serde(rename = "for")]
    pub reason: Reason,
    /// Until when; may have passed.
    pub until: Option<DateTime<Utc>>,
    /// The same in a sentence.
    pub text: String,
    /// How many looks at the history have not seen the message; of a doubt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub looks: Option<u32>,
    /// The part of a batch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<i32>,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// Its recipients are being written.
    Loading,
    /// The time that its producer chose.
    SendAt,
    /// The opening of its send window, or its lane's.
    SendWindow,
    /// The delay after a failed attempt, or after a paused app or an open circuit.
    Retry,
    /// The next look into the IM history.
    History,
    /// A worker with room, and a slot of the budget.
    Slot,
    /// A worker has it in its hands.
    Worker,
    /// The outcome of a call.
    Outcome,
    /// A revocation to be carried out.
    Revocation,
    /// The job to be closed.
    Closing,
    /// Nothing that is on record: its work is gone.
    Nothing,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::Loading,
        Self::SendAt,
        Self::SendWindow,
        Self::Retry,
        Self::History,
        Self::Slot,
        Self::Worker,
        Self::Outcome,
        Self::Revocation,
        Self::Closing,
        Self::Nothing,
    ];
}

/// What a job waits for; what is due first first.
pub(super) fn of(facts: &JobFacts, state: JobState) -> Vec<Waiting> {
    let mut waiting: Vec<Waiting> = facts.work.iter().map(|work| of_work(facts, work)).collect();
    if facts.loading {
        waiting.push(plain(
            Reason::Loading,
            None,
            "its recipients are being written into the table",
        ));
    }
    if !waiting.is_empty() || state != JobState::Pending {
        return waiting;
    }
    waiting.push(match &facts.message {
        Some(message) if message.state != MessageState::Pending && facts.owner == Owner::Queue => call(facts, message),
        _ => plain(
            Reason::Nothing,
            None,
            "nothing is on record that would carry it on; `im-dispatcher verify` reports it as missing",
        ),
    });
    waiting
}

/// A call that a delivery's claim is about.
fn call(facts: &JobFacts, message: &MessageFact) -> Waiting {
    let text = if message.call_by.is_some_and(|by| by < facts.now) {
        "a worker claimed it for a call and has not recorded the outcome yet; if that worker died, RabbitMQ delivers the job \
         again and the history is asked"
    } else {
        "a worker is calling the service for it"
    };
    plain(Reason::Outcome, message.call_by, text)
}

fn plain(reason: Reason, until: Option<DateTime<Utc>>, text: impl Into<String>) -> Waiting {
    Waiting {
        reason,
        until,
        text: text.into(),
        looks: None,
        part: None,
    }
}

fn of_work(facts: &JobFacts, work: &WorkFact) -> Waiting {
    let mut waiting = match work.kind {
        1 | 5 => plain(Reason::Revocation, Some(work.due_at), "its message is to be revoked"),
        2 => plain(Reason::Revocation, Some(work.due_at), fan_out(facts)),
        3 => plain(
            Reason::Closing,
            Some(work.due_at),
            "every recipient has ended; the job is about to be closed",
        ),
        0 if work.command == Some(Command::GetRoamMsg) => doubt(work),
        _ => delivery(facts, work),
    };
    let mut clauses = vec![std::mem::take(&mut waiting.text)];
    let due = clock(work.due_at);
    if work.leased {
        clauses.push(format!(
            "a worker has it in its hands, and if it dies another takes it at {due}"
        ));
        if waiting.reason != Reason::History {
            waiting.reason = Reason::Worker;
        }
    } else if work.due_at < facts.now {
        clauses.push(format!(
            "it has been due since {due}: no worker had room or a slot of the budget, or its app is paused (/readyz says which)"
        ));
        if matches!(waiting.reason, Reason::SendAt | Reason::Retry | Reason::SendWindow) {
            waiting.reason = Reason::Slot;
        }
    }
    if work.takeovers > 0 {
        let times = work.takeovers;
        clauses.push(format!("{times} of {POISON} times a worker died with it in its hands"));
    }
    waiting.text = clauses.join("; ");
    if facts.calls.len() > 1 || facts.total > 500 {
        waiting.part = (work.kind == 0).then_some(work.part);
    }
    waiting
}

fn doubt(work: &WorkFact) -> Waiting {
    let seen = match (work.looks, work.looked_at) {
        (0, _) => "not asked to the end yet".to_owned(),
        (looks, Some(at)) => format!("{looks} looks didn't see it, the last at {}", clock(at)),
        (looks, None) => format!("{looks} looks didn't see it"),
    };
    Waiting {
        looks: Some(work.looks),
        ..plain(
            Reason::History,
            Some(work.due_at),
            format!(
                "a call's answer was lost, so the IM history is asked for the message on both sides: {seen}, the next look at {}. \
                 Found, it counts as sent; not seen in two looks, it is sent again, within 85 s of the first call, or \
                 once the service must have listed the last (reconcile.listed_after, 3 min, after its signature ended)",
                clock(work.due_at)
            ),
        )
    }
}

fn delivery(facts: &JobFacts, work: &WorkFact) -> Waiting {
    let until = Some(work.due_at);
    if let Some(opening) = work.opens_at {
        return window(facts, work, opening);
    }
    if work.attempts > 0 {
        let text = format!(
            "{} attempts failed; the next is due at {}",
            work.attempts,
            clock(work.due_at)
        );
        return plain(Reason::Retry, until, text);
    }
    match facts.send_at {
        Some(at) if work.due_at >= at && at > facts.created_at => {
            plain(Reason::SendAt, until, format!("it is scheduled for {}", clock(at)))
        }
        _ if facts.message.as_ref().is_some_and(|message| message.attempts > 0) => plain(
            Reason::Retry,
            until,
            format!(
                "it is tried again at {}; the last try didn't count as an attempt",
                clock(work.due_at)
            ),
        ),
        _ => plain(
            Reason::Slot,
            until,
            "it waits for a worker with room and a slot of the budget",
        ),
    }
}

/// A closed window. A job that expires before it opens waits for that.
fn window(facts: &JobFacts, work: &WorkFact, opening: DateTime<Utc>) -> Waiting {
    let mut text = format!("waiting for: send-window until {}", clock(opening));
    match facts.expires_at {
        Some(expires_at) if expires_at <= opening => {
            text = format!("{text}; it expires before that, at {}", clock(expires_at));
        }
        _ => {}
    }
    if work.attempts > 0 {
        text = format!("{text}; {} attempts failed before", work.attempts);
    }
    plain(Reason::SendWindow, Some(opening), text)
}

fn fan_out(facts: &JobFacts) -> String {
    match facts
        .revocation
        .as_ref()
        .and_then(|revocation| revocation.cursor.as_deref())
    {
        Some(cursor) => format!("it is spread over its target's messages and has come to job {cursor}"),
        None => "it is about to be spread over its target's messages".to_owned(),
    }
}

/// A time as the timeline prints it.
pub(super) fn clock(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string()
}
