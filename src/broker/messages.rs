//! What the dispatcher publishes: jobs, events, dead letters, replays, in the contract's form.
//!
//! Knows the names of exchanges and headers; not when something is to be published, nor what a job or event says.

use bytes::Bytes;

use super::{Confirmed, Properties, Publication, PublishError, Publisher};
use crate::domain::{AppName, Lane};

/// The media type of an event (CloudEvents 1.0, JSON event format, structured mode).
pub const EVENT_CONTENT_TYPE: &str = "application/cloudevents+json";
/// The longest `x-im-error`, in characters: it shares a frame with the producer's own headers.
const MAX_SENTENCE: usize = 1_000;

/// Header names of the contract.
pub mod header {
    /// A stable word: why the job is dead.
    pub const ERROR_CODE: &str = "x-im-error-code";
    /// The same as a sentence.
    pub const ERROR: &str = "x-im-error";
    /// The queue that the job came from.
    pub const QUEUE: &str = "x-im-queue";
    /// How many attempts were made.
    pub const ATTEMPTS: &str = "x-im-attempts";
    /// The letter's own name.
    pub const LETTER: &str = "x-im-letter";
    /// Which generation of the job it was.
    pub const GENERATION: &str = "x-im-generation";
    /// On a replayed job: the letter that it was.
    pub const REPLAY: &str = "x-im-replay";
    /// On a letter whose headers did not fit: how many of the producer's were left out.
    pub const HEADERS_LEFT_OUT: &str = "x-im-headers-left-out";
}

/// A job that can't be carried out, on its way to the dead queue.
#[derive(Debug, Clone)]
pub struct Letter {
    /// What the producer sent, byte for byte.
    pub body: Bytes,
    /// Its properties and headers.
    pub properties: Properties,
    /// The queue that it came from.
    pub queue: String,
    /// The code word.
    pub code: String,
    /// A sentence that says which field and why.
    pub sentence: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// Which generation of the job it was.
    pub generation: u32,
    /// The letter's own name.
    pub letter_id: String,
}

impl Publisher {
    /// Publishes a dead letter, mandatory and confirmed. Only then may the job be acknowledged.
    ///
    /// What the broker would act on (`expiration`, another login's `user_id`, `CC`) is kept as `x-im-original-…`
    /// headers: as properties it would expire the letter, close the channel, or send the job round again.
    pub async fn dead_letter(&self, letter: Letter) -> Result<(), PublishError> {
        let kept = letter.properties.for_republishing(self.shared.endpoint.user());
        let properties = letter_headers(kept.clone(), &letter);
        match self.to_dead_queue(properties, letter.body.clone()).await {
            // With our headers the producer's no longer fit a frame. The job itself matters more.
            Err(PublishError::Invalid(_)) => {
                let left_out = kept.header_names().count();
                let properties = letter_headers(kept.without_headers(|_| true), &letter);
                let left_out = i64::try_from(left_out).unwrap_or(i64::MAX);
                self.to_dead_queue(
                    properties.with_header_i64(header::HEADERS_LEFT_OUT, left_out),
                    letter.body,
                )
                .await
            }
            answer => answer,
        }
    }

    /// Publishes an event under `<job type>.<outcome>`, and a copy to the job's `reply_to` queue with its
    /// correlation id if it has one. Nobody listening is no fault. After
    /// [`super::BrokerOptions::event_timeout`] the caller gets an error and may turn to the outbox; the event's id makes
    /// a repeat harmless.
    pub async fn event(
        &self,
        routing_key: &str,
        event_id: &str,
        body: Bytes,
        reply_to: Option<(String, Option<String>)>,
    ) -> Result<(), PublishError> {
        let properties = Properties::new()
            .with_content_type(EVENT_CONTENT_TYPE)
            .with_message_id(event_id);
        let event = |exchange: String, routing_key: String, properties: Properties| {
            let publication = Publication {
                exchange,
                routing_key,
                properties,
                body: body.clone(),
                mandatory: false,
            };
            self.publish_within(publication, self.shared.options.event_timeout)
        };
        let to_all = event(
            self.shared.topology.events_exchange(),
            routing_key.to_owned(),
            properties.clone(),
        );
        let Some((queue, correlation_id)) = reply_to else {
            return to_all.await.map(|_| ());
        };
        let reply = match correlation_id {
            Some(id) => properties.with_correlation_id(&id),
            None => properties,
        };
        // Boxed: few jobs ask for a reply, and the future of each would be twice as large for it.
        let (to_all, reply) = Box::pin(futures::future::join(to_all, event(String::new(), queue, reply))).await;
        to_all.and(reply).map(|_| ())
    }

    /// Publishes a job to a lane, or to an app's own queue of the lane, mandatory and confirmed. Its id goes into
    /// `message_id` too where it fits (255 bytes); each of `headers` becomes a text header.
    pub async fn job(
        &self,
        lane: Lane,
        app: Option<&AppName>,
        id: &str,
        body: Bytes,
        headers: &[(String, String)],
    ) -> Result<Confirmed, PublishError> {
        let routing_key = app.map_or_else(|| lane.to_string(), |app| format!("{lane}.{app}"));
        let properties = Properties::new()
            .with_content_type("application/json")
            .with_message_id(id);
        let properties = headers
            .iter()
            .fold(properties, |p, (name, value)| p.with_header(name, value));
        let exchange = self.shared.topology.jobs_exchange();
        self.publish(Publication {
            exchange,
            routing_key,
            properties,
            body,
            mandatory: true,
        })
        .await
    }

    /// Publishes a letter's job to a queue again, mandatory and confirmed, marked with the letter that it was.
    pub(super) async fn replay(
        &self,
        queue: &str,
        letter_id: &str,
        properties: &Properties,
        body: Bytes,
    ) -> Result<Confirmed, PublishError> {
        let own = properties
            .for_republishing(self.shared.endpoint.user())
            .without_letter_headers();
        let properties = own.with_header(header::REPLAY, letter_id);
        let (exchange, routing_key) = (String::new(), queue.to_owned());
        self.publish(Publication {
            exchange,
            routing_key,
            properties,
            body,
            mandatory: true,
        })
        .await
    }

    async fn to_dead_queue(&self, properties: Properties, body: Bytes) -> Result<(), PublishError> {
        let (exchange, routing_key) = (String::new(), self.shared.topology.dead_queue());
        match self
            .publish(Publication {
                exchange,
                routing_key,
                properties,
                body,
                mandatory: true,
            })
            .await?
        {
            Confirmed::Routed => Ok(()),
            Confirmed::Unroutable => Err(PublishError::Away("the dead queue is missing".to_owned())),
        }
    }
}

fn letter_headers(properties: Properties, letter: &Letter) -> Properties {
    let sentence: String = letter.sentence.chars().take(MAX_SENTENCE).collect();
    // An earlier death's word and sentence must not stand beside the new one's.
    let kept = properties.without_headers(|name| name == header::HEADERS_LEFT_OUT);
    kept.with_header(header::ERROR_CODE, &letter.code)
        .with_header(header::ERROR, &sentence)
        .with_header(header::QUEUE, &letter.queue)
        .with_header_i64(header::ATTEMPTS, i64::from(letter.attempts))
        .with_header(header::LETTER, &letter.letter_id)
        .with_header_i64(header::GENERATION, i64::from(letter.generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(properties: Properties) -> Letter {
        Letter {
            body: Bytes::from_static(b"{}"),
            properties,
            queue: "im.jobs.high".into(),
            code: "invalid-job".into(),
            sentence: "é".repeat(2_000),
            attempts: 3,
            generation: 1,
            letter_id: "l-1".into(),
        }
    }

    #[test]
    fn a_letter_has_the_contracts_headers_beside_the_producers() {
        let own = Properties::new().with_message_id("job-1").with_header("tenant", "a");
        let properties = letter_headers(own.clone(), &letter(own));
        assert_eq!(properties.message_id(), Some("job-1"));
        assert_eq!(properties.header("tenant").as_deref(), Some("a"));
        assert_eq!(properties.header(header::ERROR_CODE).as_deref(), Some("invalid-job"));
        assert_eq!(properties.header(header::QUEUE).as_deref(), Some("im.jobs.high"));
        assert_eq!(properties.header_u64(header::ATTEMPTS), Some(3));
        assert_eq!(properties.header_u64(header::GENERATION), Some(1));
        assert_eq!(properties.header(header::LETTER).as_deref(), Some("l-1"));
        assert_eq!(
            properties.header(header::ERROR).map(|s| s.chars().count()),
            Some(MAX_SENTENCE)
        );
    }
}
