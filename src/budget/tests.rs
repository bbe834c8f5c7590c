//! The budget as its callers use it: tasks, timers, cancellation. On the real clock, so only safety and order are
//! asserted, never speed.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use super::*;
use crate::domain::{Command, Lane, SdkAppId};

/// Long enough for any machine; reached only if something hangs.
const HANG: Duration = Duration::from_mins(1);

fn key(command: Command) -> BudgetKey {
    BudgetKey {
        host: "im.example".into(),
        sdk_app_id: SdkAppId(1_400_000_000),
        command,
    }
}

fn limits(calls_per_second: u32) -> Limits {
    Limits {
        calls_per_second,
        recipients_per_minute: 0,
    }
}

fn budget(calls_per_second: u32) -> Budget {
    Budget::new(BudgetOptions::default(), move |_| limits(calls_per_second))
}

/// One recipient a minute: a budget that stays used up however slow the machine is.
fn one_a_minute() -> (Budget, BudgetKey) {
    let budget = Budget::new(BudgetOptions::default(), |_| Limits {
        calls_per_second: 0,
        recipients_per_minute: 1,
    });
    (budget, key(Command::BatchSendMsg))
}

/// Waits for a slot, uses it, and asks again whenever it is forfeited: the instants right before and right after the use.
async fn call(budget: &Budget, key: &BudgetKey, lane: Lane) -> (Instant, Instant) {
    let mut request = SlotRequest::new(lane);
    loop {
        let mut slot = budget.slot(key, request.clone()).await;
        loop {
            slot.wait_due().await;
            let before = Instant::now();
            match slot.use_now() {
                Ok(()) => return (before, Instant::now()),
                Err(Forfeited::Early) => {}
                Err(Forfeited::Late | Forfeited::TakenBack) => break,
            }
        }
        request.retry_of = true;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_on_the_real_clock_never_use_more_than_the_limit_in_any_second() {
    for pacer in [Pacer::Window, Pacer::Governor] {
        let options = BudgetOptions {
            pacer,
            ..BudgetOptions::default()
        };
        let budget = Budget::new(options, |_| limits(40));
        let key = key(Command::SendMsg);
        let mut tasks = JoinSet::new();
        for task in 0..100 {
            let (budget, key) = (budget.clone(), key.clone());
            tasks.spawn(async move { call(&budget, &key, Lane::ALL[task % 3]).await });
        }
        let mut stamps = timeout(HANG, tasks.join_all()).await.unwrap();
        stamps.sort_unstable();
        for calls in stamps.windows(41) {
            // However long a task stood still between its stamps: 41 uses lay between these two instants.
            let last = calls.iter().map(|(_, after)| *after).max().unwrap();
            let span = last - calls[0].0;
            assert!(span >= Duration::from_secs(1), "{pacer:?}: {span:?}");
        }
        let snapshot = &budget.snapshot()[0];
        assert_eq!(snapshot.calls_last_minute, 100);
        assert_eq!((snapshot.waiting, snapshot.held), ([0; 3], 0));
    }
}

#[tokio::test]
async fn without_a_limit_a_slot_is_there_at_once_and_the_meter_counts_it() {
    let budget = budget(0);
    let key = key(Command::BatchSendMsg);
    for _ in 0..10_000 {
        let request = SlotRequest {
            recipients: 3,
            ..SlotRequest::new(Lane::Bulk)
        };
        let mut slot = budget.slot(&key, request).await;
        slot.use_now().unwrap();
        assert_eq!(slot.use_now(), Err(Forfeited::TakenBack));
    }
    let snapshot = &budget.snapshot()[0];
    assert_eq!(snapshot.calls_last_minute, 10_000);
    assert_eq!(snapshot.recipients_last_minute, 30_000);
    assert_eq!(snapshot.effective, Limits::NONE);
    assert_eq!(budget.most_recipients(&key), None);
}

#[tokio::test]
async fn a_wait_that_is_given_up_and_a_slot_that_is_dropped_leave_the_slot_to_the_next() {
    let (budget, key) = one_a_minute();
    let first = budget.slot(&key, SlotRequest::new(Lane::Normal)).await;
    let waits = || budget.slot(&key, SlotRequest::new(Lane::Normal));
    let mut given_up = Box::pin(waits());
    assert!(timeout(Duration::from_millis(5), &mut given_up).await.is_err());
    assert_eq!(budget.snapshot()[0].waiting, [0, 1, 0]);
    drop(given_up);
    assert_eq!(budget.snapshot()[0].waiting, [0; 3]);

    let mut next = Box::pin(waits());
    assert!(timeout(Duration::from_millis(5), &mut next).await.is_err());
    drop(first);
    let mut slot = timeout(HANG, next).await.unwrap();
    slot.wait_due().await;
    // In place of the first one, without waiting for the second to pass.
    assert_eq!(budget.snapshot()[0].handed_on, 1);
    assert_ne!(slot.use_now(), Err(Forfeited::Early));
}

#[tokio::test]
async fn a_wait_that_is_given_up_after_its_slot_was_granted_hands_it_on() {
    let (budget, key) = one_a_minute();
    let first = budget.slot(&key, SlotRequest::new(Lane::Normal)).await;
    let mut granted = Box::pin(budget.slot(&key, SlotRequest::new(Lane::Normal)));
    assert!(timeout(Duration::from_millis(5), &mut granted).await.is_err());
    drop(first);
    // Its slot lies in the channel, and nobody ever takes it out.
    assert_eq!(budget.snapshot()[0].held, 1);
    drop(granted);
    let snapshot = &budget.snapshot()[0];
    assert_eq!((snapshot.held, snapshot.handed_on), (0, 2));
}

#[tokio::test]
async fn limits_change_while_work_waits() {
    let limit = Arc::new(AtomicU32::new(1));
    let of = Arc::clone(&limit);
    let budget = Budget::new(BudgetOptions::default(), move |_| limits(of.load(Ordering::Relaxed)));
    let key = key(Command::SendMsg);
    call(&budget, &key, Lane::Normal).await;
    let mut tasks = JoinSet::new();
    for _ in 0..50 {
        let (budget, key) = (budget.clone(), key.clone());
        tasks.spawn(async move { call(&budget, &key, Lane::Bulk).await });
    }
    sleep(Duration::from_millis(20)).await;
    // 50 at one a second would take longer than this test waits.
    limit.store(0, Ordering::Relaxed);
    budget.reload();
    let stamps = timeout(HANG / 2, tasks.join_all()).await.unwrap();

    // What was called without a limit counts once there is one.
    budget.set_limits(&key, limits(50));
    let slot = timeout(HANG, budget.slot(&key, SlotRequest::new(Lane::High)))
        .await
        .unwrap();
    let first = stamps.iter().map(|(before, _)| *before).min().unwrap();
    assert!(slot.due() >= first + Duration::from_secs(1));
    assert_eq!(budget.snapshot()[0].limits, limits(50));
}

#[tokio::test]
async fn a_throttled_app_stops_all_its_commands_and_no_other_app() {
    let mut options = BudgetOptions::default();
    options.throttle.pause = Duration::from_secs(3);
    let budget = Budget::new(options, |_| Limits::NONE);
    let (send, revoke, import) = (
        key(Command::SendMsg),
        key(Command::MsgWithdraw),
        key(Command::ImportMsg),
    );
    let other = BudgetKey {
        sdk_app_id: SdkAppId(1),
        ..send.clone()
    };
    for key in [&send, &revoke, &other] {
        call(&budget, key, Lane::High).await;
    }
    let mut before = budget.slot(&send, SlotRequest::new(Lane::High)).await;
    budget.answered(&send, CallOutcome::Ok);
    let answered = Instant::now();
    budget.answered(&send, CallOutcome::Throttled { app_wide: true });
    assert_eq!(
        before.use_now(),
        Err(Forfeited::TakenBack),
        "granted before, not used before"
    );

    let paused = |key: &BudgetKey| {
        let snapshots = budget.snapshot();
        snapshots
            .iter()
            .find(|snapshot| snapshot.key == *key)
            .unwrap()
            .paused_until
    };
    assert!(paused(&send).is_some() && paused(&revoke).is_some());
    assert_eq!(paused(&other), None);
    // A command that nobody had used yet waits as well.
    for key in [&send, &revoke, &import] {
        let (_, used) = timeout(HANG, call(&budget, key, Lane::Normal)).await.unwrap();
        assert!(used >= answered + Duration::from_secs(3));
    }
}

#[tokio::test]
async fn a_slot_that_counts_from_its_answer_reopens_after_it() {
    let options = BudgetOptions {
        window: WindowMode::Answered,
        ..BudgetOptions::default()
    };
    let budget = Budget::new(options, |_| limits(1));
    let key = key(Command::SendMsg);
    let mut slot = budget.slot(&key, SlotRequest::new(Lane::Normal)).await;
    slot.use_now().unwrap();
    let next = budget.slot(&key, SlotRequest::new(Lane::Normal));
    tokio::pin!(next);
    assert!(
        timeout(Duration::from_millis(1_100), &mut next).await.is_err(),
        "no answer yet"
    );
    let answered = Instant::now();
    slot.answered();
    let next = timeout(HANG, next).await.unwrap();
    assert!(next.due() >= answered + Duration::from_secs(1));
}

/// A source that has slots only when it is given some, as a fleet's has.
#[derive(Clone, Default)]
struct Given {
    slots: Arc<Mutex<VecDeque<Nanos>>>,
    waker: Arc<Mutex<Option<Waker>>>,
    demand: Arc<Mutex<[usize; 3]>>,
}

impl SlotSource for Given {
    fn book(&mut self, ask: &Ask) -> Booking {
        match self.slots.lock().pop_front() {
            Some(due) => Booking::Booked(due.max(ask.from)),
            None => Booking::Empty,
        }
    }
    fn release(&mut self, _now: Nanos, due: Nanos, _recipients: u32) {
        self.slots.lock().push_front(due);
    }
    fn renew(&mut self, _now: Nanos, _due: Nanos, _recipients: u32) -> bool {
        false
    }
    fn answered(&mut self, _now: Nanos, _due: Nanos, _recipients: u32) {}
    fn set_limits(&mut self, _now: Nanos, _limits: Limits, _past: &[Past]) {}
    fn forget_released(&mut self) {}
    fn restart(&mut self) {}
    fn demand(&mut self, _now: Nanos, waiting: [usize; 3]) {
        *self.demand.lock() = waiting;
    }
}

impl SlotSources for Given {
    fn open(&self, _key: &BudgetKey, _limits: Limits, waker: Waker) -> Box<dyn SlotSource> {
        *self.waker.lock() = Some(waker);
        Box::new(self.clone())
    }
}

#[tokio::test]
async fn a_source_that_runs_dry_learns_the_demand_and_wakes_the_key_when_it_has_slots_again() {
    let source = Given::default();
    let budget = Budget::with_sources(BudgetOptions::default(), |_| limits(200), source.clone());
    let key = key(Command::SendMsg);
    let wish = SlotRequest::new(Lane::Bulk);
    let waits = tokio::spawn({
        let (budget, key) = (budget.clone(), key.clone());
        async move { budget.slot(&key, wish).await }
    });
    while source.demand.lock()[Lane::Bulk.index()] == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    source.slots.lock().push_back(0);
    let waker = source.waker.lock().clone().unwrap();
    waker.wake();
    let mut slot = timeout(HANG, waits).await.unwrap().unwrap();
    assert_eq!(*source.demand.lock(), [0; 3]);
    slot.wait_due().await;
    assert_ne!(slot.use_now(), Err(Forfeited::Early));
}
