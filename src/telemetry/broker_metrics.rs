//! What the broker layer has counted, as metrics. It keeps counters of its own, since it knows no metrics; they are
//! mirrored here by name.

use prometheus_client::registry::Registry;

use super::labels::Fixed;

/// A counter of the broker layer, and the label under which it is shown.
type Named = (&'static str, &'static str);

/// What became of deliveries. `stale` and `not_sent` come again by themselves; each `dropped` is a fault of ours.
const SETTLED: [Named; 5] = [
    ("acked", "acked"),
    ("requeued", "requeued"),
    ("stale_acks", "stale"),
    ("acks_not_sent", "not_sent"),
    ("dropped_undecided", "dropped"),
];
/// What became of publishes.
const PUBLISHES: [Named; 4] = [
    ("confirmed", "confirmed"),
    ("unroutable", "unroutable"),
    ("refused", "refused"),
    ("unknown", "unknown"),
];
/// What was built anew.
const RECOVERIES: [Named; 3] = [
    ("reconnects", "connection"),
    ("consumer_restarts", "consumer"),
    ("watchdog_resets", "watchdog"),
];

/// The families.
#[derive(Debug)]
pub(super) struct BrokerMetrics {
    settled: Fixed,
    publishes: Fixed,
    recoveries: Fixed,
}

impl BrokerMetrics {
    /// Registers them, every member at 0.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let mut family = |name, help, label: &'static str, members: &'static [Named]| {
            let labels = members.iter().map(|(_, shown)| [(label, *shown)]);
            Fixed::register(registry, name, help, labels)
        };
        Self {
            settled: family(
                "deliveries_settled",
                "What became of deliveries: acked, given back, or to come again since their channel was gone",
                "settlement",
                &SETTLED,
            ),
            publishes: family(
                "publishes",
                "Events and dead letters that were published, by the broker's answer",
                "result",
                &PUBLISHES,
            ),
            recoveries: family(
                "broker_recoveries",
                "Connections and consumers of RabbitMQ that were built anew",
                "what",
                &RECOVERIES,
            ),
        }
    }

    /// Shows what was counted since the start, each counter by its name.
    pub(super) fn set(&self, counted: &[(&'static str, u64)]) {
        let families = [
            (&self.settled, &SETTLED[..]),
            (&self.publishes, &PUBLISHES[..]),
            (&self.recoveries, &RECOVERIES[..]),
        ];
        for (family, members) in families {
            for (index, (name, _)) in members.iter().enumerate() {
                if let Some((_, count)) = counted.iter().find(|(counter, _)| counter == name) {
                    family.set(index, *count);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::BrokerStats;

    #[test]
    fn each_mirrored_counter_is_one_that_the_broker_layer_has() {
        let counted = BrokerStats::default().snapshot();
        for (name, _) in SETTLED.iter().chain(&PUBLISHES).chain(&RECOVERIES) {
            assert!(counted.iter().any(|(counter, _)| counter == name), "{name}");
        }
    }
}
