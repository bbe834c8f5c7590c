//! The dead queue, for its operator: look, replay, discard.
//!
//! Letters are read with `basic.get` and stay the queue's until they are acknowledged; whatever is not, goes back when
//! the channel closes. So a run that is cut off at any point loses nothing: at worst a job was replayed whose letter is
//! still there, and its `x-im-replay` header tells the worker that it is the same letter. Letters that come back lose
//! their place in the queue.

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use lapin::{
    Channel,
    message::BasicGetMessage,
    options::{BasicAckOptions, BasicGetOptions},
    types::{AMQPValue, FieldTable},
};
use sha2::{Digest, Sha256};
use tokio::time;

use super::{
    Broker, BrokerError, Confirmed, Properties, PublishError, link::Link, messages::header, topology::passive,
    topology::short,
};
use crate::domain::Lane;

/// How long one letter may take to be read or acknowledged: what was asked just as the connection went gets no answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long letters that were only looked at may take to be back in their queue, and how often to look.
const BACK_TIMEOUT: Duration = Duration::from_secs(1);
const BACK_POLL: Duration = Duration::from_millis(5);

/// A dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Its own name: `x-im-letter`, or made from its content where the broker did the dead-lettering.
    pub letter_id: String,
    /// The job's id, from `message_id` or the body; `None` where neither has one.
    pub job_id: Option<String>,
    /// The code word. Where the broker did the dead-lettering: `broker-` and its reason (`broker-expired`,
    /// `broker-delivery_limit`, …), and `unrouted` for a routing key that no lane has.
    pub code: String,
    /// Why, as a sentence.
    pub sentence: String,
    /// The queue that it came from, if that is known.
    pub queue: Option<String>,
    /// How many attempts were made.
    pub attempts: u32,
    /// Which generation of the job it was.
    pub generation: u32,
    /// What the producer sent.
    pub body: Bytes,
    /// With what properties, and the letter's headers.
    pub properties: Properties,
}

/// Which letters are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Every one that was there at the start.
    All,
    /// Those of one job.
    Job(String),
    /// One by its own name.
    Letter(String),
    /// Those with this code word.
    Code(String),
}

/// As people read it, in the audit log for instance.
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all letters"),
            Self::Job(id) => write!(f, "letters of job {id}"),
            Self::Letter(name) => write!(f, "letter {name}"),
            Self::Code(code) => write!(f, "letters with code {code}"),
        }
    }
}

impl Selection {
    fn matches(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::All => true,
            Self::Job(id) => letter.job_id.as_deref() == Some(id),
            Self::Letter(id) => letter.letter_id == *id,
            Self::Code(code) => letter.code == *code,
        }
    }
}

/// What is done with each selected letter.
#[derive(Debug, Clone, Copy)]
enum Act {
    Replay(Option<Lane>),
    Discard,
}

/// What a run over the dead queue did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterReport {
    /// Letters that were looked at.
    pub seen: u64,
    /// Letters that the selection meant.
    pub matched: u64,
    /// Of those, the ones that were replayed or discarded.
    pub done: u64,
    /// Letters that are still there, by name, with the reason.
    pub failed: Vec<(String, String)>,
}

impl DeadLetterReport {
    /// As a sentence's beginning says it: how many of how many, and what is left.
    pub fn told(&self) -> String {
        let (done, matched) = (self.done, self.matched);
        match self.failed.len() {
            0 => format!("{done} of {matched} letters"),
            left => format!("{done} of {matched} letters, {left} are still there"),
        }
    }
}

/// The dead queue of a broker's namespace.
#[derive(Clone)]
pub struct DeadLetters {
    broker: Broker,
}

impl DeadLetters {
    pub(super) fn new(broker: Broker) -> Self {
        Self { broker }
    }

    /// Up to `limit` letters, the oldest first; all of them stay.
    pub async fn peek(&self, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        self.find(&Selection::All, limit).await
    }

    /// Up to `limit` letters that a selection means; all of them stay.
    pub async fn find(&self, selection: &Selection, limit: usize) -> Result<Vec<DeadLetter>, BrokerError> {
        let mut run = Run::start(&self.broker).await?;
        let mut letters = Vec::new();
        while letters.len() < limit
            && let Some((letter, _)) = run.next().await?
        {
            if selection.matches(&letter) {
                letters.push(letter);
            }
        }
        run.finish().await;
        Ok(letters)
    }

    /// Counts the letters that a selection means; all of them stay. `progress` is told after each letter.
    pub async fn count(
        &self,
        selection: &Selection,
        progress: impl Fn(&DeadLetterReport),
    ) -> Result<DeadLetterReport, BrokerError> {
        let mut run = Run::start(&self.broker).await?;
        let mut report = DeadLetterReport::default();
        while let Some((letter, _)) = run.next().await? {
            report.seen += 1;
            report.matched += u64::from(selection.matches(&letter));
            progress(&report);
        }
        run.finish().await;
        Ok(report)
    }

    /// Puts the jobs of the selected letters back into the queues that they came from, or into one lane's. A letter is
    /// acknowledged when the broker has confirmed its job. What came by a routing key that no lane has goes to `normal`.
    pub async fn replay(&self, selection: &Selection, to: Option<Lane>) -> Result<DeadLetterReport, BrokerError> {
        self.replay_with(selection, to, |_| {}).await
    }

    /// The same; `progress` is told after each letter.
    pub async fn replay_with(
        &self,
        selection: &Selection,
        to: Option<Lane>,
        progress: impl Fn(&DeadLetterReport),
    ) -> Result<DeadLetterReport, BrokerError> {
        self.each(selection, progress, Act::Replay(to)).await
    }

    /// Drops the selected letters for good.
    pub async fn discard(&self, selection: &Selection) -> Result<DeadLetterReport, BrokerError> {
        self.discard_with(selection, |_| {}).await
    }

    /// The same; `progress` is told after each letter.
    pub async fn discard_with(
        &self,
        selection: &Selection,
        progress: impl Fn(&DeadLetterReport),
    ) -> Result<DeadLetterReport, BrokerError> {
        self.each(selection, progress, Act::Discard).await
    }

    /// Publishes a letter's job into the queue that it came from, or into one lane's.
    async fn publish_again(&self, letter: &DeadLetter, to: Option<Lane>) -> Result<(), PublishError> {
        let topology = &self.broker.shared().topology;
        let own = letter
            .queue
            .as_deref()
            .and_then(|queue| Some((queue, topology.lane_of(queue)?)));
        let lane = to.or_else(|| own.map(|(_, lane)| lane)).unwrap_or(Lane::Normal);
        let common = topology.lane_queue(lane);
        let queue = match own {
            Some((queue, _)) if to.is_none() => queue,
            _ => &common,
        };
        let publisher = self.broker.publisher();
        let (id, properties, body) = (&letter.letter_id, &letter.properties, &letter.body);
        let mut confirmed = publisher.replay(queue, id, properties, body.clone()).await?;
        // An app's own queue that is no more: its lane takes the job.
        if confirmed == Confirmed::Unroutable && queue != common {
            confirmed = publisher.replay(&common, id, properties, body.clone()).await?;
        }
        match confirmed {
            Confirmed::Routed => Ok(()),
            Confirmed::Unroutable => Err(PublishError::Away("the lane's queue is missing".into())),
        }
    }

    /// Goes once over the letters that were there at the start; does something with each selected one, then
    /// acknowledges it.
    async fn each(
        &self,
        selection: &Selection,
        progress: impl Fn(&DeadLetterReport),
        act: Act,
    ) -> Result<DeadLetterReport, BrokerError> {
        let mut run = Run::start(&self.broker).await?;
        let mut report = DeadLetterReport::default();
        while let Some((letter, message)) = run.next().await? {
            report.seen += 1;
            if !selection.matches(&letter) {
                continue;
            }
            report.matched += 1;
            let acted = match act {
                Act::Replay(to) => self.publish_again(&letter, to).await,
                Act::Discard => Ok(()),
            };
            match acted {
                Ok(()) => match run.ack(&message).await {
                    Ok(()) => {
                        run.held -= 1;
                        report.done += 1;
                    }
                    Err(why) => report.failed.push((letter.letter_id, why)),
                },
                Err(error) => report.failed.push((letter.letter_id, error.to_string())),
            }
            progress(&report);
        }
        run.finish().await;
        Ok(report)
    }
}

/// One pass over the queue. It ends after as many letters as were there at its start, so letters that arrive meanwhile
/// can't keep it going; and since nothing is given back before its end, it meets none twice.
struct Run {
    link: Arc<Link>,
    channel: Channel,
    queue: String,
    /// How many are still to be looked at.
    left: u32,
    /// How many were taken out and will come back.
    held: u32,
}

impl Run {
    async fn start(broker: &Broker) -> Result<Self, BrokerError> {
        let link = broker.wait_for_link().await?;
        let (channel, queue) = (link.channel().await?, broker.shared().topology.dead_queue());
        let found = passive(&channel, &queue).await;
        let left = found
            .map_err(|source| BrokerError::Read {
                queue: queue.clone(),
                source,
            })?
            .message_count();
        Ok(Self {
            link,
            channel,
            queue,
            left,
            held: 0,
        })
    }

    async fn next(&mut self) -> Result<Option<(DeadLetter, BasicGetMessage)>, BrokerError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let got = self.channel.basic_get(short(&self.queue), BasicGetOptions::default());
        let got = match time::timeout(ANSWER_TIMEOUT, got).await {
            Ok(got) => got.map_err(|source| BrokerError::Read {
                queue: self.queue.clone(),
                source,
            })?,
            Err(_) => {
                return Err(BrokerError::Timeout {
                    what: format!("read queue {}", self.queue),
                });
            }
        };
        self.held += u32::from(got.is_some());
        Ok(got.map(|mut message| {
            let body = Bytes::from(std::mem::take(&mut message.delivery.data));
            let properties = std::mem::take(&mut message.delivery.properties);
            let (properties, _) = Properties::from_delivery(properties);
            let routing_key = message.delivery.routing_key.as_str().to_owned();
            (letter(properties, body, &self.queue, &routing_key), message)
        }))
    }

    /// Takes a letter out for good; the error says why it may come back.
    async fn ack(&self, message: &BasicGetMessage) -> Result<(), String> {
        match time::timeout(ANSWER_TIMEOUT, message.acker.ack(BasicAckOptions::default())).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err("its channel closed before the ack".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("its ack could not be sent in time".to_owned()),
        }
    }

    /// Gives back what was not acknowledged, and waits until it is back: a quorum queue takes its time, and whoever
    /// counts or replays next would miss what he has just been shown. Not for ever, since others may take letters too.
    async fn finish(self) {
        super::link::close_channel(&self.channel).await;
        let deadline = time::Instant::now() + BACK_TIMEOUT;
        let Ok(channel) = self.link.channel().await else { return };
        while let Ok(found) = passive(&channel, &self.queue).await
            && found.message_count() < self.held
            && time::Instant::now() < deadline
        {
            time::sleep(BACK_POLL).await;
        }
        super::link::close_channel(&channel).await;
    }
}

/// Reads a letter, ours or one that the broker dead-lettered or could not route.
fn letter(properties: Properties, body: Bytes, dead_queue: &str, routing_key: &str) -> DeadLetter {
    let number = |name| {
        properties
            .header_u64(name)
            .and_then(|n| u32::try_from(n).ok())
            .unwrap_or(0)
    };
    let death = first_death(&properties);
    let (code, sentence, queue) = match (properties.header(header::ERROR_CODE), death) {
        (Some(code), _) => (
            code,
            properties.header(header::ERROR).unwrap_or_default(),
            properties.header(header::QUEUE),
        ),
        (None, Some((reason, queue))) => {
            let sentence = format!("RabbitMQ dead-lettered it from queue {queue}: {reason}");
            (format!("broker-{reason}"), sentence, Some(queue))
        }
        (None, None) if routing_key != dead_queue => {
            let sentence = format!("published with routing key {routing_key:?}, which no lane has");
            ("unrouted".to_owned(), sentence, None)
        }
        (None, None) => (
            "unknown".to_owned(),
            "put here by somebody else, without a reason".to_owned(),
            None,
        ),
    };
    DeadLetter {
        letter_id: properties
            .header(header::LETTER)
            .unwrap_or_else(|| made_up_id(&properties, &body)),
        job_id: properties.message_id().map(str::to_owned).or_else(|| id_in(&body)),
        code,
        sentence,
        queue,
        attempts: number(header::ATTEMPTS),
        generation: number(header::GENERATION),
        body,
        properties,
    }
}

/// Reason and queue of the latest death in `x-death`, which RabbitMQ puts first.
fn first_death(properties: &Properties) -> Option<(String, String)> {
    let AMQPValue::FieldArray(deaths) = properties.raw().headers().as_ref()?.inner().get("x-death")? else {
        return None;
    };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else {
        return None;
    };
    let text = |table: &FieldTable, key: &str| match table.inner().get(key) {
        Some(AMQPValue::LongString(value)) => Some(value.to_string()),
        _ => None,
    };
    Some((text(death, "reason")?, text(death, "queue")?))
}

/// A name that is the same each time the letter is read.
fn made_up_id(properties: &Properties, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(properties.to_bytes());
    hash.update(body);
    format!("x-{}", hex::encode(&hash.finalize()[..12]))
}

/// The `id` of a body that is a JSON object.
fn id_in(body: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Id {
        id: Option<String>,
    }
    serde_json::from_slice::<Id>(body).ok()?.id
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(properties: Properties, routing_key: &str) -> DeadLetter {
        letter(
            properties,
            Bytes::from_static(br#"{"id":"job-7"}"#),
            "im.jobs.dead",
            routing_key,
        )
    }

    #[test]
    fn a_letter_of_ours_says_its_own_reason() {
        let properties = Properties::new()
            .with_header(header::ERROR_CODE, "im-90001")
            .with_header(header::ERROR, "the text is too long")
            .with_header(header::QUEUE, "im.jobs.bulk")
            .with_header(header::LETTER, "l-1")
            .with_header_i64(header::ATTEMPTS, 4);
        let letter = read(properties, "im.jobs.dead");
        assert_eq!((letter.code.as_str(), letter.attempts), ("im-90001", 4));
        assert_eq!(
            (letter.letter_id.as_str(), letter.job_id.as_deref()),
            ("l-1", Some("job-7"))
        );
        assert_eq!(letter.queue.as_deref(), Some("im.jobs.bulk"));
    }

    #[test]
    fn a_letter_of_the_brokers_is_read_from_x_death_and_has_a_stable_name() {
        let mut death = FieldTable::default();
        death.insert("reason".into(), AMQPValue::LongString("expired".into()));
        death.insert("queue".into(), AMQPValue::LongString("im.jobs.high".into()));
        let mut table = FieldTable::default();
        table.insert(
            "x-death".into(),
            AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()),
        );
        let properties = Properties::from(lapin::BasicProperties::default().with_headers(table));
        let letter = read(properties.clone(), "im.jobs.dead");
        assert_eq!(
            (letter.code.as_str(), letter.queue.as_deref()),
            ("broker-expired", Some("im.jobs.high"))
        );
        assert_eq!(letter.letter_id, read(properties, "im.jobs.dead").letter_id);
    }

    #[test]
    fn a_mistyped_lane_is_told_from_a_stranger() {
        let unrouted = read(Properties::new(), "hihg");
        assert_eq!(unrouted.code, "unrouted");
        assert!(unrouted.sentence.contains("hihg"));
        assert_eq!(read(Properties::new(), "im.jobs.dead").code, "unknown");
    }
}
