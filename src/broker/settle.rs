//! What becomes of a delivery: the only place that acknowledges.
//!
//! One task per channel generation gathers what was settled and sends as few acks as it can. A delivery belongs to the
//! channel that brought it: settled after that channel has gone it is counted and forgotten, since the broker delivers
//! it again by itself. Knows tags and time, not jobs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::future::join_all;
use lapin::{
    Acker,
    options::{BasicAckOptions, BasicNackOptions},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{Properties, consumer::Progress, shared::Shared};
use crate::domain::Lane;

/// How long settled deliveries wait for an older unfinished one, so that one `multiple` ack covers all of them.
const HEAD_PATIENCE: Duration = Duration::from_millis(50);

/// What becomes of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Done and recorded.
    Ack,
    /// Stays unacknowledged: goes back to the queue when its channel closes, at shutdown.
    Leave,
    /// Back to the queue at once. Only at shutdown of one's own consumer or after a lost race, never to wait: each time
    /// counts towards the delivery limit.
    Requeue,
}

/// One message, handed over by the broker. It must be settled; dropped undecided it stays unacknowledged.
pub struct Delivery {
    /// The lane whose stream it came on.
    pub lane: Lane,
    /// The queue that it came from.
    pub queue: Arc<str>,
    /// The message, byte for byte.
    pub body: Bytes,
    /// Its properties and headers as the producer set them.
    pub properties: Properties,
    /// The broker's flag: it was handed over before, to whomever. No count.
    pub redelivered: bool,
    /// When it came, by this process's monotonic clock.
    pub received_at: std::time::Instant,
    /// How often it came back to its queue before, as quorum queues count (`x-delivery-count`); `None` the first time.
    pub delivery_count: Option<u64>,
    ticket: Option<Ticket>,
}

/// The right to settle one delivery.
struct Ticket {
    acker: Acker,
    tag: u64,
    settled: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
}

impl Delivery {
    /// Says what becomes of it. Never blocks, never fails: if its channel has gone, the broker delivers it again.
    pub fn settle(mut self, disposition: Disposition) {
        if let Some(Ticket {
            acker,
            tag,
            settled,
            shared,
        }) = self.ticket.take()
            && settled
                .send(Message::Settled {
                    tag,
                    acker,
                    disposition,
                })
                .is_err()
        {
            shared.stats.stale_acks.add(1);
        }
    }

    /// Whether the channel that brought it is still there. If not, settling it has no effect, and the same message
    /// comes again; work on it is best not begun.
    pub fn is_current(&self) -> bool {
        self.ticket
            .as_ref()
            .is_some_and(|ticket| !ticket.settled.is_closed() && !ticket.acker.poisoned())
    }

    pub(super) fn new(
        delivery: lapin::message::Delivery,
        lane: Lane,
        queue: Arc<str>,
        settled: mpsc::UnboundedSender<Message>,
        shared: Arc<Shared>,
    ) -> Self {
        let (properties, delivery_count) = Properties::from_delivery(delivery.properties);
        Self {
            lane,
            queue,
            body: Bytes::from(delivery.data),
            properties,
            redelivered: delivery.redelivered,
            received_at: std::time::Instant::now(),
            delivery_count,
            ticket: Some(Ticket {
                acker: delivery.acker,
                tag: delivery.delivery_tag,
                settled,
                shared,
            }),
        }
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("queue", &self.queue)
            .field("bytes", &self.body.len())
            .field("properties", &self.properties)
            .field("redelivered", &self.redelivered)
            .finish_non_exhaustive()
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else { return };
        // At shutdown, and when a channel has gone, dropping what waits is in order.
        if ticket.shared.stopping() || ticket.settled.is_closed() {
            return;
        }
        ticket.shared.stats.dropped_undecided.add(1);
        let left = Message::Settled {
            tag: ticket.tag,
            acker: ticket.acker,
            disposition: Disposition::Leave,
        };
        // Only so that nothing waits behind it; if the channel went meanwhile there is nothing to wait.
        drop(ticket.settled.send(left));
        tracing::error!(
            queue = %self.queue,
            message_id = self.properties.message_id(),
            "a delivery was dropped without a disposition; it stays unacknowledged until its channel closes"
        );
    }
}

/// What the settling task is told.
pub(super) enum Message {
    Settled {
        tag: u64,
        acker: Acker,
        disposition: Disposition,
    },
    /// Send every ack now and say when it is done.
    Flush(oneshot::Sender<()>),
}

/// Settles what one channel delivers until the channel's generation ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    progress: Arc<Progress>,
    mut messages: mpsc::UnboundedReceiver<Message>,
    ended: CancellationToken,
) {
    let mut ledger = Ledger::default();
    let mut batch = Vec::new();
    loop {
        let due = ledger.due();
        tokio::select! {
            () = ended.cancelled() => break,
            n = messages.recv_many(&mut batch, 1024) => if n == 0 { break },
            () = sleep_until(due) => {}
        }
        let now = Instant::now();
        let mut flushed = Vec::new();
        let mut requeue = Vec::new();
        for message in batch.drain(..) {
            match message {
                Message::Settled {
                    tag,
                    acker,
                    disposition,
                } => match disposition {
                    Disposition::Ack => ledger.settled(tag, acker),
                    Disposition::Leave => ledger.left(tag),
                    Disposition::Requeue => {
                        ledger.gone(tag);
                        requeue.push(acker);
                    }
                },
                Message::Flush(done) => flushed.push(done),
            }
        }
        let acks = ledger.take(now, !flushed.is_empty());
        // lapin answers an ack once its frame is written, and not at all if the connection went between the two: without
        // the second arm one such ack kept the whole connection from being set up again.
        let unsent = acks.iter().map(|ack| ack.covers).sum::<u64>() + requeue.len() as u64;
        tokio::select! {
            biased;
            () = send(&shared, &progress, acks, requeue) => {}
            () = ended.cancelled() => {
                shared.stats.acks_not_sent.add(unsent);
                break;
            }
        }
        for done in flushed {
            // Nobody waiting for the flush any more is fine.
            done.send(()).ok();
        }
    }
    messages.close();
    let mut stale = ledger.waiting();
    while let Ok(message) = messages.try_recv() {
        stale += u64::from(matches!(
            message,
            Message::Settled {
                disposition: Disposition::Ack,
                ..
            }
        ));
    }
    shared.stats.stale_acks.add(stale);
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn send(shared: &Shared, progress: &Progress, acks: Vec<Ack<Acker>>, requeue: Vec<Acker>) {
    let acked = join_all(acks.into_iter().map(|ack| async move {
        let sent = ack.acker.ack(BasicAckOptions { multiple: ack.multiple }).await;
        (ack.covers, matches!(sent, Ok(true)))
    }));
    let nacked = join_all(requeue.into_iter().map(|acker| async move {
        matches!(
            acker
                .nack(BasicNackOptions {
                    multiple: false,
                    requeue: true
                })
                .await,
            Ok(true)
        )
    }));
    let (acked, nacked) = tokio::join!(acked, nacked);
    for (covers, sent) in acked {
        if sent {
            shared.stats.acked.add(covers);
            shared.stats.ack_frames.add(1);
            progress.settled(covers);
        } else {
            shared.stats.acks_not_sent.add(covers);
        }
    }
    for sent in nacked {
        if sent {
            shared.stats.requeued.add(1);
            progress.settled(1);
        } else {
            shared.stats.acks_not_sent.add(1);
        }
    }
}

/// One ack to send.
#[derive(Debug, PartialEq, Eq)]
struct Ack<A> {
    acker: A,
    multiple: bool,
    /// How many deliveries it settles.
    covers: u64,
}

/// Which tags of one channel are finished. Tags count from 1 without gaps, in the order of delivery.
struct Ledger<A> {
    /// The lowest tag that is not finished.
    head: u64,
    /// Finished tags from `head` on: those with an acker wait for their ack.
    finished: BTreeMap<u64, Option<A>>,
    /// How many of `finished` wait for their ack.
    waiting: u64,
    /// Since when some wait behind an unfinished head.
    blocked_since: Option<Instant>,
    /// Tags that will never be finished (left, or dropped undecided): nothing is gained by waiting for them.
    hopeless: BTreeSet<u64>,
}

impl<A> Default for Ledger<A> {
    fn default() -> Self {
        Self {
            head: 1,
            finished: BTreeMap::new(),
            waiting: 0,
            blocked_since: None,
            hopeless: BTreeSet::new(),
        }
    }
}

impl<A> Ledger<A> {
    fn settled(&mut self, tag: u64, acker: A) {
        self.finished.insert(tag, Some(acker));
        self.waiting += 1;
    }

    /// Finished, and answered to the broker by other means.
    fn gone(&mut self, tag: u64) {
        self.finished.insert(tag, None);
    }

    fn left(&mut self, tag: u64) {
        self.hopeless.insert(tag);
    }

    fn waiting(&self) -> u64 {
        self.waiting
    }

    /// When those behind the head are to be acked singly.
    fn due(&self) -> Option<Instant> {
        self.blocked_since
            .filter(|_| self.waiting > 0)
            .map(|since| since + HEAD_PATIENCE)
    }

    /// The acks to send now: a `multiple` one as soon as the head moves, single ones when it has not for too long.
    fn take(&mut self, now: Instant, flush: bool) -> Vec<Ack<A>> {
        let mut acks = Vec::new();
        // The `multiple` ack must name a tag that is still open: RabbitMQ refuses one that it has seen, and closes the
        // channel. So it is the highest of the run that was not acked singly before.
        let (mut highest, mut covers) = (None, 0);
        while let Some(acker) = self.finished.remove(&self.head) {
            self.head += 1;
            self.blocked_since = None;
            if let Some(acker) = acker {
                highest = Some(acker);
                covers += 1;
            }
        }
        if let Some(acker) = highest {
            self.waiting -= covers;
            acks.push(Ack {
                acker,
                multiple: covers > 1,
                covers,
            });
        }
        if self.waiting == 0 {
            return acks;
        }
        let since = *self.blocked_since.get_or_insert(now);
        if flush || now.duration_since(since) >= HEAD_PATIENCE || self.hopeless.contains(&self.head) {
            for acker in self.finished.values_mut().filter_map(Option::take) {
                acks.push(Ack {
                    acker,
                    multiple: false,
                    covers: 1,
                });
            }
            self.waiting = 0;
            // `blocked_since` stays: while the head doesn't move, later ones don't wait for it again.
        }
        acks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tags(acks: &[Ack<u64>]) -> Vec<(u64, bool)> {
        acks.iter().map(|ack| (ack.acker, ack.multiple)).collect()
    }

    #[test]
    fn in_order_everything_that_waits_is_one_ack() {
        let mut ledger = Ledger::default();
        for tag in [2, 1, 3] {
            ledger.settled(tag, tag);
        }
        assert_eq!(tags(&ledger.take(Instant::now(), false)), [(3, true)]);
        assert_eq!(ledger.due(), None);
    }

    #[test]
    fn behind_a_slow_head_they_wait_50_ms_once_and_then_no_more() {
        let mut ledger = Ledger::default();
        let start = Instant::now();
        ledger.settled(2, 2);
        assert!(ledger.take(start, false).is_empty());
        assert_eq!(ledger.due(), Some(start + HEAD_PATIENCE));
        assert_eq!(tags(&ledger.take(start + HEAD_PATIENCE, false)), [(2, false)]);
        ledger.settled(3, 3);
        assert_eq!(tags(&ledger.take(start + HEAD_PATIENCE, false)), [(3, false)]);
        ledger.settled(1, 1);
        // 2 and 3 were acked: naming 3 again would close the channel.
        assert_eq!(tags(&ledger.take(start + HEAD_PATIENCE, false)), [(1, false)]);
    }

    #[test]
    fn nobody_waits_for_a_head_that_was_left() {
        let mut ledger = Ledger::default();
        ledger.left(1);
        ledger.settled(2, 2);
        assert_eq!(tags(&ledger.take(Instant::now(), false)), [(2, false)]);
    }

    #[test]
    fn a_requeued_tag_is_passed_over_and_never_named() {
        let mut ledger = Ledger::default();
        ledger.settled(1, 1);
        ledger.settled(2, 2);
        ledger.gone(3);
        assert_eq!(tags(&ledger.take(Instant::now(), false)), [(2, true)]);
        ledger.settled(4, 4);
        assert_eq!(tags(&ledger.take(Instant::now(), false)), [(4, false)]);
    }

    proptest! {
        /// RabbitMQ's rule: a single ack names an open tag; a `multiple` one too, and closes all up to it. Whatever the
        /// order, exactly the settled ones are closed, each once.
        #[test]
        fn whatever_the_order_exactly_the_settled_tags_are_acked_once(
            order in Just((1..=40u64).collect::<Vec<_>>()).prop_shuffle(),
            kinds in prop::collection::vec(0..6u8, 40),
            takes in prop::collection::vec(0..4u8, 40),
        ) {
            let mut ledger = Ledger::default();
            let start = Instant::now();
            let mut now = start;
            let mut open: BTreeSet<u64> = (1..=40).collect();
            let mut settled = BTreeSet::new();
            let mut expected = BTreeSet::new();
            let mut apply = |acks: Vec<Ack<u64>>, open: &mut BTreeSet<u64>| {
                for ack in acks {
                    assert!(open.contains(&ack.acker), "acked {} twice", ack.acker);
                    let closed: Vec<u64> =
                        if ack.multiple { open.range(..=ack.acker).copied().collect() } else { vec![ack.acker] };
                    assert_eq!(closed.len() as u64, ack.covers);
                    for tag in closed {
                        open.remove(&tag);
                        settled.insert(tag);
                    }
                }
            };
            for (i, tag) in order.iter().copied().enumerate() {
                match kinds[i] {
                    0 => ledger.left(tag),
                    1 => { ledger.gone(tag); open.remove(&tag); }
                    _ => { ledger.settled(tag, tag); expected.insert(tag); }
                }
                now += Duration::from_millis(u64::from(takes[i]) * 20);
                if takes[i] > 0 {
                    apply(ledger.take(now, false), &mut open);
                }
            }
            apply(ledger.take(now, true), &mut open);
            prop_assert_eq!(ledger.waiting(), 0);
            prop_assert_eq!(settled, expected);
        }
    }
}
