//! Keeps a connection up, and what runs on it: after a restart, a cut, a closed channel, a cancelled consumer, a
//! deleted queue, and after nothing at all has moved for too long.
//!
//! lapin can recover connections by itself, but not channels or consumers, and not what it doesn't notice; so all of it
//! is rebuilt here, in one place and in one way.

use std::{sync::Arc, time::Duration};

use backoff::{ExponentialBackoff, backoff::Backoff as _};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{
    BrokerError, Delivery,
    consumer::{QueueConsumer, SessionEnd},
    link::Link,
    shared::{Shared, Side},
    watchdog,
};

/// The first pause between two attempts.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// What stayed up that long has recovered: the next failure starts with the first pause again.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);

/// What runs on a connection.
pub(super) trait Service {
    /// Which connection it is.
    const SIDE: Side;

    /// Runs until the connection is of no more use, and says why. Leaves nothing running.
    fn serve(&mut self, shared: &Arc<Shared>, link: &Arc<Link>) -> impl Future<Output = Served> + Send;
}

/// Why a service came back.
pub(super) enum Served {
    /// Shutdown, in good order.
    Stopped,
    /// The connection is gone, or must go.
    Lost(String),
}

/// Connects, declares, serves, and again, until the process stops.
pub(super) async fn keep_up<S: Service>(shared: Arc<Shared>, mut service: S) {
    let mut pauses = pauses(shared.options.max_backoff);
    let mut opened = 0_u64;
    let mut last_trouble = String::new();
    while !shared.stop.is_cancelled() {
        let trouble = match establish(&shared, S::SIDE).await {
            Ok(link) => {
                tracing::info!(side = S::SIDE.as_str(), address = %link.address(), "connected to RabbitMQ");
                shared.stats.reconnects.add(u64::from(opened > 0));
                opened += 1;
                last_trouble.clear();
                let since = Instant::now();
                let served = service.serve(&shared, &link).await;
                if since.elapsed() >= RECOVERED_AFTER {
                    pauses.reset();
                }
                match served {
                    Served::Stopped => {
                        shared.down(S::SIDE, "closed");
                        link.close().await;
                        return;
                    }
                    Served::Lost(why) => {
                        link.cut();
                        why
                    }
                }
            }
            Err(BrokerError::Stopping) => break,
            Err(error) => error.to_string(),
        };
        shared.down(S::SIDE, &trouble);
        let pause = next_pause(&mut pauses, shared.options.max_backoff);
        // The same trouble again is no news.
        if trouble != last_trouble {
            let pause_ms = pause.as_millis() as u64;
            tracing::warn!(side = S::SIDE.as_str(), %trouble, pause_ms, "RabbitMQ is away; trying again");
            last_trouble = trouble;
        }
        tokio::select! {
            () = time::sleep(pause) => {}
            () = shared.stop.cancelled() => break,
        }
    }
    shared.down(S::SIDE, "closed");
}

async fn establish(shared: &Arc<Shared>, side: Side) -> Result<Arc<Link>, BrokerError> {
    let link = Arc::new(Link::open(&shared.endpoint, side.as_str(), &shared.stop).await?);
    let notes = declare(shared, &link).await?;
    for note in &notes {
        tracing::warn!(
            side = side.as_str(),
            "RabbitMQ's topology is not as it should be: {note}"
        );
    }
    shared.up(side, &link, notes);
    Ok(link)
}

/// Declares the topology within the deadline of an attempt.
async fn declare(shared: &Shared, link: &Link) -> Result<Vec<String>, BrokerError> {
    tokio::select! {
        declared = time::timeout(shared.options.attempt_timeout, shared.topology.declare(link)) => match declared {
            Ok(notes) => notes,
            Err(_) => Err(BrokerError::Timeout { what: "declare the topology".into() }),
        },
        () = shared.stop.cancelled() => Err(BrokerError::Stopping),
    }
}

/// Declares the topology again for something that failed on a connection that is still up, after a pause.
pub(super) async fn mend(shared: &Shared, link: &Link, side: Side, failures: u32) {
    let mut pauses = pauses(shared.options.max_backoff);
    let mut pause = FIRST_BACKOFF;
    for _ in 0..failures.min(16) {
        pause = next_pause(&mut pauses, shared.options.max_backoff);
    }
    tokio::select! {
        () = time::sleep(pause) => {}
        () = shared.stop.cancelled() => return,
    }
    match declare(shared, link).await {
        Ok(notes) => shared.notes(side, notes),
        // Whoever comes next fails on the same thing and says so.
        Err(error) => tracing::debug!(%error, "the topology can't be declared again"),
    }
}

/// Failures in a row, after one more that came `lasted` after the start.
pub(super) fn count_failure(failures: u32, lasted: Duration) -> u32 {
    if lasted >= RECOVERED_AFTER {
        1
    } else {
        failures.saturating_add(1)
    }
}

fn pauses(max: Duration) -> ExponentialBackoff {
    let mut pauses = ExponentialBackoff {
        current_interval: FIRST_BACKOFF,
        initial_interval: FIRST_BACKOFF,
        multiplier: 2.0,
        max_interval: max,
        max_elapsed_time: None,
        ..ExponentialBackoff::default()
    };
    pauses.reset();
    pauses
}

/// The next pause: doubling from a tenth of a second, half of it up or down at random, never beyond `max`.
fn next_pause(pauses: &mut ExponentialBackoff, max: Duration) -> Duration {
    pauses.next_backoff().unwrap_or(max).min(max)
}

/// The consumers of all job queues.
pub(super) struct Consumers {
    idle: Vec<QueueConsumer>,
}

impl Consumers {
    pub(super) fn new(shared: &Shared, outs: &[mpsc::Sender<Delivery>; 3]) -> Self {
        let queues = shared.topology.job_queues().iter().cloned();
        Self {
            idle: queues
                .map(|q| QueueConsumer::new(shared, q.clone(), outs[q.lane.index()].clone()))
                .collect(),
        }
    }
}

impl Service for Consumers {
    const SIDE: Side = Side::Consume;

    async fn serve(&mut self, shared: &Arc<Shared>, link: &Arc<Link>) -> Served {
        let ended = CancellationToken::new();
        let watched: Vec<_> = self
            .idle
            .iter()
            .map(|c| (Arc::clone(&c.queue.name), Arc::clone(&c.progress)))
            .collect();
        let mut sessions = JoinSet::new();
        for consumer in self.idle.drain(..) {
            sessions.spawn(session(
                Arc::clone(shared),
                Arc::clone(link),
                ended.clone(),
                consumer,
                false,
            ));
        }
        let mut watchdog = std::pin::pin!(watchdog::watch(shared, link, &watched));
        let mut lost = std::pin::pin!(link.lost());
        let served = loop {
            tokio::select! {
                why = &mut lost => break Served::Lost(why),
                why = &mut watchdog => {
                    shared.stats.watchdog_resets.add(1);
                    break Served::Lost(why);
                }
                joined = sessions.join_next() => match joined {
                    None => break Served::Stopped,
                    Some(Ok((consumer, SessionEnd::Failed(why)))) => {
                        tracing::warn!(queue = %consumer.queue.name, %why, "a consumer ended; setting it up again");
                        shared.queue_idle(&consumer.queue.name, &why);
                        shared.stats.consumer_restarts.add(1);
                        sessions.spawn(session(Arc::clone(shared), Arc::clone(link), ended.clone(), consumer, true));
                    }
                    Some(Ok((consumer, SessionEnd::Stopped | SessionEnd::ConnectionLost))) => self.idle.push(consumer),
                    Some(Err(error)) => break Served::Lost(format!("a consumer's task ended: {error}")),
                },
            }
        };
        ended.cancel();
        while let Some(joined) = sessions.join_next().await {
            match joined {
                Ok((consumer, _)) => self.idle.push(consumer),
                Err(error) => tracing::error!(%error, "a consumer's task panicked"),
            }
        }
        for consumer in &self.idle {
            shared.queue_idle(&consumer.queue.name, "the connection is gone");
        }
        served
    }
}

async fn session(
    shared: Arc<Shared>,
    link: Arc<Link>,
    ended: CancellationToken,
    mut consumer: QueueConsumer,
    again: bool,
) -> (QueueConsumer, SessionEnd) {
    if again {
        tokio::select! {
            () = mend(&shared, &link, Side::Consume, consumer.failures) => {}
            () = ended.cancelled() => return (consumer, SessionEnd::ConnectionLost),
        }
    }
    let since = Instant::now();
    let end = consumer.run(&shared, &link, &ended).await;
    if matches!(end, SessionEnd::Failed(_)) {
        consumer.failures = count_failure(consumer.failures, since.elapsed());
    }
    (consumer, end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pause_is_never_longer_than_the_bound_and_never_nothing(rounds in 1..40usize, max_ms in 200..10_000u64) {
            let max = Duration::from_millis(max_ms);
            let mut pauses = pauses(max);
            for _ in 0..rounds {
                let pause = next_pause(&mut pauses, max);
                prop_assert!(pause <= max);
                prop_assert!(pause >= FIRST_BACKOFF / 2);
            }
        }
    }

    #[test]
    fn failures_in_a_row_are_forgotten_after_a_session_that_lasted() {
        assert_eq!(count_failure(3, Duration::from_secs(1)), 4);
        assert_eq!(count_failure(3, RECOVERED_AFTER), 1);
    }
}
