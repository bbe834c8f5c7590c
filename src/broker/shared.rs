//! What the parts of the broker layer know of each other: whether work is wanted, what is up, what is amiss.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{BrokerError, BrokerOptions, BrokerStats, Topology, link::Endpoint, link::Link};
use crate::domain::Lane;

/// Whether the broker layer can do its work. Reasons stop it, notes don't.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerReadiness {
    /// Topology, consumers and publishing are there.
    pub ready: bool,
    /// What is missing, a sentence each; empty if ready.
    pub reasons: Vec<String>,
    /// What an operator should know although work goes on.
    pub notes: Vec<String>,
}

/// The two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Consume,
    Publish,
}

impl Side {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Consume => "consume",
            Self::Publish => "publish",
        }
    }
}

/// Whether deliveries are wanted, and how many consumers there are at this moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Intake {
    pub(super) paused: bool,
    /// Lanes that an operator paused.
    pub(super) lanes: [bool; 3],
    pub(super) stopped: bool,
    pub(super) active: usize,
}

impl Intake {
    pub(super) fn wanted(self) -> bool {
        !self.paused && !self.stopped
    }

    pub(super) fn wants(self, lane: Lane) -> bool {
        self.wanted() && !self.lanes[lane.index()]
    }
}

/// What publishers need to know of their connection.
#[derive(Debug, Clone, Default)]
pub(super) struct PublishState {
    pub(super) up: bool,
    pub(super) blocked: Option<String>,
    /// Why it is not up.
    pub(super) trouble: Option<String>,
    /// The largest frame, in bytes; 0 while unknown.
    pub(super) frame_max: u32,
}

#[derive(Default)]
struct SideState {
    link: Option<Arc<Link>>,
    /// Why it is not up, the latest.
    trouble: Option<String>,
    notes: Vec<String>,
}

#[derive(Default)]
struct State {
    consume: SideState,
    publish: SideState,
    /// By queue: `None` while it is consumed, else why not.
    queues: BTreeMap<Arc<str>, Option<String>>,
}

impl State {
    fn side(&mut self, side: Side) -> &mut SideState {
        match side {
            Side::Consume => &mut self.consume,
            Side::Publish => &mut self.publish,
        }
    }
}

pub(super) struct Shared {
    pub(super) options: Arc<BrokerOptions>,
    pub(super) endpoint: Endpoint,
    pub(super) topology: Topology,
    pub(super) stats: Arc<BrokerStats>,
    /// Close everything in good order.
    pub(super) stop: CancellationToken,
    pub(super) intake: watch::Sender<Intake>,
    /// By lane: what each of its queues may have unsettled.
    pub(super) prefetch: watch::Sender<[u16; 3]>,
    pub(super) publishing: watch::Sender<PublishState>,
    /// Queues that aren't consumed yet start with one delivery.
    pub(super) slow_start: AtomicBool,
    state: Mutex<State>,
}

impl Shared {
    pub(super) fn new(options: Arc<BrokerOptions>, endpoint: Endpoint, topology: Topology) -> Self {
        let mut state = State::default();
        if options.consume {
            let starting = || Some("not started yet".to_owned());
            state.queues = topology
                .job_queues()
                .iter()
                .map(|queue| (Arc::clone(&queue.name), starting()))
                .collect();
        }
        Self {
            slow_start: AtomicBool::new(options.slow_start),
            // A prefetch of 0 would mean no bound at all.
            prefetch: watch::Sender::new(options.prefetch.map(|prefetch| prefetch.max(1))),
            options,
            endpoint,
            topology,
            stats: Arc::default(),
            stop: CancellationToken::new(),
            intake: watch::Sender::default(),
            publishing: watch::Sender::default(),
            state: Mutex::new(state),
        }
    }

    /// The lane of a job queue.
    pub(super) fn lane_of(&self, queue: &str) -> Option<Lane> {
        let mut queues = self.topology.job_queues().iter();
        queues.find(|known| *known.name == *queue).map(|known| known.lane)
    }

    /// Whether no delivery will be taken any more.
    pub(super) fn stopping(&self) -> bool {
        self.intake.borrow().stopped || self.stop.is_cancelled()
    }

    /// Counts a consumer in, unless none is wanted. The question and the count are one step, so that whoever stops
    /// consuming and then waits for none to be left can't miss one.
    pub(super) fn begin_consuming(self: &Arc<Self>, lane: Lane) -> Option<Consuming> {
        let mut begun = false;
        self.intake.send_if_modified(|intake| {
            begun = intake.wants(lane) && !self.stop.is_cancelled();
            intake.active += usize::from(begun);
            begun
        });
        begun.then(|| Consuming(Arc::clone(self)))
    }

    /// The connection is up and the topology is there, but for what the notes say.
    pub(super) fn up(&self, side: Side, link: &Arc<Link>, notes: Vec<String>) {
        let mut state = self.state.lock();
        let side = state.side(side);
        side.link = Some(Arc::clone(link));
        side.trouble = None;
        side.notes = notes;
    }

    pub(super) fn notes(&self, side: Side, notes: Vec<String>) {
        self.state.lock().side(side).notes = notes;
    }

    pub(super) fn down(&self, side: Side, why: &str) {
        let mut state = self.state.lock();
        let side = state.side(side);
        side.link = None;
        side.trouble = Some(why.to_owned());
    }

    pub(super) fn queue_consumed(&self, queue: &Arc<str>) {
        self.state.lock().queues.insert(Arc::clone(queue), None);
    }

    pub(super) fn queue_idle(&self, queue: &Arc<str>, why: &str) {
        self.state.lock().queues.insert(Arc::clone(queue), Some(why.to_owned()));
    }

    /// A connection that is up, the consuming one first: the broker goes on reading it under an alarm.
    pub(super) fn any_link(&self) -> Result<Arc<Link>, BrokerError> {
        let state = self.state.lock();
        let link = state.consume.link.as_ref().or(state.publish.link.as_ref());
        link.cloned().ok_or_else(|| {
            let trouble = state.publish.trouble.clone().or_else(|| state.consume.trouble.clone());
            BrokerError::Away(trouble.unwrap_or_else(|| "connecting".to_owned()))
        })
    }

    pub(super) fn is_connected(&self) -> bool {
        let state = self.state.lock();
        state.publish.link.is_some() && (!self.options.consume || state.consume.link.is_some())
    }

    pub(super) fn readiness(&self) -> BrokerReadiness {
        let intake = *self.intake.borrow();
        let blocked = self.publishing.borrow().blocked.clone();
        let state = self.state.lock();
        let mut reasons = Vec::new();
        let mut sides = vec![(Side::Publish, &state.publish)];
        if self.options.consume {
            sides.insert(0, (Side::Consume, &state.consume));
        }
        for (side, found) in &sides {
            if found.link.is_none() {
                let why = found.trouble.as_deref().unwrap_or("connecting");
                reasons.push(format!("RabbitMQ, connection to {}: {why}", side.as_str()));
            }
        }
        if intake.stopped {
            reasons.push("RabbitMQ: consuming has been stopped".to_owned());
        } else if !intake.paused && state.consume.link.is_some() {
            for (queue, why) in &state.queues {
                let paused = self.lane_of(queue).is_some_and(|lane| intake.lanes[lane.index()]);
                if let Some(why) = why.as_ref().filter(|_| !paused) {
                    reasons.push(format!("RabbitMQ, queue {queue}: not consumed: {why}"));
                }
            }
        }
        let mut notes: Vec<String> = sides
            .iter()
            .flat_map(|(_, found)| found.notes.iter().cloned())
            .collect();
        notes.sort();
        notes.dedup();
        notes.extend(blocked.map(|why| format!("RabbitMQ takes no publishes for now: {why}")));
        if intake.paused {
            let how = if intake.active == 0 {
                "is paused"
            } else {
                "is being paused"
            };
            notes.push(format!("RabbitMQ: consuming {how}"));
        }
        BrokerReadiness {
            ready: reasons.is_empty(),
            reasons,
            notes,
        }
    }
}

/// One consumer that is or may be registered at the broker.
pub(super) struct Consuming(Arc<Shared>);

impl Drop for Consuming {
    fn drop(&mut self) {
        self.0.intake.send_modify(|intake| intake.active -= 1);
    }
}
