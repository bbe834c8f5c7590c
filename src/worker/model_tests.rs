//! The life of a job in any order of events: delivered, claimed, called, frozen, lost, crashed, delivered again, taken from
//! the table, looked for, revoked, expired. The statements are the store's, on a real Postgres, and the decisions the
//! worker's; the service and time are a model.
//!
//! Every case must end so that the service has the message at most once, that the record tells what the service has, that
//! every key is on record, and that nothing is left open. `PROPTEST_CASES` runs more than the 64 cases of an ordinary run,
//! `PROPTEST_RNG_SEED` others; a failure prints its smallest case.

use std::time::Duration;

use chrono::{DateTime, Utc};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    context::Timing,
    judge::FIRST_LOOK,
    reconcile::open_verdict,
    step::{Absence, Step, after_absence},
};
use crate::{
    domain::{AccountId, AppName, Command, JobId, Lane, MessageState, Owner, job::RevokeTarget},
    store::{
        CALL_WINDOW, CallPair, CapRule, ClaimVerdict, Doubt, DoubtNext, DoubtVerdict, Found, Holder, MemberFailure,
        NewClaim, NewRevocation, OutboxEvent, Parcel, Recorded, RevokeOutcome, Room, SecondDelivery, SentOutcome,
        Settlement, SingleClaim, SingleOutcome, Store, WorkKind, WorkUnit,
    },
};

const TIMING: Timing = Timing {
    total_timeout: Duration::from_secs(10),
    settle: Duration::from_secs(5),
    listed_after: Duration::from_mins(3),
    usersig_lifetime: Duration::from_secs(30),
};
const ENCODER: i16 = 1;
const LEASE: Duration = Duration::from_mins(1);
/// Of the service: how long it remembers a pair, and how late it lists a message at most.
const REMEMBERED: f64 = 120.0;
const WORKERS: usize = 2;
const MAX_ATTEMPTS: u32 = 8;

/// What becomes of a call.
#[derive(Debug, Clone, Copy)]
enum Fate {
    /// Carried out and answered.
    Answered,
    /// Carried out, and the answer is lost.
    AnswerLost,
    /// Lost on its way.
    Lost,
    /// The caller gives it up, and it arrives later, within the time-out.
    Late(u8),
    /// Definitely not carried out.
    Refused,
    /// The process stops in its write; what it does when it goes on is `Event::Thaw`.
    Frozen,
}

/// What happens next. A worker for whom it makes no sense does nothing.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The broker hands a copy of the job to a worker.
    Deliver(usize),
    /// A worker takes what is due.
    Take(usize),
    /// It makes the call that it has claimed.
    Call(usize, Fate),
    /// It records the outcome; perhaps twice, since the COMMIT's answer was lost.
    Record(usize, bool),
    /// It dies.
    Crash(usize),
    /// It goes on; perhaps it still gets the answer.
    Thaw(usize, bool),
    /// The producer publishes the job once more.
    Repeat,
    /// Somebody revokes it.
    Revoke,
    /// Tenths of a second pass.
    Wait(u16),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => Just(Fate::Answered),
        3 => Just(Fate::AnswerLost),
        2 => Just(Fate::Lost),
        2 => (0..10_u8).prop_map(Fate::Late),
        1 => Just(Fate::Refused),
        3 => Just(Fate::Frozen),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let worker = || 0..WORKERS;
    prop_oneof![
        3 => worker().prop_map(Event::Deliver),
        5 => worker().prop_map(Event::Take),
        6 => (worker(), fate()).prop_map(|(worker, fate)| Event::Call(worker, fate)),
        4 => (worker(), any::<bool>()).prop_map(|(worker, twice)| Event::Record(worker, twice)),
        2 => worker().prop_map(Event::Crash),
        3 => (worker(), any::<bool>()).prop_map(|(worker, answer)| Event::Thaw(worker, answer)),
        1 => Just(Event::Repeat),
        1 => Just(Event::Revoke),
        6 => prop::sample::select(vec![3_u16, 20, 100, 200, 400, 610, 1_000, 1_900]).prop_map(Event::Wait),
    ]
}

/// A case: how late the service lists its messages, when the job's time is over, and what happens.
#[derive(Debug, Clone)]
struct Case {
    lag: f64,
    expires: Option<f64>,
    events: Vec<Event>,
}

fn case() -> impl Strategy<Value = Case> {
    (
        prop::sample::select(vec![0.0, 5.0, 60.0, 178.0]),
        prop_oneof![3 => Just(None), 1 => (1..400_u16).prop_map(|at| Some(f64::from(at)))],
        prop::collection::vec(event(), 1..40),
    )
        .prop_map(|(lag, expires, events)| Case { lag, expires, events })
}

/// A message that the service has.
#[derive(Debug)]
struct Message {
    key: String,
    pair: CallPair,
    at: f64,
    revoked: bool,
}

/// The service as documented: it drops repeats for a while, refuses signatures that have expired, lists late.
#[derive(Debug)]
struct Service {
    messages: Vec<Message>,
    lag: f64,
    remembers: f64,
}

impl Service {
    fn accept(&mut self, now: f64, pair: CallPair) -> String {
        let known = self
            .messages
            .iter()
            .rev()
            .find(|message| message.pair == pair && now - message.at <= self.remembers);
        if let Some(known) = known {
            return known.key.clone();
        }
        let key = format!("{}_{}_{}", pair.seq, pair.random, self.messages.len());
        self.messages.push(Message {
            key: key.clone(),
            pair,
            at: now,
            revoked: false,
        });
        key
    }

    /// What the history shows: revoked messages too.
    fn listed(&self, now: f64, pair: CallPair) -> Option<&Message> {
        self.messages
            .iter()
            .find(|message| message.pair == pair && now - message.at >= self.lag)
    }

    fn withdraw(&mut self, key: &str) {
        for message in self.messages.iter_mut().filter(|message| message.key == key) {
            message.revoked = true;
        }
    }
}

/// What a call taught its worker.
#[derive(Debug, Clone)]
enum Taught {
    Sent(String),
    Ambiguous,
    Refused,
    TooLate,
}

/// A claim in a worker's hands.
#[derive(Debug, Clone)]
struct Hand {
    /// `None`: the job's delivery owns it.
    unit: Option<WorkUnit>,
    created_at: DateTime<Utc>,
    token: Uuid,
    pair: CallPair,
    claimed: f64,
    taught: Option<Taught>,
    /// In its write, under a signature that ends then.
    frozen_until: Option<f64>,
    /// The delivery is still this worker's to acknowledge.
    unacked: bool,
}

struct World<'a> {
    store: &'a Store,
    job: JobId,
    now: f64,
    expires: Option<f64>,
    service: Service,
    workers: [Option<Hand>; WORKERS],
    /// Copies that wait in the queue, each perhaps redelivered.
    queue: Vec<bool>,
    /// Calls that arrive later: when, and the pair.
    on_their_way: Vec<(f64, CallPair)>,
    revoked: bool,
}

fn outbox_event(job: &JobId, outcome: &str) -> OutboxEvent {
    OutboxEvent {
        job: job.clone(),
        event_id: format!("{job}/{outcome}"),
        routing_key: format!("send.{outcome}"),
        body: b"{}".to_vec(),
        reply_to: None,
        correlation_id: None,
    }
}

fn parcel() -> Parcel {
    Parcel {
        body: b"{}".to_vec(),
        properties: vec![1, 0, 0],
        queue: "im.jobs.normal".to_owned(),
    }
}

fn pair(generation: i32) -> CallPair {
    CallPair {
        seq: 7,
        random: generation as u32,
    }
}

impl World<'_> {
    fn over(&self) -> bool {
        self.expires.is_some_and(|at| at <= self.now)
    }

    /// Lets time pass: for the rows by moving what they remember into the past.
    async fn wait(&mut self, tenths: u16) {
        let seconds = f64::from(tenths) / 10.0;
        self.now += seconds;
        for statement in [
            "UPDATE messages SET first_call_at = first_call_at - make_interval(secs => $1),
                                 last_call_at = last_call_at - make_interval(secs => $1),
                                 pair_since = pair_since - make_interval(secs => $1),
                                 call_by = call_by - make_interval(secs => $1)",
            "UPDATE work SET due_at = due_at - make_interval(secs => $1), looked_at = looked_at - make_interval(secs => $1)",
        ] {
            sqlx::query(statement)
                .bind(seconds)
                .execute(self.store.pool())
                .await
                .unwrap();
        }
        self.arrive();
    }

    fn arrive(&mut self) {
        let now = self.now;
        let (arrived, later) = self.on_their_way.iter().partition(|(at, _)| *at <= now);
        self.on_their_way = later;
        let mut arrived: Vec<(f64, CallPair)> = arrived;
        arrived.sort_by(|a, b| a.0.total_cmp(&b.0));
        for (at, pair) in arrived {
            self.service.accept(at, pair);
        }
    }

    async fn happens(&mut self, event: Event) {
        match event {
            Event::Deliver(worker) => self.deliver(worker).await,
            Event::Take(worker) => self.take(worker).await,
            Event::Call(worker, fate) => self.call(worker, fate),
            Event::Record(worker, twice) => self.record(worker, twice).await,
            Event::Crash(worker) => {
                if let Some(hand) = self.workers[worker].take()
                    && hand.unacked
                {
                    self.queue.push(true);
                }
            }
            Event::Thaw(worker, answer) => self.thaw(worker, answer),
            Event::Repeat => self.queue.push(false),
            Event::Revoke => self.revoke().await,
            Event::Wait(tenths) => self.wait(tenths).await,
        }
    }

    async fn deliver(&mut self, worker: usize) {
        if self.workers[worker].is_some() {
            return;
        }
        let Some(redelivered) = self.queue.pop() else { return };
        let token = Uuid::new_v4();
        let claim = NewClaim {
            id: self.job.clone(),
            digest: [0; 32],
            job_type: 0,
            app: AppName::default_app(),
            group: None,
            lane: Lane::Normal,
            from: AccountId::parse("administrator").unwrap(),
            to: AccountId::parse("alice").unwrap(),
            send_at: None,
            expires_at: None,
            on_unknown: 0,
            seq: pair(0).seq,
            random: pair(0).random,
            encoder: ENCODER,
            token,
            expired: self.over(),
            online_only: false,
        };
        match self.store.claim_new(false, &[claim]).await.unwrap().remove(0) {
            ClaimVerdict::Claimed { created_at } => {
                self.workers[worker] = Some(Hand {
                    unit: None,
                    created_at,
                    token,
                    pair: pair(0),
                    claimed: self.now,
                    taught: None,
                    frozen_until: None,
                    unacked: true,
                });
            }
            ClaimVerdict::Existing(existing) => {
                let live = existing
                    .message
                    .as_ref()
                    .is_some_and(|message| !message.state.is_final());
                if existing.owner == Owner::Queue && live {
                    let second = SecondDelivery {
                        id: &self.job,
                        created_at: existing.created_at,
                        lane: Lane::Normal,
                        app: &AppName::default_app(),
                        group: None,
                        parcel: &parcel(),
                    };
                    let after = if redelivered { FIRST_LOOK } else { TIMING.quiet() };
                    self.store.hand_over_live(&second, after).await.unwrap();
                }
            }
            ClaimVerdict::Cancelled { .. } | ClaimVerdict::Expired => {}
        }
    }

    fn call(&mut self, worker: usize, fate: Fate) {
        let now = self.now;
        let Some(hand) = self.workers[worker].as_mut().filter(|hand| hand.taught.is_none()) else {
            return;
        };
        if hand.frozen_until.is_some() {
            return;
        }
        if now - hand.claimed >= CALL_WINDOW.as_secs_f64() {
            hand.taught = Some(Taught::TooLate);
            return;
        }
        let pair = hand.pair;
        hand.taught = match fate {
            Fate::Answered => Some(Taught::Sent(self.service.accept(now, pair))),
            Fate::AnswerLost => {
                self.service.accept(now, pair);
                Some(Taught::Ambiguous)
            }
            Fate::Lost => Some(Taught::Ambiguous),
            Fate::Late(seconds) => {
                self.on_their_way.push((now + f64::from(seconds), pair));
                Some(Taught::Ambiguous)
            }
            Fate::Refused => Some(Taught::Refused),
            Fate::Frozen => {
                hand.frozen_until = Some(now + TIMING.usersig_lifetime.as_secs_f64());
                // The broker misses its heartbeats.
                if std::mem::take(&mut hand.unacked) {
                    self.queue.push(true);
                }
                None
            }
        };
    }

    /// A frozen worker goes on with its write.
    fn thaw(&mut self, worker: usize, answer: bool) {
        let now = self.now;
        let Some(hand) = self.workers[worker].as_mut() else {
            return;
        };
        let Some(until) = hand.frozen_until.take() else { return };
        let accepted = (now <= until).then(|| self.service.accept(now, hand.pair));
        hand.taught = Some(match accepted {
            _ if !answer => Taught::Ambiguous,
            Some(key) => Taught::Sent(key),
            None => Taught::Refused,
        });
    }

    async fn record(&mut self, worker: usize, twice: bool) {
        let Some(hand) = self.workers[worker].clone() else {
            return;
        };
        let Some(taught) = hand.taught.clone() else { return };
        for _ in 0..=u8::from(twice) {
            match (&taught, &hand.unit) {
                (Taught::Sent(key), None) => {
                    let outcome = SentOutcome {
                        id: self.job.clone(),
                        created_at: hand.created_at,
                        app: AppName::default_app(),
                        group: None,
                        token: hand.token,
                        msg_key: key.clone(),
                        msg_time: None,
                    };
                    self.store.record_sent(false, &[outcome]).await.unwrap();
                }
                _ => {
                    self.settle(&hand, &taught).await;
                }
            }
        }
        self.workers[worker] = None;
    }

    async fn settle(&self, hand: &Hand, taught: &Taught) -> Recorded {
        let settlement = Settlement {
            id: self.job.clone(),
            created_at: hand.created_at,
            app: AppName::default_app(),
            group: None,
            lane: Lane::Normal,
            command: Command::SendMsg,
            token: Some(hand.token),
            holder: match &hand.unit {
                Some(unit) => Holder::Work { lease: unit.lease },
                None => Holder::Delivery(parcel()),
            },
            outcome: match taught {
                Taught::Sent(key) => SingleOutcome::Sent {
                    msg_key: key.clone(),
                    msg_time: None,
                },
                Taught::Ambiguous => SingleOutcome::Doubt { after: FIRST_LOOK },
                Taught::Refused | Taught::TooLate => SingleOutcome::Retry {
                    after: Duration::from_secs(1),
                    counts: false,
                },
            },
            error: None,
            note: None,
            event: matches!(taught, Taught::Sent(_)).then(|| outbox_event(&self.job, "sent")),
            letter: None,
        };
        self.store.settle(false, &settlement).await.unwrap()
    }

    async fn take(&mut self, worker: usize) {
        if self.workers[worker].is_some() {
            return;
        }
        let rooms: Vec<Room> = [Command::SendMsg, Command::GetRoamMsg, Command::MsgWithdraw]
            .into_iter()
            .flat_map(|command| Lane::ALL.map(|lane| (command, lane)))
            .map(|(command, lane)| Room {
                command,
                app: AppName::default_app(),
                lane,
                rows: 2,
            })
            .collect();
        let units = self.store.take_work(&rooms, LEASE).await.unwrap();
        for unit in units {
            match unit.kind {
                WorkKind::Deliver if unit.command == Command::GetRoamMsg => self.look(&unit).await,
                WorkKind::Deliver => self.claim(worker, unit).await,
                WorkKind::FanOut => {
                    while !self
                        .store
                        .fan_out(&unit, |_| outbox_event(&self.job, "cancelled"))
                        .await
                        .unwrap()
                    {}
                }
                WorkKind::Revoke => self.withdraw(&unit).await,
                other => panic!("no such work was made: {other:?}"),
            }
        }
    }

    async fn claim(&mut self, worker: usize, unit: WorkUnit) {
        if self.over() {
            return self.expire(&unit).await;
        }
        let token = Uuid::new_v4();
        let uncapped = CapRule {
            scopes: &[],
            event: &|_| outbox_event(&self.job, "suppressed"),
        };
        let claimed = self
            .store
            .claim_single(
                &unit,
                token,
                ENCODER,
                TIMING.repeats(),
                uncapped,
                |generation, _| pair(generation),
                |_, _| outbox_event(&self.job, "cancelled"),
            )
            .await
            .unwrap();
        match claimed {
            SingleClaim::Call { pair, .. } => {
                self.workers[worker] = Some(Hand {
                    created_at: unit.created_at,
                    unit: Some(unit),
                    token,
                    pair,
                    claimed: self.now,
                    taught: None,
                    frozen_until: None,
                    unacked: false,
                });
            }
            SingleClaim::Doubtful => self.to(&unit, Command::GetRoamMsg).await,
            SingleClaim::Final(_) => self.store.end_single(&unit, None).await.unwrap(),
            SingleClaim::Suppressed => panic!("there is no cap"),
            SingleClaim::Cancelled | SingleClaim::Lost => {}
        }
    }

    async fn expire(&self, unit: &WorkUnit) {
        let settlement = Settlement {
            id: self.job.clone(),
            created_at: unit.created_at,
            app: AppName::default_app(),
            group: None,
            lane: Lane::Normal,
            command: Command::SendMsg,
            token: None,
            holder: Holder::Work { lease: unit.lease },
            outcome: SingleOutcome::Expired,
            error: None,
            note: None,
            event: Some(outbox_event(&self.job, "expired")),
            letter: None,
        };
        match self.store.settle(false, &settlement).await.unwrap() {
            Recorded::Applied { .. } => {}
            Recorded::Superseded { state } if !state.is_final() => self.to(unit, Command::GetRoamMsg).await,
            Recorded::Superseded { .. } => self.store.end_single(unit, None).await.unwrap(),
        }
    }

    async fn to(&self, unit: &WorkUnit, command: Command) {
        self.store.postpone(unit, command, Duration::ZERO, false).await.unwrap();
    }

    async fn look(&self, unit: &WorkUnit) {
        let Some(doubt) = self.store.doubt(unit, false).await.unwrap() else {
            return self.to(unit, Command::SendMsg).await;
        };
        let verdict = self.verdict(unit, &doubt);
        self.store.settle_doubt(unit, &doubt, &verdict).await.unwrap();
    }

    fn verdict(&self, unit: &WorkUnit, doubt: &Doubt) -> DoubtVerdict {
        let mut verdict = open_verdict();
        if let Some(message) = self.service.listed(self.now, doubt.pair) {
            verdict.found.push(Found {
                idx: 0,
                msg_key: message.key.clone(),
                msg_time: None,
            });
            return verdict;
        }
        let revocation = doubt.members[0].revocation.clone();
        let step = after_absence(
            &Absence {
                looks: doubt.looks,
                since_first: doubt.since_pair,
                since_last: doubt.since_last,
                may_be_listed: true,
                repeatable: revocation.is_none() && doubt.encoder == ENCODER,
                revoked: revocation.is_some(),
                over: self.over(),
                exhausted: unit.attempts >= MAX_ATTEMPTS,
            },
            &TIMING,
        );
        let mut end = |state| {
            verdict.ended.push(MemberFailure {
                idx: 0,
                state,
                code: String::new(),
                message: String::new(),
            });
        };
        match step {
            Step::Look(after) | Step::Wait(after) => verdict.next = DoubtNext::Look { after, absent: true },
            Step::Expire => end(MessageState::Expired),
            _ if revocation.is_some() => {
                end(MessageState::Cancelled);
                verdict.cancelled_by = revocation;
            }
            Step::GiveUp => end(MessageState::Failed),
            Step::Resend => {
                verdict.resend = vec![0];
                verdict.resend_is_first = doubt.since_last >= TIMING.listed_after;
                verdict.next = DoubtNext::Deliver {
                    command: Command::SendMsg,
                    after: Duration::ZERO,
                };
            }
        }
        verdict
    }

    async fn withdraw(&mut self, unit: &WorkUnit) {
        for message in self.store.revocable(std::slice::from_ref(unit)).await.unwrap() {
            for key in &message.keys {
                self.service.withdraw(key);
            }
            let outcome = RevokeOutcome {
                unit: message.unit,
                withdrawn: message.keys,
                refused: Vec::new(),
                error: None,
                event: outbox_event(&self.job, "revoked"),
            };
            self.store.record_revoked(&[outcome]).await.unwrap();
        }
    }

    async fn revoke(&mut self) {
        self.revoked = true;
        let target = RevokeTarget::Job {
            job: self.job.clone(),
            to: None,
        };
        let (id, app) = (JobId::parse("revocation").unwrap(), AppName::default_app());
        let revocation = NewRevocation {
            id: &id,
            digest: [1; 32],
            app: &app,
            group: None,
            lane: Lane::High,
            target: &target,
            reply_to: None,
            correlation_id: None,
        };
        self.store.add_revocation(&revocation).await.unwrap();
    }

    /// Lets everything come to its end: workers go on, calls are answered, time passes.
    async fn settle_down(&mut self) {
        for round in 0..60 {
            for worker in 0..WORKERS {
                self.thaw(worker, true);
                self.call(worker, Fate::Answered);
                self.record(worker, false).await;
                self.deliver(worker).await;
                self.call(worker, Fate::Answered);
                self.record(worker, false).await;
                self.take(worker).await;
                self.call(worker, Fate::Answered);
                self.record(worker, false).await;
            }
            let open: i64 = sqlx::query_scalar("SELECT count(*) FROM work")
                .fetch_one(self.store.pool())
                .await
                .unwrap();
            if round > 2 && open == 0 && self.queue.is_empty() && self.on_their_way.is_empty() {
                return;
            }
            self.wait(150).await;
        }
    }

    /// What must hold in the end.
    async fn promises(&self) -> Result<(), TestCaseError> {
        let open: i64 = sqlx::query_scalar("SELECT count(*) FROM work")
            .fetch_one(self.store.pool())
            .await
            .unwrap();
        prop_assert_eq!(open, 0, "work is left");
        prop_assert!(self.queue.is_empty());
        let row: Option<(i16, Option<String>)> = sqlx::query_as("SELECT state, msg_key FROM messages")
            .fetch_optional(self.store.pool())
            .await
            .unwrap();
        let (state, own) = row.expect("the job is on record");
        let state = MessageState::from_number(state).unwrap();
        prop_assert!(state.is_final(), "it ends, and is {state:?}");
        prop_assert!(
            self.service.messages.len() <= 1,
            "sent twice: {:?}",
            self.service.messages
        );
        let mut keys: Vec<String> = sqlx::query_scalar("SELECT msg_key FROM message_keys")
            .fetch_all(self.store.pool())
            .await
            .unwrap();
        keys.extend(own.clone());
        for message in &self.service.messages {
            prop_assert!(keys.contains(&message.key), "{} is not on record", message.key);
        }
        let live = self.service.messages.iter().filter(|message| !message.revoked).count();
        match state {
            MessageState::Sent => {
                prop_assert_eq!(live, 1, "the record says sent");
                prop_assert_eq!(own.as_deref(), Some(self.service.messages[0].key.as_str()));
                prop_assert!(!self.revoked, "what is revoked doesn't stay");
            }
            state => prop_assert_eq!(live, 0, "the record says {:?}", state),
        }
        if !self.revoked && self.expires.is_none() {
            prop_assert_eq!(state, MessageState::Sent, "nothing is lost");
        }
        Ok(())
    }
}

async fn run(store: &Store, remembers: f64, case: Case) -> Result<(), TestCaseError> {
    sqlx::query("TRUNCATE jobs, messages, attempts, calls, message_keys, revocations, work, outbox")
        .execute(store.pool())
        .await
        .unwrap();
    let mut world = World {
        store,
        job: JobId::parse("job").unwrap(),
        now: 0.0,
        expires: case.expires,
        service: Service {
            messages: Vec::new(),
            lag: case.lag,
            remembers,
        },
        workers: Default::default(),
        queue: vec![false],
        on_their_way: Vec::new(),
        revoked: false,
    };
    for event in case.events {
        world.happens(event).await;
    }
    world.settle_down().await;
    world.promises().await
}

/// Tries cases until one breaks a promise, and returns it.
async fn broken_promise(pool: PgPool, config: Config, remembers: f64) -> Option<String> {
    let options = (*pool.connect_options()).clone();
    // proptest isn't asynchronous: it gets a thread and a runtime of its own.
    let found = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let store = Store::of_pool(runtime.block_on(PgPool::connect_with(options)).unwrap());
        let found = TestRunner::new(config).run(&case(), |case| runtime.block_on(run(&store, remembers, case)));
        runtime.block_on(store.close());
        found
    });
    found.await.unwrap().err().map(|failure| failure.to_string())
}

fn config(cases: u32) -> Config {
    let mut config = Config {
        max_shrink_iters: 400,
        failure_persistence: None,
        ..Config::default()
    };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    config
}

#[sqlx::test]
async fn any_order_of_events_keeps_the_promises(pool: PgPool) {
    if let Some(case) = broken_promise(pool, config(64), REMEMBERED).await {
        panic!("{case}");
    }
}

/// The model can see a double: with a service that drops no repeats, late writes make some.
#[sqlx::test]
async fn a_service_that_forgets_at_once_breaks_a_promise_in_some_order_of_events(pool: PgPool) {
    let config = Config {
        cases: 2_000,
        max_shrink_iters: 0,
        ..config(0)
    };
    let case = broken_promise(pool, config, -1.0).await.expect("none of 2,000 cases");
    assert!(case.contains("sent twice"), "{case}");
}
