//! A worker in virtual time: arrivals, claims, late timers, drops, answers, stalls. What the budget promises is measured
//! on the instants at which slots were used, as a service would count them.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    BudgetOptions, Forfeited, Limits, Nanos, Pacer, SlotSource,
    governor_pacer::GovernorPacer,
    key_state::{Grant, KeyState, SlotId, Wish},
    lanes::Ticket,
    window_pacer::{SECOND, WindowPacer},
};
use crate::domain::{GroupName, Lane};

pub(super) const MS: Nanos = 1_000_000;

/// How a simulated worker and machine behave. Times in nanoseconds, odds in thousandths.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) seed: u64,
    /// From the grant until the claim is committed: at most.
    pub(super) claim: Nanos,
    /// How late a timer fires: at most.
    pub(super) timer: Nanos,
    /// How often it fires later than that, and by how much at most.
    pub(super) late: (u32, Nanos),
    /// How often a job needn't call and hands its slot on.
    pub(super) drops: u32,
    /// From the use until the answer: at most.
    pub(super) answer: Nanos,
    /// From the use until the service has it: at most, and not after the answer.
    pub(super) drift: Nanos,
    /// When the whole process stands still, and for how long.
    pub(super) stalls: Vec<(Nanos, Nanos)>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            seed: 1,
            claim: 20 * MS,
            timer: 1_500_000,
            late: (0, 0),
            drops: 0,
            answer: 30 * MS,
            drift: 2 * MS,
            stalls: Vec::new(),
        }
    }
}

/// A job of the simulation.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) lane: Lane,
    pub(super) group: Option<GroupName>,
    pub(super) recipients: u32,
    /// Another one like it comes when it is done: a backlog.
    pub(super) endless: bool,
}

impl Job {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            lane,
            group: None,
            recipients: 0,
            endless: false,
        }
    }

    pub(super) fn endless(self) -> Self {
        Self { endless: true, ..self }
    }

    pub(super) fn to(self, recipients: u32) -> Self {
        Self { recipients, ..self }
    }

    pub(super) fn in_group(self, group: &str) -> Self {
        Self {
            group: GroupName::parse(group).ok(),
            ..self
        }
    }
}

/// A slot that was used.
#[derive(Debug, Clone)]
pub(super) struct Use {
    pub(super) at: Nanos,
    /// When the service had it: some time before the answer.
    pub(super) arrived: Nanos,
    pub(super) asked: Nanos,
    pub(super) job: Job,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize, Nanos),
    Turn,
    Try(usize),
    Answer(usize),
}

pub(super) struct Simulation {
    pub(super) state: KeyState<usize>,
    pub(super) now: Nanos,
    pub(super) uses: Vec<Use>,
    model: Model,
    rng: StdRng,
    jobs: Vec<Job>,
    asked: BTreeMap<usize, Nanos>,
    slots: BTreeMap<usize, (SlotId, u32)>,
    pub(super) tickets: BTreeMap<usize, Ticket>,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    number: u64,
    turn_at: Option<Nanos>,
}

pub(super) fn limits(calls_per_second: u32, recipients_per_minute: u32) -> Limits {
    Limits {
        calls_per_second,
        recipients_per_minute,
    }
}

impl Simulation {
    pub(super) fn new(options: &BudgetOptions, limits: Limits, model: Model) -> Self {
        let source: Box<dyn SlotSource> = match options.pacer {
            Pacer::Window => Box::new(WindowPacer::new(options, limits)),
            Pacer::Governor => Box::new(GovernorPacer::new(options, limits)),
        };
        Self::with_source(options, limits, model, source)
    }

    /// A worker whose slots come from this source.
    pub(super) fn with_source(
        options: &BudgetOptions,
        limits: Limits,
        model: Model,
        source: Box<dyn SlotSource>,
    ) -> Self {
        Self {
            state: KeyState::new(options, limits, source),
            now: 0,
            uses: Vec::new(),
            rng: StdRng::seed_from_u64(model.seed),
            model,
            jobs: Vec::new(),
            asked: BTreeMap::new(),
            slots: BTreeMap::new(),
            tickets: BTreeMap::new(),
            events: BinaryHeap::new(),
            number: 0,
            turn_at: None,
        }
    }

    /// A number up to `most`.
    fn upto(&mut self, most: Nanos) -> Nanos {
        self.rng.random_range(0..=most)
    }

    fn odds(&mut self, thousandths: u32) -> bool {
        self.rng.random_range(0..1_000) < thousandths
    }

    fn at(&mut self, mut at: Nanos, event: Event) -> Nanos {
        at = at.max(self.now);
        for &(start, length) in &self.model.stalls {
            if (start..start + length).contains(&at) {
                at = start + length;
            }
        }
        self.number += 1;
        self.events.push(Reverse((at, self.number, event)));
        at
    }

    /// When a timer set for `at` fires.
    fn timer(&mut self, at: Nanos) -> Nanos {
        let (odds, most) = self.model.late;
        let most = if self.odds(odds) { most } else { self.model.timer };
        at.max(self.now) + self.upto(most)
    }

    /// A job arrives.
    pub(super) fn arrive(&mut self, at: Nanos, job: Job) -> usize {
        self.jobs.push(job);
        let number = self.jobs.len() - 1;
        self.at(at, Event::Arrive(number, at));
        number
    }

    /// Endless jobs of the same kind.
    pub(super) fn backlog(&mut self, count: usize, job: &Job) {
        for _ in 0..count {
            self.arrive(0, job.clone().endless());
        }
    }

    /// When something happens next.
    pub(super) fn next_event(&self) -> Option<Nanos> {
        self.events.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Runs until then.
    pub(super) fn run(&mut self, until: Nanos) {
        while let Some(Reverse((at, _, _))) = self.events.peek() {
            if *at >= until {
                break;
            }
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                break;
            };
            self.now = at;
            self.handle(event);
        }
        self.now = until;
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(job, asked) => self.ask(job, asked, false),
            // One that a sooner one replaced is no timer any more.
            Event::Turn if self.turn_at != Some(self.now) => {}
            Event::Turn => {
                self.turn_at = None;
                self.turn();
            }
            Event::Try(job) => self.attempt(job),
            Event::Answer(job) => {
                let recipients = self.jobs[job].recipients;
                self.state.answered(self.now, self.now, recipients);
                self.turn();
                if self.jobs[job].endless {
                    self.ask(job, self.now, false);
                }
            }
        }
    }

    fn ask(&mut self, job: usize, asked: Nanos, retry: bool) {
        self.asked.insert(job, asked);
        let wish = Wish {
            lane: Some(self.jobs[job].lane),
            group: self.jobs[job].group.clone(),
            recipients: self.jobs[job].recipients,
            retry,
        };
        if let Some(grant) = self.state.at_once(self.now, &wish) {
            self.granted(job, grant, retry);
        } else {
            let ticket = self.state.queue(self.now, wish, job);
            self.tickets.insert(job, ticket);
            self.turn();
        }
    }

    fn granted(&mut self, job: usize, grant: Grant, claimed: bool) {
        self.tickets.remove(&job);
        self.slots.insert(job, (grant.id, grant.recipients));
        let claim = if claimed { 0 } else { self.upto(self.model.claim) };
        let ready = self.timer(grant.due).max(self.now + claim);
        self.at(ready, Event::Try(job));
    }

    pub(super) fn turn(&mut self) {
        let turn = self.state.turn(self.now);
        for (job, grant) in turn.grants {
            self.granted(job, grant, false);
        }
        if let Some(wake) = turn.wake
            && self.turn_at.is_none_or(|at| wake < at)
        {
            // tokio's timer has a grain of a millisecond.
            let at = self.timer(wake.next_multiple_of(MS));
            self.turn_at = Some(self.at(at, Event::Turn));
        }
    }

    fn attempt(&mut self, job: usize) {
        let (id, recipients) = self.slots[&job];
        if self.odds(self.model.drops) {
            self.state.hand_on(self.now, id);
            self.turn();
            self.at(self.now, Event::Arrive(job, self.now));
            return;
        }
        match self.state.use_now(self.now, id) {
            Ok(_) => {
                let answer = self.now + 1 + self.upto(self.model.answer);
                let arrived = self.now + self.upto(self.model.drift.min(answer - self.now));
                self.uses.push(Use {
                    at: self.now,
                    arrived,
                    asked: self.asked[&job],
                    job: self.jobs[job].clone(),
                });
                assert_eq!(recipients, self.jobs[job].recipients);
                self.at(answer, Event::Answer(job));
            }
            Err(Forfeited::Early) => {
                let due = self.state.due(id).unwrap_or(self.now);
                let again = self.timer(due);
                self.at(again, Event::Try(job));
            }
            Err(Forfeited::Late | Forfeited::TakenBack) => {
                self.turn();
                self.ask(job, self.asked[&job], true);
            }
        }
    }

    /// The most that any half-open sliding window of `length` holds at our wire, of what `weight` counts.
    pub(super) fn fullest(&self, length: Nanos, weight: impl Fn(&Use) -> u32) -> u64 {
        fullest(self.uses.iter().map(|used| (used.at, weight(used))), length)
    }

    /// The same as the service sees it, in calls.
    pub(super) fn fullest_at_service(&self, length: Nanos) -> u64 {
        fullest(self.uses.iter().map(|used| (used.arrived, 1)), length)
    }

    /// The share of `per_second` that was used between two instants.
    pub(super) fn used(&self, from: Nanos, to: Nanos, per_second: f64, weight: impl Fn(&Use) -> u32) -> f64 {
        let inside = self.uses.iter().filter(|used| (from..to).contains(&used.at));
        let total: u64 = inside.map(|used| u64::from(weight(used))).sum();
        total as f64 / (per_second * (to - from) as f64 / SECOND as f64)
    }

    pub(super) fn count(&self, from: Nanos, to: Nanos, lane: Lane) -> usize {
        let inside = self.uses.iter().filter(|used| (from..to).contains(&used.at));
        inside.filter(|used| used.job.lane == lane).count()
    }

    /// How long the uses of a lane took from the wish, sorted.
    pub(super) fn waits(&self, lane: Lane) -> Vec<Nanos> {
        let of_lane = self.uses.iter().filter(|used| used.job.lane == lane);
        let mut waits: Vec<_> = of_lane.map(|used| used.at - used.asked).collect();
        waits.sort_unstable();
        waits
    }
}

/// The most that any half-open sliding window of `length` holds.
pub(super) fn fullest(stamps: impl Iterator<Item = (Nanos, u32)>, length: Nanos) -> u64 {
    let mut stamps: Vec<_> = stamps.collect();
    stamps.sort_unstable();
    let (mut first, mut held, mut most) = (0, 0, 0);
    for &(at, weight) in &stamps {
        held += u64::from(weight);
        while stamps[first].0 + length <= at {
            held -= u64::from(stamps[first].1);
            first += 1;
        }
        most = most.max(held);
    }
    most
}

/// Every call counts one.
pub(super) fn one(_: &Use) -> u32 {
    1
}

mod lanes_and_throttle;
mod window_laws;
