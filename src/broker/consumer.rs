//! One queue's consumer: its own channel, its own prefetch, deliveries into the lane's stream.
//!
//! A session lasts as long as its channel. It knows when work is wanted and when to take more at once; what a delivery
//! is for, it doesn't.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use lapin::{
    Channel, Consumer,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    Delivery,
    link::{Link, close_channel, is_parse_error},
    settle,
    shared::Shared,
    topology::{JobQueue, short},
};

/// How long the last acks of a channel may take.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What moved on the present channel.
#[derive(Debug, Default)]
pub(super) struct Progress {
    delivered: AtomicU64,
    settled: AtomicU64,
    window: AtomicU64,
    moved: Notify,
}

impl Progress {
    pub(super) fn settled(&self, n: u64) {
        self.settled.fetch_add(n, Ordering::Relaxed);
        self.moved.notify_one();
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Whether the broker could hand over more than it has.
    pub(super) fn has_room(&self) -> bool {
        let held = self.delivered().saturating_sub(self.settled.load(Ordering::Relaxed));
        held < self.window.load(Ordering::Relaxed)
    }

    fn restart(&self) {
        self.delivered.store(0, Ordering::Relaxed);
        self.settled.store(0, Ordering::Relaxed);
        self.window.store(0, Ordering::Relaxed);
    }

    async fn settled_at_least(&self, n: u64) {
        while self.settled.load(Ordering::Relaxed) < n {
            self.moved.notified().await;
        }
    }
}

/// Why a session ended.
#[derive(Debug)]
pub(super) enum SessionEnd {
    /// Shutdown: everything that was settled is acknowledged, the channel is closed.
    Stopped,
    /// Its connection is gone or given up.
    ConnectionLost,
    /// The channel or the consumer is gone, the connection may still be there.
    Failed(String),
}

/// Why a consumer stops taking deliveries.
enum Halt {
    Unwanted,
    Grow,
    /// The lane has another prefetch now.
    Resize,
    Lost,
    /// The broker ended it, or the channel ended.
    Ended(Option<lapin::Error>),
    /// Nobody reads the lane any more.
    NoReader,
}

/// The consumer of one queue, over all its sessions.
pub(super) struct QueueConsumer {
    pub(super) queue: JobQueue,
    pub(super) progress: Arc<Progress>,
    /// Sessions in a row that failed soon.
    pub(super) failures: u32,
    out: mpsc::Sender<Delivery>,
    /// The prefetch now, 0 before the first delivery was asked for, and the one that it grows to.
    window: u16,
    target: u16,
}

impl QueueConsumer {
    pub(super) fn new(shared: &Shared, queue: JobQueue, out: mpsc::Sender<Delivery>) -> Self {
        let target = shared.prefetch.borrow()[queue.lane.index()];
        Self {
            queue,
            progress: Arc::default(),
            failures: 0,
            out,
            window: 0,
            target,
        }
    }

    /// Consumes until the channel, the connection (`ended`) or the process (`shared.stop`) ends.
    pub(super) async fn run(&mut self, shared: &Arc<Shared>, link: &Link, ended: &CancellationToken) -> SessionEnd {
        let channel = match link.channel().await {
            Ok(channel) => channel,
            Err(error) => return SessionEnd::Failed(error.to_string()),
        };
        self.progress.restart();
        let generation = ended.child_token();
        let (settled, messages) = mpsc::unbounded_channel();
        let settling = tokio::spawn(settle::run(
            Arc::clone(shared),
            Arc::clone(&self.progress),
            messages,
            generation.clone(),
        ));
        let end = self.consume(shared, &channel, &settled, ended).await;
        if !ended.is_cancelled() && channel.status().connected() {
            let (done, flushed) = oneshot::channel();
            if settled.send(settle::Message::Flush(done)).is_ok()
                && time::timeout(FLUSH_TIMEOUT, flushed).await.is_err()
            {
                tracing::warn!(queue = %self.queue.name, "the last acks could not be sent in time");
            }
            close_channel(&channel).await;
        }
        generation.cancel();
        if settling.await.is_err() {
            tracing::error!(queue = %self.queue.name, "the settling task panicked");
        }
        end
    }

    async fn consume(
        &mut self,
        shared: &Arc<Shared>,
        channel: &Channel,
        settled: &mpsc::UnboundedSender<settle::Message>,
        ended: &CancellationToken,
    ) -> SessionEnd {
        loop {
            let mut intake = shared.intake.subscribe();
            let Some(consuming) = shared.begin_consuming(self.queue.lane) else {
                shared.queue_idle(&self.queue.name, "paused");
                tokio::select! {
                    () = shared.stop.cancelled() => return SessionEnd::Stopped,
                    () = ended.cancelled() => return SessionEnd::ConnectionLost,
                    _ = intake.wait_for(|intake| intake.wants(self.queue.lane)) => {}
                }
                continue;
            };
            if self.window == 0 {
                let slowly = shared.slow_start.load(Ordering::Relaxed);
                self.window = if slowly { 1 } else { self.target };
            }
            // A quorum queue without a leader doesn't answer at all.
            let mut consumer = match time::timeout(shared.options.attempt_timeout, self.start(channel)).await {
                Ok(Ok(consumer)) => consumer,
                Ok(Err(error)) => return self.failed(&error),
                Err(_) => return SessionEnd::Failed("no answer to basic.consume".to_owned()),
            };
            shared.queue_consumed(&self.queue.name);
            let halt = self.forward(shared, &mut consumer, settled, ended).await;
            shared.queue_idle(&self.queue.name, "its consumer ended");
            match halt {
                Halt::Lost => return SessionEnd::ConnectionLost,
                Halt::Ended(Some(error)) => return self.failed(&error),
                Halt::Ended(None) => return SessionEnd::Failed("the broker cancelled its consumer".to_owned()),
                Halt::NoReader => {
                    drop((consumer, consuming));
                    tokio::select! {
                        () = shared.stop.cancelled() => return SessionEnd::Stopped,
                        () = ended.cancelled() => return SessionEnd::ConnectionLost,
                    }
                }
                Halt::Unwanted | Halt::Grow | Halt::Resize => {
                    let cancel = channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
                    match time::timeout(FLUSH_TIMEOUT, cancel).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => return self.failed(&error),
                        Err(_) => return SessionEnd::Failed("no answer to basic.cancel".to_owned()),
                    }
                    tokio::select! {
                        () = self.drain(shared, &mut consumer, settled) => {}
                        () = ended.cancelled() => return SessionEnd::ConnectionLost,
                    }
                    match halt {
                        Halt::Grow => self.window = self.window.saturating_mul(2).min(self.target),
                        Halt::Resize => self.resize(shared),
                        _ => {}
                    }
                }
            }
            drop(consuming);
        }
    }

    /// Takes over the lane's prefetch; one that still grows goes on growing.
    fn resize(&mut self, shared: &Shared) {
        let target = shared.prefetch.borrow()[self.queue.lane.index()];
        self.window = if self.window >= self.target {
            target
        } else {
            self.window.min(target)
        };
        self.target = target;
    }

    async fn start(&self, channel: &Channel) -> Result<Consumer, lapin::Error> {
        channel
            .basic_qos(self.window, BasicQosOptions { global: false })
            .await?;
        self.progress.window.store(u64::from(self.window), Ordering::Relaxed);
        let options = BasicConsumeOptions::default();
        channel
            .basic_consume(short(&self.queue.name), "".into(), options, FieldTable::default())
            .await
    }

    /// Passes deliveries on until there is a reason not to.
    async fn forward(
        &self,
        shared: &Arc<Shared>,
        consumer: &mut Consumer,
        settled: &mpsc::UnboundedSender<settle::Message>,
        ended: &CancellationToken,
    ) -> Halt {
        let mut halt = std::pin::pin!(self.halt(shared, ended));
        loop {
            // Room in the stream first: a delivery that is in hand can then always be passed on.
            let permit = tokio::select! {
                biased;
                halt = &mut halt => return halt,
                permit = self.out.reserve() => match permit {
                    Ok(permit) => permit,
                    Err(_) => return Halt::NoReader,
                },
            };
            tokio::select! {
                biased;
                halt = &mut halt => return halt,
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => permit.send(self.received(shared, delivery, settled)),
                    Some(Err(error)) => return Halt::Ended(Some(error)),
                    None => return Halt::Ended(None),
                },
            }
        }
    }

    async fn halt(&self, shared: &Shared, ended: &CancellationToken) -> Halt {
        let mut intake = shared.intake.subscribe();
        let mut prefetch = shared.prefetch.subscribe();
        let grown = async {
            if self.window >= self.target {
                return std::future::pending().await;
            }
            let goal = self.progress.settled.load(Ordering::Relaxed) + u64::from(self.window);
            self.progress.settled_at_least(goal).await;
        };
        tokio::select! {
            () = ended.cancelled() => Halt::Lost,
            () = shared.stop.cancelled() => Halt::Unwanted,
            _ = intake.wait_for(|intake| !intake.wants(self.queue.lane)) => Halt::Unwanted,
            _ = prefetch.wait_for(|prefetch| prefetch[self.queue.lane.index()] != self.target) => Halt::Resize,
            () = grown => Halt::Grow,
        }
    }

    /// What the broker had sent before it knew that the consumer is cancelled. At shutdown it is left alone, and goes
    /// back when the channel closes.
    async fn drain(
        &self,
        shared: &Arc<Shared>,
        consumer: &mut Consumer,
        settled: &mpsc::UnboundedSender<settle::Message>,
    ) {
        while let Some(Ok(delivery)) = consumer.next().await {
            let permit = tokio::select! {
                () = shared.stop.cancelled() => return,
                permit = self.out.reserve() => permit,
            };
            match permit {
                Ok(permit) if !shared.stopping() => permit.send(self.received(shared, delivery, settled)),
                _ => return,
            }
        }
    }

    fn received(
        &self,
        shared: &Arc<Shared>,
        delivery: lapin::message::Delivery,
        settled: &mpsc::UnboundedSender<settle::Message>,
    ) -> Delivery {
        shared.stats.deliveries.add(1);
        shared.stats.redelivered.add(u64::from(delivery.redelivered));
        self.progress.delivered.fetch_add(1, Ordering::Relaxed);
        let queue = Arc::clone(&self.queue.name);
        Delivery::new(delivery, self.queue.lane, queue, settled.clone(), Arc::clone(shared))
    }

    fn failed(&self, error: &lapin::Error) -> SessionEnd {
        if is_parse_error(error) {
            tracing::error!(
                queue = %self.queue.name,
                "the broker sent a message whose properties break AMQP's rules, such as a message_id that is not UTF-8"
            );
        }
        SessionEnd::Failed(error.to_string())
    }
}
