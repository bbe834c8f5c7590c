//! Jobs that the table owns, decoded once: a campaign's 200 parts need its message 200 times, its recipients never.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::{
    broker::Properties,
    domain::{
        JobId,
        job::{Job, Task},
    },
};

/// Jobs kept at most. Each holds one message, at most some 30 KB.
const CAPACITY: usize = 128;

/// A stored job, decoded.
#[derive(Debug)]
pub(super) struct LoadedJob {
    /// The job; a batch's recipients are left out, since each claim tells its own.
    pub(super) job: Job,
    /// Its AMQP properties.
    pub(super) properties: Properties,
    /// Distinct recipients.
    pub(super) total: u32,
}

impl LoadedJob {
    /// Leaves out what is never read here.
    pub(super) fn new(mut job: Job, properties: Properties, total: u32) -> Self {
        if let Task::BatchSend { to, .. } = &mut job.task {
            *to = Vec::new();
        }
        Self { job, properties, total }
    }
}

/// A job's place: empty while its first part reads it, which the others wait for rather than read megabytes themselves.
type Cell = Arc<OnceCell<Arc<LoadedJob>>>;

/// The cache.
#[derive(Debug, Default)]
pub(super) struct JobCache {
    jobs: Mutex<VecDeque<(JobId, Cell)>>,
}

impl JobCache {
    /// A job that was loaded lately.
    pub(super) fn get(&self, id: &JobId) -> Option<Arc<LoadedJob>> {
        let jobs = self.jobs.lock();
        let (_, cell) = jobs.iter().find(|(kept, _)| kept == id)?;
        cell.get().cloned()
    }

    /// A job's place; the oldest is forgotten for a new one.
    pub(super) fn cell(&self, id: &JobId) -> Cell {
        let mut jobs = self.jobs.lock();
        if let Some((_, cell)) = jobs.iter().find(|(kept, _)| kept == id) {
            return Arc::clone(cell);
        }
        if jobs.len() >= CAPACITY {
            jobs.pop_back();
        }
        let cell = Cell::default();
        jobs.push_front((id.clone(), Arc::clone(&cell)));
        cell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_one_place_until_it_is_the_oldest() {
        let cache = JobCache::default();
        let id = |n: usize| JobId::parse(format!("job-{n}")).unwrap();
        let first = cache.cell(&id(0));
        assert!(Arc::ptr_eq(&first, &cache.cell(&id(0))));
        assert!(cache.get(&id(0)).is_none());
        for n in 1..=CAPACITY {
            drop(cache.cell(&id(n)));
        }
        assert!(!Arc::ptr_eq(&first, &cache.cell(&id(0))));
    }
}
