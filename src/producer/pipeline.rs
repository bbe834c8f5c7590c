//! Many publishes under way at once, in bounded memory, each with its own answer.

use std::sync::Arc;

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
};

use crate::{broker::PublishError, domain::Lane};

use super::{Outgoing, Producer};

/// Publishes that wait for their confirms at once. At 1 ms for a confirm that is far more than a broker takes.
const WINDOW: usize = 1_024;
/// Bytes of jobs that wait for their confirms at once: four of the longest that RabbitMQ 4 takes (16 MiB).
const WINDOW_BYTES: usize = 64 * 1024 * 1024;

/// Publishes jobs of one lane: up to 1,024 of them, or 64 MiB, wait for their confirms at once. Jobs of a pipeline have no
/// order among each other.
///
/// ```no_run
/// # use im_dispatcher::{domain::{Lane, job::Job}, producer::{Outgoing, Producer}};
/// # async fn example(producer: &Producer, jobs: Vec<Job>) -> Result<(), Box<dyn std::error::Error>> {
/// let mut pipeline = producer.pipeline(Lane::Bulk);
/// for (number, job) in jobs.iter().enumerate() {
///     pipeline.publish(number, Outgoing::of(job)?).await; // waits for room, not for the confirm
///     while let Some((number, result)) = pipeline.try_next() {
///         result.map_err(|error| format!("job {number}: {error}"))?;
///     }
/// }
/// while let Some((number, result)) = pipeline.next().await {
///     result.map_err(|error| format!("job {number}: {error}"))?;
/// }
/// # Ok(())
/// # }
/// ```
pub struct Pipeline<T> {
    producer: Producer,
    lane: Lane,
    count: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    tasks: JoinSet<(T, Result<(), PublishError>)>,
}

impl<T: Send + 'static> Pipeline<T> {
    pub(super) fn new(producer: Producer, lane: Lane) -> Self {
        Self {
            producer,
            lane,
            count: Arc::new(Semaphore::new(WINDOW)),
            bytes: Arc::new(Semaphore::new(WINDOW_BYTES)),
            tasks: JoinSet::new(),
        }
    }

    /// Waits for room, then publishes in the background. The answer comes by [`Pipeline::next`] or
    /// [`Pipeline::try_next`], with the tag; take them now and then, since they are kept until then.
    ///
    /// # Cancel safety
    /// If the future is dropped the job isn't published.
    pub async fn publish(&mut self, tag: T, job: Outgoing) {
        let size = job.body.len().clamp(1, WINDOW_BYTES) as u32;
        let permits = (room(&self.count, 1).await, room(&self.bytes, size).await);
        let (producer, lane) = (self.producer.clone(), self.lane);
        self.tasks.spawn(async move {
            let result = producer.publish_outgoing(lane, job).await;
            drop(permits);
            (tag, result)
        });
    }

    /// An answer that is there: confirmed and routed, or why not. `None`: none is there yet.
    pub fn try_next(&mut self) -> Option<(T, Result<(), PublishError>)> {
        self.tasks.try_join_next().map(answer)
    }

    /// Waits for the next answer. `None`: every job has its answer.
    ///
    /// # Cancel safety
    /// No answer is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<(T, Result<(), PublishError>)> {
        self.tasks.join_next().await.map(answer)
    }
}

/// Room in a window; `None` if it were closed, which it never is.
async fn room(window: &Arc<Semaphore>, permits: u32) -> Option<OwnedSemaphorePermit> {
    Arc::clone(window).acquire_many_owned(permits).await.ok()
}

/// A publish's answer. A task ends otherwise only by a panic, which is then the caller's.
fn answer<T>(joined: Result<T, JoinError>) -> T {
    joined.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}
