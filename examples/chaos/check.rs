//! What is wrong? Compares what was published with the records, with what the service has, with the events and with the
//! dead letters.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
};

use im_dispatcher::{
    domain::MessageState,
    simulator::{SimMessage, Simulator},
};
use sqlx::{PgPool, Row};

use crate::{
    events::Events,
    jobs::{Expected, Kind, Ledger, Target},
    settle::Letter,
};

/// What can be wrong, in the order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A confirmed job without record or letter, a recipient without an end, or "sent" without a message.
    Lost,
    /// A recipient has one message more than once.
    SentTwice,
    /// The end of a message isn't known, or was not found out.
    InDoubt,
    /// An end without its event.
    EventMissing,
    /// One end under several event ids.
    EventUnstable,
    /// Events that tell an end which the record doesn't.
    EventWrong,
    /// A dead letter without word or sentence.
    LetterWithoutReason,
    /// A dead letter of a job that has none, or of nothing that was published.
    LetterUnexpected,
    /// A job that failed as a whole, without its letter.
    LetterMissing,
    /// Revoked, but the service shows it unrevoked.
    RevokedButThere,
    /// A record whose MsgKey the service doesn't have for it.
    KeyNotTheServices,
    /// Failed, cancelled or expired without a cause, or although the service has it.
    WrongEnd,
}

impl Fault {
    /// All of them.
    pub(crate) const ALL: [Self; 12] = [
        Self::Lost,
        Self::SentTwice,
        Self::InDoubt,
        Self::EventMissing,
        Self::EventUnstable,
        Self::EventWrong,
        Self::LetterWithoutReason,
        Self::LetterUnexpected,
        Self::LetterMissing,
        Self::RevokedButThere,
        Self::KeyNotTheServices,
        Self::WrongEnd,
    ];

    /// Its name in the table and in the JSON.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::SentTwice => "sent twice",
            Self::InDoubt => "in doubt",
            Self::EventMissing => "events missing",
            Self::EventUnstable => "events without a stable id",
            Self::EventWrong => "events that the record contradicts",
            Self::LetterWithoutReason => "dead letters without reason",
            Self::LetterUnexpected => "dead letters unexpected",
            Self::LetterMissing => "dead letters missing",
            Self::RevokedButThere => "revoked but still there",
            Self::KeyNotTheServices => "records whose MsgKey isn't the service's",
            Self::WrongEnd => "ended wrongly",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub(crate) struct Anomaly {
    /// What.
    pub(crate) fault: Fault,
    /// The job.
    pub(crate) job: String,
    /// Whatever helps to find the cause.
    pub(crate) evidence: String,
}

/// What the check found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Verdict {
    /// Jobs by outcome.
    pub(crate) jobs: BTreeMap<String, u64>,
    /// Recipients by state.
    pub(crate) recipients: BTreeMap<&'static str, u64>,
    /// Messages at the service.
    pub(crate) delivered: u64,
    /// Revocations that were published.
    pub(crate) revocations: u64,
    /// Calls that reconciliation found carried out, and found missing.
    pub(crate) reconciled: BTreeMap<String, i64>,
    /// Events, and different ones.
    pub(crate) events: (u64, usize),
    /// Dead letters by their word.
    pub(crate) letters: BTreeMap<String, u64>,
    /// Publications, and different ids.
    pub(crate) published: (u64, usize),
    /// Everything that is wrong.
    pub(crate) anomalies: Vec<Anomaly>,
}

impl Verdict {
    /// How often something is wrong.
    pub(crate) fn count(&self, fault: Fault) -> usize {
        self.anomalies.iter().filter(|anomaly| anomaly.fault == fault).count()
    }

    fn add(&mut self, fault: Fault, job: &str, evidence: String) {
        self.anomalies.push(Anomaly {
            fault,
            job: job.to_owned(),
            evidence,
        });
    }
}

/// A message's record.
#[derive(Debug, Clone)]
struct Record {
    to: String,
    state: MessageState,
    attempts: i32,
    key: Option<String>,
    error: Option<String>,
    revoke_id: Option<String>,
    revoke_state: i16,
    idx: i32,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "#{} {} after {} attempts, key {:?}, error {:?}, revoked by {:?} ({})",
            self.idx,
            self.state.as_str(),
            self.attempts,
            self.key,
            self.error,
            self.revoke_id,
            self.revoke_state
        )
    }
}

/// A job with everything that is known of it.
struct Case<'a> {
    id: &'a str,
    job: &'a Expected,
    records: &'a [Record],
    /// What the service has, by recipient.
    service: HashMap<&'a str, Vec<&'a SimMessage>>,
    /// Recipients that a revocation covers.
    covered: BTreeSet<&'a str>,
    letters: Vec<&'a Letter>,
}

/// What a job's messages say.
fn said<'a>(id: &'a str, job: &'a Expected) -> &'a str {
    job.text.as_deref().unwrap_or(id)
}

/// Compares everything.
pub(crate) async fn check(
    pool: &PgPool,
    ledger: &Ledger,
    events: &Events,
    simulator: &Simulator,
    letters: &[Letter],
) -> anyhow::Result<Verdict> {
    let (jobs, revocations) = (ledger.jobs(), ledger.revocations());
    let records = records(pool).await?;
    let known: BTreeSet<String> = sqlx::query_scalar("SELECT id FROM jobs")
        .fetch_all(pool)
        .await?
        .into_iter()
        .collect();
    let messages = simulator.messages();
    let told = events.told();
    let mut verdict = Verdict {
        delivered: messages.iter().filter(|message| !message.imported).count() as u64,
        revocations: revocations.len() as u64,
        events: events.count(),
        published: ledger.published(),
        reconciled: reconciled(pool).await?,
        ..Verdict::default()
    };

    let mut service: HashMap<&str, Vec<&SimMessage>> = HashMap::new();
    for message in &messages {
        service.entry(message.text.as_str()).or_default().push(message);
    }
    let texts: BTreeSet<&str> = jobs.iter().map(|(id, job)| said(id, job)).collect();
    for text in service.keys().filter(|text| !texts.contains(**text)) {
        // Its publication was never confirmed, which can't be, since everything is published until it is.
        verdict.add(Fault::WrongEnd, text, "at the service, but never published".to_owned());
    }
    for id in revocations.keys().filter(|id| !known.contains(*id)) {
        verdict.add(Fault::Lost, id, "a revocation without a record".to_owned());
    }
    check_letters(&jobs, letters, &mut verdict);

    let none = Vec::new();
    for (id, job) in &jobs {
        let mut by_recipient: HashMap<&str, Vec<&SimMessage>> = HashMap::new();
        for message in service.get(said(id, job)).into_iter().flatten() {
            // What a shared text says to others is others' business.
            if job.text.is_none() || job.to.contains(&message.recipient) {
                by_recipient.entry(&message.recipient).or_default().push(message);
            }
        }
        let case = Case {
            id,
            job,
            records: records.get(id).unwrap_or(&none),
            service: by_recipient,
            covered: covered(id, job, &revocations),
            letters: letters
                .iter()
                .filter(|letter| letter.body.contains(id.as_str()))
                .collect(),
        };
        case.check(known.contains(id), &told, &mut verdict);
    }
    Ok(verdict)
}

async fn records(pool: &PgPool) -> anyhow::Result<HashMap<String, Vec<Record>>> {
    let rows = sqlx::query(
        "SELECT job_id, idx, to_account, state, attempts, msg_key, error_code, revoke_id, revoke_state FROM messages
         ORDER BY job_id, idx",
    )
    .fetch_all(pool)
    .await?;
    let mut records: HashMap<String, Vec<Record>> = HashMap::new();
    for row in rows {
        let state: i16 = row.try_get("state")?;
        records.entry(row.try_get("job_id")?).or_default().push(Record {
            to: row.try_get("to_account")?,
            state: state_of(state)?,
            attempts: row.try_get("attempts")?,
            key: row.try_get("msg_key")?,
            error: row.try_get("error_code")?,
            revoke_id: row.try_get("revoke_id")?,
            revoke_state: row.try_get("revoke_state")?,
            idx: row.try_get("idx")?,
        });
    }
    Ok(records)
}

fn state_of(number: i16) -> anyhow::Result<MessageState> {
    MessageState::from_number(number).ok_or_else(|| anyhow::anyhow!("a message in state {number}"))
}

async fn reconciled(pool: &PgPool) -> anyhow::Result<BTreeMap<String, i64>> {
    let rows = sqlx::query("SELECT code, count(*) AS count FROM attempts WHERE class = 'reconciled' GROUP BY code")
        .fetch_all(pool)
        .await?;
    rows.into_iter()
        .map(|row| Ok((row.try_get("code")?, row.try_get("count")?)))
        .collect()
}

fn covered<'a>(id: &str, job: &'a Expected, revocations: &BTreeMap<String, Target>) -> BTreeSet<&'a str> {
    let mut covered = BTreeSet::new();
    for target in revocations.values() {
        match target {
            Target::Job(target) | Target::Key(target) if target == id => {
                covered.extend(job.to.iter().map(String::as_str));
            }
            Target::Group(group) if job.group.as_ref() == Some(group) => {
                covered.extend(job.to.iter().map(String::as_str));
            }
            Target::Some(target, to) if target == id => {
                covered.extend(
                    job.to
                        .iter()
                        .filter(|account| to.contains(*account))
                        .map(String::as_str),
                );
            }
            _ => {}
        }
    }
    covered
}

fn check_letters(jobs: &BTreeMap<String, Expected>, letters: &[Letter], verdict: &mut Verdict) {
    for letter in letters {
        let word = letter.word.clone().unwrap_or_default();
        *verdict.letters.entry(word.clone()).or_default() += 1;
        let id = jobs.keys().find(|id| letter.body.contains(id.as_str()));
        let name = id.cloned().unwrap_or_else(|| letter.body.chars().take(100).collect());
        if word.is_empty() || letter.sentence.as_deref().is_none_or(str::is_empty) {
            verdict.add(Fault::LetterWithoutReason, &name, format!("{letter:?}"));
        }
        let expected = id.and_then(|id| jobs.get(id)).is_some_and(|job| {
            (job.kind == Kind::Invalid && word.starts_with("invalid-"))
                || (job.may_be_unknown && word == OUTCOME_UNKNOWN)
        });
        if !expected {
            verdict.add(Fault::LetterUnexpected, &name, format!("{letter:?}"));
        }
    }
}

/// The word of a message whose end nobody can tell, where the job asked to fail then.
const OUTCOME_UNKNOWN: &str = "outcome-unknown";

type Told = HashMap<(String, String), HashMap<String, BTreeSet<String>>>;

impl Case<'_> {
    fn check(&self, known: bool, told: &Told, verdict: &mut Verdict) {
        let Self { id, job, .. } = self;
        if job.kind == Kind::Invalid {
            *verdict.jobs.entry("dead letter".to_owned()).or_default() += 1;
            if self.letters.is_empty() {
                verdict.add(Fault::Lost, id, "an invalid body without a dead letter".to_owned());
            }
            return;
        }
        if !known {
            verdict.add(Fault::Lost, id, format!("no record; letters: {:?}", self.letters));
            *verdict.jobs.entry("lost".to_owned()).or_default() += 1;
            return;
        }
        let mut states = BTreeSet::new();
        for to in &job.to {
            let mut own = self.records.iter().filter(|record| record.to == *to);
            match (own.next(), own.next()) {
                (Some(record), None) => {
                    states.insert(record.state.as_str());
                    *verdict.recipients.entry(record.state.as_str()).or_default() += 1;
                    self.check_recipient(record, told, verdict);
                }
                (first, second) => {
                    verdict.add(
                        Fault::Lost,
                        id,
                        format!("{to}: not one record but {first:?}, {second:?}"),
                    );
                }
            }
        }
        let state = if states.len() == 1 {
            states.first().copied()
        } else {
            None
        };
        *verdict.jobs.entry(state.unwrap_or("mixed").to_owned()).or_default() += 1;
    }

    fn check_recipient(&self, record: &Record, told: &Told, verdict: &mut Verdict) {
        let none = Vec::new();
        let service = self.service.get(record.to.as_str()).unwrap_or(&none);
        let ends = told.get(&(self.id.to_owned(), record.to.clone()));
        let (covered, exists) = (
            self.covered.contains(record.to.as_str()),
            !record.to.starts_with("unknown"),
        );
        let mut add = |fault, what: &str| {
            let copies: Vec<_> = service.iter().map(|m| (&m.key, m.revoked, m.at)).collect();
            let ends = ends.map(|ends| ends.iter().collect::<BTreeMap<_, _>>());
            let evidence = format!(
                "{}: {what}\n  record {record}, covered by a revocation: {covered}\n  at the service (key, revoked, at) {copies:?}\n  \
                 events {ends:?}",
                record.to
            );
            verdict.add(fault, self.id, evidence);
        };
        if service.len() > 1 {
            add(Fault::SentTwice, "more than one message");
        }
        if covered && service.iter().any(|message| !message.revoked) {
            add(Fault::RevokedButThere, "a revocation covers it");
        }
        if record
            .key
            .as_ref()
            .is_some_and(|key| !service.iter().any(|message| message.key == *key))
        {
            add(Fault::KeyNotTheServices, "the service has no such key for it");
        }
        let untold = self.job.may_be_unknown && record.error.as_deref() == Some(OUTCOME_UNKNOWN);
        match record.state {
            MessageState::Pending => add(Fault::Lost, "still pending"),
            MessageState::Calling | MessageState::Doubt | MessageState::Unknown => add(Fault::InDoubt, "in doubt"),
            MessageState::Sent | MessageState::Revoked if service.is_empty() => {
                add(Fault::Lost, "recorded as sent, and the service has nothing");
            }
            MessageState::Sent | MessageState::Revoked if record.key.is_none() => {
                add(Fault::KeyNotTheServices, "recorded as sent without a key");
            }
            MessageState::Sent | MessageState::Revoked => {}
            MessageState::Failed if untold && self.letters.is_empty() => add(Fault::LetterMissing, "failed as a whole"),
            MessageState::Failed if untold => {}
            _ if !service.is_empty() => add(Fault::WrongEnd, "recorded as not sent, and the service has it"),
            MessageState::Failed if exists => add(Fault::WrongEnd, "failed"),
            MessageState::Cancelled if !covered => add(Fault::WrongEnd, "cancelled, and nothing revokes it"),
            MessageState::Expired if !self.job.may_expire => add(Fault::WrongEnd, "expired"),
            _ => {}
        }
        if record.state == MessageState::Revoked && !covered {
            add(Fault::WrongEnd, "revoked, and nothing revokes it");
        }
        let success = if self.job.kind == Kind::Import {
            "imported"
        } else {
            "sent"
        };
        let wanted: &[&str] = match record.state {
            MessageState::Sent => &[success],
            MessageState::Revoked => &[success, "revoked"],
            MessageState::Failed => &["failed"],
            MessageState::Cancelled => &["cancelled"],
            MessageState::Expired => &["expired"],
            MessageState::Unknown => &["unknown"],
            _ => return,
        };
        for word in wanted {
            match ends.and_then(|ends| ends.get(*word)) {
                None => add(Fault::EventMissing, &format!("no event {word}")),
                Some(ids) if ids.len() > 1 => add(Fault::EventUnstable, &format!("{word} under {ids:?}")),
                Some(_) => {}
            }
        }
        for word in ends.into_iter().flat_map(HashMap::keys) {
            if !wanted.contains(&word.as_str()) {
                add(Fault::EventWrong, &format!("an event says {word}"));
            }
        }
    }
}
