//! Families whose label values are a closed set, resolved once: counting costs one atomic addition.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Debug,
    hash::Hash,
    sync::atomic::Ordering,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// The label sets of a family whose values come from outside, such as error codes.
pub(super) type Pair = [(&'static str, String); 2];

/// Counters of a closed set of labels, in an array.
#[derive(Debug)]
pub(super) struct Fixed(Vec<Counter>);

impl Fixed {
    /// Registers the family with every member at 0.
    pub(super) fn register<L>(
        registry: &mut Registry,
        name: &str,
        help: &str,
        labels: impl IntoIterator<Item = L>,
    ) -> Self
    where
        L: EncodeLabelSet + Clone + Debug + Eq + Hash + Send + Sync + 'static,
    {
        let family = Family::<L, Counter>::default();
        registry.register(name, help, family.clone());
        Self(
            labels
                .into_iter()
                .map(|label| family.get_or_create_owned(&label))
                .collect(),
        )
    }

    /// Adds to a member. An index out of range counts nothing.
    pub(super) fn add(&self, index: usize, count: u64) {
        if let Some(counter) = self.0.get(index) {
            counter.inc_by(count);
        }
    }

    /// Shows what another counter has come to, which only grows.
    pub(super) fn set(&self, index: usize, count: u64) {
        if let Some(counter) = self.0.get(index) {
            counter.inner().store(count, Ordering::Relaxed);
        }
    }

    /// What a member has come to.
    pub(super) fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, Counter::get)
    }
}

/// Counters whose second label comes from outside; from the limit on, new values are counted as `other`.
#[derive(Debug)]
pub(super) struct Open {
    family: Family<Pair, Counter>,
    labels: [&'static str; 2],
    seen: Mutex<HashSet<String>>,
    /// The same counts, since a family can't be read.
    counts: Mutex<BTreeMap<(String, String), u64>>,
    limit: usize,
}

impl Open {
    /// Registers the family.
    pub(super) fn register(
        registry: &mut Registry,
        name: &str,
        help: &str,
        labels: [&'static str; 2],
        limit: usize,
    ) -> Self {
        let family = Family::default();
        registry.register(name, help, family.clone());
        Self {
            family,
            labels,
            seen: Mutex::default(),
            counts: Mutex::default(),
            limit,
        }
    }

    /// Counts one.
    pub(super) fn inc(&self, first: &str, second: &str) {
        let second = {
            let mut seen = self.seen.lock();
            if seen.contains(second) || (seen.len() < self.limit && seen.insert(second.to_owned())) {
                second
            } else {
                "other"
            }
        };
        *self
            .counts
            .lock()
            .entry((first.to_owned(), second.to_owned()))
            .or_default() += 1;
        self.family
            .get_or_create_owned(&[(self.labels[0], first.to_owned()), (self.labels[1], second.to_owned())])
            .inc();
    }
    /// Every count, by both labels.
    pub(super) fn counts(&self) -> BTreeMap<(String, String), u64> {
        self.counts.lock().clone()
    }
}
