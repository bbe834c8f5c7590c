//! Group commit: whatever waits is written together, a lone item waits for nobody.
//!
//! One task takes everything that has gathered while the last statement ran and runs the next with it, so the batch
//! grows with the load by itself. Under load statements begin at least [`PACE`] apart: each has its fixed costs, and whatever
//! waits for the service anyway waits a little for its company, too.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use crate::{domain::JobId, store::StoreError};

/// The most items of one statement. Beyond some hundred rows a statement's fixed costs no longer show.
pub(super) const MAX_BATCH: usize = 256;

/// The least time from the beginning of a statement of several items to that of the next. Measured at 30 ms of API
/// latency and 6,000 jobs/s: 27 instead of 12 items a statement, and 0.049 instead of 0.078 CPU seconds of Postgres for 1,000
/// jobs; the worker's own CPU is the same.
const PACE: Duration = Duration::from_millis(4);

/// So many items in a statement are load: the next one is paced. At four, workers with 250 jobs/s each wrote two at a time.
const LOAD: usize = 2;

/// Hands items to one committing task and waits for each one's answer.
pub(super) struct GroupCommit<T, R> {
    sender: mpsc::Sender<Item<T, R>>,
}

type Item<T, R> = (T, oneshot::Sender<Result<R, Arc<StoreError>>>);
type Items<T, R> = Vec<Item<T, R>>;

/// What no two items of a statement may share: a job and an index in it.
pub(super) type Key = (JobId, i32);

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum CommitError {
    /// The statement failed.
    #[error(transparent)]
    Store(#[from] Arc<StoreError>),
    /// The committing task has ended: the process stops.
    #[error("the worker is stopping")]
    Stopped,
}

impl<T: Send + Sync + 'static, R: Send + 'static> GroupCommit<T, R> {
    /// Starts the task. `run` writes a batch and answers in its order; items of one `key` never
    /// share a statement: the later one waits for the next.
    pub(super) fn start<F, Fut>(run: F, key: fn(&T) -> Key) -> Self
    where
        F: Fn(Arc<Vec<T>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, StoreError>> + Send,
    {
        let (sender, mut receiver) = mpsc::channel::<Item<T, R>>(4 * MAX_BATCH);
        tokio::spawn(async move {
            let mut waiting: Vec<Item<T, R>> = Vec::new();
            let mut not_before = Instant::now();
            loop {
                if waiting.is_empty() && receiver.recv_many(&mut waiting, MAX_BATCH).await == 0 {
                    return;
                }
                while waiting.len() < MAX_BATCH {
                    match receiver.try_recv() {
                        Ok(item) => waiting.push(item),
                        Err(_) if Instant::now() >= not_before || receiver.is_closed() => break,
                        Err(_) => time::sleep_until(not_before).await,
                    }
                }
                let (batch, later) = distinct(std::mem::take(&mut waiting), key);
                waiting = later;
                let began = Instant::now();
                not_before = if batch.len() < LOAD { began } else { began + PACE };
                commit(&run, batch).await;
            }
        });
        Self { sender }
    }

    /// Waits until the item's statement has committed.
    pub(super) async fn submit(&self, item: T) -> Result<R, CommitError> {
        let (reply, answer) = oneshot::channel();
        self.sender
            .send((item, reply))
            .await
            .map_err(|_| CommitError::Stopped)?;
        Ok(answer.await.map_err(|_| CommitError::Stopped)??)
    }
}

/// Splits what may share a statement from what must wait for the next.
fn distinct<T, R>(items: Items<T, R>, key: fn(&T) -> Key) -> (Items<T, R>, Items<T, R>) {
    let mut keys = HashSet::with_capacity(items.len());
    items.into_iter().partition(|(item, _)| keys.insert(key(item)))
}

/// Writes a batch. One row with bad data fails the whole statement, so then each is written alone and only the
/// culprit fails.
async fn commit<T, R, F, Fut>(run: &F, batch: Items<T, R>)
where
    F: Fn(Arc<Vec<T>>) -> Fut,
    Fut: Future<Output = Result<Vec<R>, StoreError>>,
{
    let (items, replies): (Vec<T>, Vec<_>) = batch.into_iter().unzip();
    let items = Arc::new(items);
    let error = match retried(run, &items).await {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                // Who doesn't wait any more doesn't care.
                drop(reply.send(Ok(answer)));
            }
            return;
        }
        Err(error) => error,
    };
    // The statement's future, which shared them, has ended.
    let alone = Arc::try_unwrap(items)
        .ok()
        .filter(|items| items.len() > 1 && !error.is_unavailable());
    let Some(alone) = alone else {
        let error = Arc::new(error);
        for reply in replies {
            drop(reply.send(Err(Arc::clone(&error))));
        }
        return;
    };
    for (item, reply) in alone.into_iter().zip(replies) {
        let answer = retried(run, &Arc::new(vec![item]))
            .await
            .map_err(Arc::new)
            .and_then(|mut answers| {
                answers.pop().ok_or_else(|| {
                    Arc::new(StoreError::Inconsistent {
                        table: "jobs",
                        column: "id",
                        job: String::new(),
                        value: "a statement without an answer".to_owned(),
                    })
                })
            });
        drop(reply.send(answer));
    }
}

/// Runs a statement again after a deadlock, a serialisation failure or a lock time-out: nothing of it was written.
async fn retried<T, R, F, Fut>(run: &F, items: &Arc<Vec<T>>) -> Result<Vec<R>, StoreError>
where
    F: Fn(Arc<Vec<T>>) -> Fut,
    Fut: Future<Output = Result<Vec<R>, StoreError>>,
{
    let mut tries = 0;
    loop {
        match run(Arc::clone(items)).await {
            Err(error) if error.is_retryable_now() && tries < 5 => {
                tries += 1;
                tracing::debug!(tries, error = %error, "a statement is tried again");
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is that of larger items")]
    fn key(item: &u32) -> Key {
        (JobId::parse(item.to_string()).unwrap(), 0)
    }

    #[tokio::test]
    async fn everything_that_waits_is_written_together_and_answered_in_order() {
        let commit = GroupCommit::start(
            |items: Arc<Vec<u32>>| async move { Ok(items.iter().map(|n| n * 2).collect()) },
            key,
        );
        let answers = futures::future::join_all((0..600).map(|n| commit.submit(n))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap(), n as u32 * 2);
        }
    }

    #[tokio::test]
    async fn items_that_are_the_same_never_share_a_statement() {
        let commit = GroupCommit::start(
            |items: Arc<Vec<u32>>| async move {
                let mut seen = Vec::clone(&items);
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), items.len());
                Ok(Vec::clone(&items))
            },
            key,
        );
        let answers = futures::future::join_all((0..50).map(|_| commit.submit(7))).await;
        assert!(answers.into_iter().all(|answer| answer.unwrap() == 7));
    }

    #[tokio::test]
    async fn one_bad_item_fails_alone() {
        let commit = GroupCommit::start(
            |items: Arc<Vec<u32>>| async move {
                if items.contains(&3) {
                    Err(StoreError::Url)
                } else {
                    Ok(Vec::clone(&items))
                }
            },
            key,
        );
        let answers = futures::future::join_all((0..10).map(|n| commit.submit(n))).await;
        for (n, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.is_err(), n == 3, "item {n}");
        }
    }
}
