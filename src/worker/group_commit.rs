//! Group commit: whatever waits is written together, a lone item waits for nobody.
//!
//! One task takes everything that has gathered while the last statement ran and runs the next with it, so the batch
//! grows with the load by itself. Under load statements begin at least [`Pace::between`] apart: each has its fixed costs, and
//! whatever waits for the service anyway waits a little for its company, too. Who says until when an item has time
//! ([`GroupCommit::submit_by`]) lets it wait for the next one that has none.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::{self, Instant},
};

use crate::{domain::JobId, store::StoreError};

/// The most items of one statement. Beyond some hundred rows a statement's fixed costs no longer show.
pub(super) const MAX_BATCH: usize = 256;

/// How statements follow each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// The least time from the beginning of a statement under load to that of the next.
    between: Duration,
    /// So many items in a statement are load: the next one is paced.
    load: usize,
}

impl Pace {
    /// Where a call waits for it. Measured at 30 ms of API latency and 6,000 jobs/s: 27 instead of 12 items a statement, and
    /// 0.049 instead of 0.078 CPU seconds of Postgres for 1,000 jobs; the worker's own CPU is the same. At a load of
    /// four, workers with 250 jobs/s each wrote two at a time.
    pub(super) const SHORT: Self = Self {
        between: Duration::from_millis(4),
        load: 2,
    };
    /// Where only an event and an acknowledgement wait for it: at 200 calls/s a third of the statements. It is also how much
    /// longer a call may be in doubt after a crash.
    pub(super) const LONG: Self = Self {
        between: Duration::from_millis(20),
        load: 1,
    };
}

/// Hands items to one committing task and waits for each one's answer.
pub(super) struct GroupCommit<T, R> {
    sender: mpsc::Sender<Item<T, R>>,
}

/// What is to be written, whom to tell, and how long it may wait for company.
struct Item<T, R> {
    value: T,
    reply: oneshot::Sender<Result<R, Arc<StoreError>>>,
    by: Instant,
}

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
    pub(super) fn start<F, Fut>(pace: Pace, run: F, key: fn(&T) -> Key) -> Self
    where
        F: Fn(Arc<Vec<T>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Vec<R>, StoreError>> + Send,
    {
        let (sender, mut receiver) = mpsc::channel::<Item<T, R>>(4 * MAX_BATCH);
        tokio::spawn(async move {
            let mut waiting: Items<T, R> = Vec::new();
            let mut not_before = Instant::now();
            loop {
                if waiting.is_empty() && receiver.recv_many(&mut waiting, MAX_BATCH).await == 0 {
                    return;
                }
                gather(&mut receiver, &mut waiting, not_before).await;
                let (batch, later) = distinct(std::mem::take(&mut waiting), key);
                waiting = later;
                let began = Instant::now();
                not_before = if batch.len() < pace.load {
                    began
                } else {
                    began + pace.between
                };
                commit(&run, batch).await;
            }
        });
        Self { sender }
    }

    /// Waits until the item's statement has committed.
    pub(super) async fn submit(&self, item: T) -> Result<R, CommitError> {
        self.submit_by(item, Instant::now()).await
    }

    /// The same of an item that has time: its statement begins then, or with that of another item before.
    pub(super) async fn submit_by(&self, value: T, by: Instant) -> Result<R, CommitError> {
        let (reply, answer) = oneshot::channel();
        self.sender
            .send(Item { value, reply, by })
            .await
            .map_err(|_| CommitError::Stopped)?;
        Ok(answer.await.map_err(|_| CommitError::Stopped)??)
    }
}

/// Takes what comes until the first of those that wait has no more time, but not before the pace allows.
async fn gather<T, R>(receiver: &mut mpsc::Receiver<Item<T, R>>, waiting: &mut Items<T, R>, not_before: Instant) {
    loop {
        while waiting.len() < MAX_BATCH {
            match receiver.try_recv() {
                Ok(item) => waiting.push(item),
                Err(_) => break,
            }
        }
        let Some(by) = waiting.iter().map(|item| item.by).min() else {
            return;
        };
        if waiting.len() >= MAX_BATCH || by.max(not_before) <= Instant::now() || receiver.is_closed() {
            return;
        }
        if by <= not_before {
            // Nobody can make it begin sooner: no need to wake for each.
            time::sleep_until(not_before).await;
            continue;
        }
        let room = MAX_BATCH - waiting.len();
        tokio::select! {
            _ = receiver.recv_many(waiting, room) => {}
            () = time::sleep_until(by) => {}
        }
    }
}

/// Splits what may share a statement from what must wait for the next.
fn distinct<T, R>(items: Items<T, R>, key: fn(&T) -> Key) -> (Items<T, R>, Items<T, R>) {
    let mut keys = HashSet::with_capacity(items.len());
    items.into_iter().partition(|item| keys.insert(key(&item.value)))
}

/// Writes a batch. One row with bad data fails the whole statement, so then each is written alone and only the
/// culprit fails.
async fn commit<T, R, F, Fut>(run: &F, batch: Items<T, R>)
where
    F: Fn(Arc<Vec<T>>) -> Fut,
    Fut: Future<Output = Result<Vec<R>, StoreError>>,
{
    let (items, replies): (Vec<T>, Vec<_>) = batch.into_iter().map(|item| (item.value, item.reply)).unzip();
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
            Pace::SHORT,
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
            Pace::SHORT,
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
            Pace::SHORT,
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

    /// When a statement began, and what it had.
    type Written = (Instant, Vec<u32>);

    fn writing_down(pace: Pace) -> (GroupCommit<u32, u32>, Arc<parking_lot::Mutex<Vec<Written>>>) {
        let statements = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let kept = Arc::clone(&statements);
        let commit = GroupCommit::start(
            pace,
            move |items: Arc<Vec<u32>>| {
                kept.lock().push((Instant::now(), Vec::clone(&items)));
                async move { Ok(Vec::clone(&items)) }
            },
            key,
        );
        (commit, statements)
    }

    #[tokio::test]
    async fn what_has_time_shares_the_statement_of_the_first_that_has_none() {
        let (commit, statements) = writing_down(Pace::SHORT);
        let far = Instant::now() + Duration::from_hours(1);
        let patient = futures::future::join_all((0..20).map(|n| commit.submit_by(n, far)));
        let urgent = async {
            // Whether or not the patient ones have been seen by then, nothing is written until this one.
            tokio::task::yield_now().await;
            commit.submit(20).await
        };
        let (patient, urgent) = tokio::join!(patient, urgent);
        assert!(patient.iter().all(Result::is_ok));
        assert_eq!(urgent.unwrap(), 20);
        let statements = statements.lock();
        assert_eq!(statements.len(), 1);
        assert_eq!(statements[0].1, (0..=20).collect::<Vec<u32>>());
    }

    #[tokio::test]
    async fn what_has_time_is_written_in_time_without_company() {
        let (commit, statements) = writing_down(Pace::LONG);
        let by = Instant::now() + Duration::from_millis(30);
        let answers = futures::future::join_all((0..5).map(|n| commit.submit_by(n, by))).await;
        assert!(answers.iter().all(Result::is_ok));
        let statements = statements.lock();
        assert_eq!(statements.len(), 1);
        assert!(statements[0].0 >= by);
        assert_eq!(statements[0].1, [0, 1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn under_load_statements_begin_apart() {
        let between = Duration::from_millis(60);
        let (commit, statements) = writing_down(Pace { between, load: 2 });
        // A lone item is no load; the two after it are.
        commit.submit(0).await.unwrap();
        for pair in [[1, 2], [3, 4]] {
            let answers = futures::future::join_all(pair.map(|n| commit.submit(n))).await;
            assert!(answers.iter().all(Result::is_ok));
        }
        let statements = statements.lock();
        let items: Vec<&[u32]> = statements.iter().map(|(_, items)| &items[..]).collect();
        assert_eq!(items, [&[0][..], &[1, 2], &[3, 4]]);
        assert!(statements[2].0 - statements[1].0 >= between);
    }
}
