//! Jobs that the table owns, decoded once: a campaign's 200 parts need its message 200 times, its recipients never.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;

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

/// The cache.
#[derive(Debug, Default)]
pub(super) struct JobCache {
    jobs: Mutex<VecDeque<Arc<LoadedJob>>>,
}

impl JobCache {
    /// A job that was loaded lately.
    pub(super) fn get(&self, id: &JobId) -> Option<Arc<LoadedJob>> {
        self.jobs.lock().iter().find(|loaded| loaded.job.id == *id).cloned()
    }

    /// Keeps a job, and forgets the oldest.
    pub(super) fn put(&self, loaded: Arc<LoadedJob>) {
        let mut jobs = self.jobs.lock();
        if jobs.len() >= CAPACITY {
            jobs.pop_back();
        }
        jobs.push_front(loaded);
    }
}
