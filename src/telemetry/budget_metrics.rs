//! The meter of the budget as metrics: of this worker, so that the sum over all workers is the fleet's.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use crate::domain::{Command, Lane};

/// What a key's meter reads.
#[derive(Debug, Clone)]
pub struct BudgetReading {
    /// The app.
    pub sdk_app_id: u64,
    /// The command.
    pub command: Command,
    /// The limits as they are set: calls a second, recipients a minute; 0: none.
    pub limit: [u32; 2],
    /// The limits in force.
    pub in_force: [u32; 2],
    /// Calls of the last second and of the last minute, recipients of the last minute.
    pub used: [u64; 3],
    /// Who waits, by [`Lane::index`].
    pub waiting: [usize; 3],
    /// How long the oldest of them has waited, in seconds.
    pub oldest: [Option<f64>; 3],
    /// A throttled answer stops or slows it.
    pub throttled: bool,
}

type Labels<const N: usize> = Family<[(&'static str, String); N], Gauge>;

/// The families; labels are apps and commands of the configuration, so few.
#[derive(Debug)]
pub(super) struct BudgetMetrics {
    limit: Labels<3>,
    in_force: Labels<3>,
    used: Labels<3>,
    waiting: Labels<3>,
    oldest: Family<[(&'static str, String); 3], Gauge<f64, AtomicU64>>,
    throttled: Labels<2>,
    workers_wait: Labels<1>,
}

fn family<const N: usize>(registry: &mut Registry, name: &str, help: &str) -> Labels<N>
where
    [(&'static str, String); N]: prometheus_client::encoding::EncodeLabelSet,
{
    let family = Labels::<N>::default();
    registry.register(name, help, family.clone());
    family
}

impl BudgetMetrics {
    /// Registers them.
    pub(super) fn register(registry: &mut Registry) -> Self {
        Self {
            limit: family(
                registry,
                "budget_limit",
                "The limits as they are set, by what is counted; 0: none",
            ),
            in_force: family(
                registry,
                "budget_in_force",
                "The limits in force: lower while throttled",
            ),
            used: family(
                registry,
                "budget_used",
                "What this worker used of a budget: calls of the last second and minute, recipients of the last minute",
            ),
            waiting: family(
                registry,
                "budget_key_waiting",
                "Jobs that wait for a slot, by app, command and lane",
            ),
            oldest: {
                let family = Family::default();
                let help = "How long the one has waited for its slot that has waited longest; 0: nobody waits";
                registry.register_with_unit("budget_oldest_wait", help, Unit::Seconds, family.clone());
                family
            },
            throttled: family(
                registry,
                "budget_throttled",
                "1 while a throttled answer stops or slows a key",
            ),
            workers_wait: family(registry, "budget_waiting", "Jobs that wait for a slot, by lane"),
        }
    }

    /// Shows what the meters read now.
    pub(super) fn set(&self, meters: &[BudgetReading]) {
        let mut waiting = [0; 3];
        for meter in meters {
            let key = [
                ("sdk_app_id", meter.sdk_app_id.to_string()),
                ("command", meter.command.to_string()),
            ];
            let with = |name: &'static str, value: &str| {
                let [app, command] = key.clone();
                [app, command, (name, value.to_owned())]
            };
            for (family, rates) in [(&self.limit, meter.limit), (&self.in_force, meter.in_force)] {
                for (what, limit) in ["calls", "recipients"].into_iter().zip(rates) {
                    family.get_or_create_owned(&with("of", what)).set(limit.into());
                }
            }
            let what = ["calls_second", "calls_minute", "recipients_minute"];
            for (what, count) in what.into_iter().zip(meter.used) {
                self.used.get_or_create_owned(&with("of", what)).set(count as i64);
            }
            for lane in Lane::ALL {
                let (labels, index) = (with("lane", lane.as_str()), lane.index());
                waiting[index] += meter.waiting[index];
                self.waiting
                    .get_or_create_owned(&labels)
                    .set(meter.waiting[index] as i64);
                let oldest = meter.oldest[index].unwrap_or_default();
                self.oldest.get_or_create_owned(&labels).set(oldest);
            }
            self.throttled.get_or_create_owned(&key).set(i64::from(meter.throttled));
        }
        for lane in Lane::ALL {
            let labels = [("lane", lane.to_string())];
            self.workers_wait
                .get_or_create_owned(&labels)
                .set(waiting[lane.index()] as i64);
        }
    }
}
