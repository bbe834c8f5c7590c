//! What the broker layer counted since the start: plain atomics, read by whoever shows metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counters since the start. Each only grows.
        #[derive(Debug, Default)]
        pub struct BrokerStats {
            $($(#[$doc])* pub $name: Counter,)+
        }

        impl BrokerStats {
            /// Every counter with its name, for an exporter.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)+]
            }
        }
    };
}

counters! {
    /// Messages handed over by the broker.
    deliveries,
    /// Of those, the ones that the broker marked as redelivered.
    redelivered,
    /// Deliveries that were acknowledged.
    acked,
    /// `basic.ack` frames sent; grouped acks make this less than `acked`.
    ack_frames,
    /// Deliveries given back with `basic.nack`.
    requeued,
    /// Settled after their channel had gone: never sent, so the broker delivers again.
    stale_acks,
    /// lapin said that an ack or nack was not sent.
    acks_not_sent,
    /// Deliveries that were dropped without a disposition: a bug each.
    dropped_undecided,
    /// Messages given to a channel for publishing.
    published,
    /// Publishes that the broker confirmed.
    confirmed,
    /// Publishes that the broker confirmed and returned: no queue took them.
    unroutable,
    /// Publishes that the broker refused (`basic.nack`).
    refused,
    /// Publishes that ended without an answer.
    unknown,
    /// Connections opened after the first one of their kind.
    reconnects,
    /// Consumers that were set up again while their connection stayed.
    consumer_restarts,
    /// Connections that the watchdog gave up because nothing moved.
    watchdog_resets,
}

/// One counter.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_names_every_counter_once() {
        let stats = BrokerStats::default();
        stats.acked.add(3);
        let snapshot = stats.snapshot();
        assert!(snapshot.contains(&("acked", 3)));
        let names: std::collections::BTreeSet<_> = snapshot.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), snapshot.len());
    }
}
