//! What the fleet's row grants, on a fresh database each: whatever its askers do, no second and no minute is over.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use sqlx::PgPool;

use super::{BudgetRow, SlotsGranted, SlotsWanted, Store};
use crate::domain::{Command, SdkAppId};

const MS: i64 = 1_000;
const SECOND: i64 = 1_000_000;
/// Some time on the row's clock.
const EPOCH: i64 = 1_700_000_000 * SECOND;

fn row(command: Command) -> BudgetRow<'static> {
    BudgetRow {
        host: "im.example",
        sdk_app_id: SdkAppId(1_400_000_000),
        command,
    }
}

fn wanted(calls_per_second: u32, want: u32, urgent: u32) -> SlotsWanted {
    SlotsWanted {
        calls_per_second,
        valid: 4 * MS,
        want,
        urgent,
        ..SlotsWanted::default()
    }
}

/// The most that a window could hold if everybody used their slots as it suits it best: of begin, end, weight.
fn fullest(slots: &[(i64, i64, u32)], window: i64) -> u32 {
    let inside = |start: i64| {
        let inside = slots.iter().filter(|slot| slot.0 < start + window && slot.1 > start);
        inside.map(|slot| slot.2).sum()
    };
    slots.iter().map(|slot| inside(slot.1 - 1)).max().unwrap_or(0)
}

/// A worker's slots, each with what became of it.
#[derive(Default)]
struct Kept {
    used: Vec<(i64, i64, u32)>,
    open: Vec<(i64, i64)>,
}

#[sqlx::test]
async fn whatever_is_asked_given_back_or_forfeited_no_second_is_over(pool: PgPool) {
    let store = Store::of_pool(pool);
    let commands = [Command::SendMsg, Command::MsgWithdraw, Command::ImportMsg];
    for (seed, (limit, command)) in [3_u32, 20, 200].into_iter().zip(commands).enumerate() {
        let mut rng = StdRng::seed_from_u64(seed as u64);
        let (mut now, mut kept) = (EPOCH, Kept::default());
        for _ in 0..600 {
            // Clumps and pauses: bursts at the edges of windows are what breaks limiters.
            now += match rng.random_range(0..20) {
                0 => rng.random_range(0..1_500 * MS),
                1..6 => rng.random_range(0..120 * MS),
                _ => rng.random_range(0..12 * MS),
            };
            let mut ask = wanted(limit, rng.random_range(0..limit + 5), rng.random_range(0..3));
            ask.valid = rng.random_range(3..9) * MS;
            ask.alone = rng.random_range(0..3) == 0;
            // Some of what is still open is given back, some was not used in time.
            kept.open.retain(|&(from, until)| match rng.random_range(0..4) {
                0 => {
                    if from > now {
                        ask.back.push((from, until));
                    } else if until <= now {
                        ask.forfeited.push(until);
                    } else {
                        return true;
                    }
                    false
                }
                1 => {
                    kept.used.push((from, until, 1));
                    false
                }
                _ => true,
            });
            let granted = store.reserve_slots_at(row(command), &ask, Some(now)).await.unwrap();
            assert!(granted.slots.len() <= ask.want as usize);
            for &(from, until) in &granted.slots {
                assert!(from >= now && from <= now + 250 * MS && until >= from + ask.valid.min(3 * MS));
            }
            kept.open.extend(granted.slots);
        }
        kept.used
            .extend(kept.open.iter().map(|&(from, until)| (from, until, 1)));
        let most = fullest(&kept.used, SECOND);
        assert!(most <= limit, "{most} of {limit}");
        assert!(
            most * 10 >= limit * 9,
            "{most} of {limit}: the test must reach the limit"
        );
    }
}

#[sqlx::test]
async fn batches_keep_to_both_limits_and_use_99_percent_of_three_minutes(pool: PgPool) {
    let store = Store::of_pool(pool);
    let keys = [
        (500, true, Command::BatchSendMsg),
        (37, true, Command::SendMsg),
        (500, false, Command::MsgWithdraw),
    ];
    for (weight, full, command) in keys {
        let (mut now, mut slots) = (EPOCH, Vec::new());
        let mut ask = SlotsWanted {
            recipients_per_minute: 12_000,
            weight,
            ..wanted(200, 24, 0)
        };
        while now < EPOCH + 180 * SECOND {
            let granted = store.reserve_slots_at(row(command), &ask, Some(now)).await.unwrap();
            ask.fewer.clear();
            for &(from, until) in &granted.slots {
                // Where they aren't full every fifth call has fewer recipients than it reserved for.
                let fewer = if !full && slots.len() % 5 == 4 { weight / 3 } else { 0 };
                if fewer > 0 {
                    ask.fewer.push((until, fewer));
                }
                slots.push((from, until, weight - fewer));
            }
            now += i64::try_from(granted.wait.as_micros()).unwrap().max(10 * MS);
        }
        assert!(fullest(&slots, 60 * SECOND) <= 12_000);
        let used: u32 = slots
            .iter()
            .filter(|slot| slot.0 < EPOCH + 180 * SECOND)
            .map(|slot| slot.2)
            .sum();
        println!("chunks of {weight}: {used} recipients in three minutes");
        // A call of 500 doesn't fit into what one of 334 leaves free.
        let least = if full { 0.99 } else { 0.95 };
        assert!(f64::from(used) >= least * 36_000.0, "{used}");
    }
}

#[sqlx::test]
async fn many_connections_at_once_are_granted_each_slot_once_and_never_more_than_the_limit(pool: PgPool) {
    let store = Store::of_pool(pool);
    let ask = || async {
        let mut slots = Vec::new();
        // Until each has had its share, however long that takes; a bound for a hopeless case only.
        let began = std::time::Instant::now();
        while slots.len() < 20 {
            assert!(began.elapsed() < Duration::from_mins(1), "nothing is granted");
            let granted = store
                .reserve_slots(row(Command::SendMsg), &wanted(100, 7, 1))
                .await
                .unwrap();
            let stale = granted.slots.iter().any(|slot| slot.0 < granted.now);
            assert!(!stale, "a slot behind a lock: {granted:?}");
            slots.extend(granted.slots.into_iter().map(|(from, until)| (from, until, 1)));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        slots
    };
    let slots = futures::future::join_all((0..8).map(|_| ask())).await.concat();
    assert!(fullest(&slots, SECOND) <= 100);
    assert!(slots.len() >= 160);
}

#[sqlx::test]
async fn an_idle_second_answers_at_once_with_the_quarter_for_urgent_work_left_free(pool: PgPool) {
    let store = Store::of_pool(pool);
    let grant = |want, urgent, now| {
        let store = store.clone();
        async move {
            let ask = wanted(200, want, urgent);
            let granted = store.reserve_slots_at(row(Command::SendMsg), &ask, Some(now)).await;
            granted.unwrap().slots
        }
    };
    let at_once = |slots: &[(i64, i64)], now| slots.iter().filter(|slot| slot.0 == now).count();
    let bulk: Vec<(i64, i64)> = grant(200, 0, EPOCH).await;
    assert!((150..153).contains(&at_once(&bulk, EPOCH)), "{bulk:?}");
    // Urgent work finds a slot within 20 ms of its own quarter at any time after that.
    for time in 1..50 {
        let now = EPOCH + time * 20 * MS;
        assert_eq!(grant(1, 1, now).await.len(), 1, "{time}");
    }
    let urgent: Vec<(i64, i64)> = grant(200, 200, EPOCH + 10 * SECOND).await;
    assert_eq!(at_once(&urgent, EPOCH + 10 * SECOND), 200);
}

#[sqlx::test]
async fn a_lost_row_grants_nothing_until_what_was_reserved_from_it_has_left_the_window(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    let slots = |command, recipients_per_minute, now| {
        let store = store.clone();
        async move {
            let ask = SlotsWanted {
                recipients_per_minute,
                weight: u32::from(recipients_per_minute > 0),
                ..wanted(200, 5, 5)
            };
            store
                .reserve_slots_at(row(command), &ask, Some(now))
                .await
                .unwrap()
                .slots
        }
    };
    assert_eq!(
        slots(Command::SendMsg, 0, EPOCH).await.len(),
        5,
        "a key that nobody ever used"
    );
    assert_eq!(slots(Command::BatchSendMsg, 12_000, EPOCH).await.len(), 5);
    // What a crash or a failover does to an unlogged table.
    sqlx::query("TRUNCATE budgets").execute(&pool).await.unwrap();
    assert!(slots(Command::SendMsg, 0, EPOCH).await.is_empty());
    assert!(slots(Command::BatchSendMsg, 12_000, EPOCH).await.is_empty());
    assert!(slots(Command::SendMsg, 0, EPOCH + 1_200 * MS).await.is_empty());
    assert!(
        slots(Command::BatchSendMsg, 12_000, EPOCH + 60 * SECOND)
            .await
            .is_empty()
    );
    assert_eq!(slots(Command::SendMsg, 0, EPOCH + 1_500 * MS).await.len(), 5);
    assert_eq!(slots(Command::BatchSendMsg, 12_000, EPOCH + 60_500 * MS).await.len(), 5);
}

#[sqlx::test]
async fn a_clock_that_was_set_back_costs_one_window_and_not_the_hour(pool: PgPool) {
    let store = Store::of_pool(pool);
    let slots = |now| {
        let store = store.clone();
        async move {
            let ask = wanted(200, 5, 5);
            store
                .reserve_slots_at(row(Command::SendMsg), &ask, Some(now))
                .await
                .unwrap()
                .slots
        }
    };
    assert_eq!(slots(EPOCH).await.len(), 5);
    let back = EPOCH - 3_600 * SECOND;
    assert!(slots(back).await.is_empty());
    assert!(slots(back + 1_200 * MS).await.is_empty());
    assert_eq!(slots(back + 1_500 * MS).await.len(), 5);
}

#[sqlx::test]
async fn a_throttled_answer_stops_the_key_and_many_halve_it(pool: PgPool) {
    let store = Store::of_pool(pool);
    let ask = |command| {
        let store = store.clone();
        async move { store.reserve_slots(row(command), &wanted(200, 1, 1)).await.unwrap() }
    };
    let paused = |granted: &SlotsGranted| granted.paused_until > granted.now;
    for command in [Command::SendMsg, Command::MsgWithdraw] {
        assert_eq!(ask(command).await.slots.len(), 1);
    }
    let pause = Duration::from_mins(10);
    store.throttle_slots(row(Command::SendMsg), false, pause).await.unwrap();
    let granted = ask(Command::SendMsg).await;
    assert!(paused(&granted) && granted.slots.is_empty());
    assert!((granted.share - 1.0).abs() < f64::EPSILON, "one answer halves nothing");
    assert!(!paused(&ask(Command::MsgWithdraw).await));

    store.throttle_slots(row(Command::SendMsg), true, pause).await.unwrap();
    assert!(paused(&ask(Command::MsgWithdraw).await));
    assert!((ask(Command::SendMsg).await.share - 0.5).abs() < f64::EPSILON);
    // Answers to calls that were under way say nothing new.
    store.throttle_slots(row(Command::SendMsg), false, pause).await.unwrap();
    assert!((ask(Command::SendMsg).await.share - 0.5).abs() < f64::EPSILON);
}

#[sqlx::test]
async fn limits_over_a_thousand_are_kept_in_units(pool: PgPool) {
    let store = Store::of_pool(pool);
    let (mut now, mut slots) = (EPOCH, Vec::new());
    while now < EPOCH + 4 * SECOND {
        let granted = store
            .reserve_slots_at(row(Command::SendMsg), &wanted(5_000, 2_000, 0), Some(now))
            .await
            .unwrap();
        assert_eq!(granted.unit, 5);
        slots.extend(granted.slots.iter().map(|&(from, until)| (from, until, granted.unit)));
        now += 10 * MS;
    }
    assert!(fullest(&slots, SECOND) <= 5_000);
    let used: u32 = slots
        .iter()
        .filter(|slot| slot.0 >= EPOCH + 2 * SECOND && slot.0 < EPOCH + 4 * SECOND)
        .map(|slot| slot.2)
        .sum();
    assert!(used >= 9_900, "{used}");
}

#[sqlx::test]
async fn slots_that_count_until_their_answer_are_exact_at_the_service_however_long_calls_take(pool: PgPool) {
    let store = Store::of_pool(pool);
    for (seed, (limit, command)) in [3_u32, 20, 60].into_iter().zip(Command::ALL).enumerate() {
        let mut rng = StdRng::seed_from_u64(seed as u64);
        let (mut now, mut open) = (EPOCH, Vec::<(i64, i64, i64)>::new());
        // When each call reached the service: at any time before its answer.
        let mut arrived = Vec::new();
        let mut ended = Vec::new();
        while now < EPOCH + 12 * SECOND {
            now += rng.random_range(0..30 * MS);
            let mut ask = SlotsWanted {
                answered: true,
                ..wanted(limit, rng.random_range(0..limit), 0)
            };
            ask.valid = 3 * SECOND;
            open.retain(|&(from, until, answer)| {
                if rng.random_range(0..200) == 0 {
                    // Its worker died: nobody says when the call was answered.
                    arrived.push((from + rng.random_range(0..ask.valid), 1));
                    return false;
                }
                if answer <= now {
                    arrived.push((rng.random_range(from..=answer), 1));
                    ended.push((until, answer));
                }
                answer > now
            });
            ask.ended = std::mem::take(&mut ended);
            let granted = store.reserve_slots_at(row(command), &ask, Some(now)).await.unwrap();
            for (from, until) in granted.slots {
                assert!(from >= now && until >= from + ask.valid);
                if rng.random_range(0..20) == 0 {
                    ask.forfeited.push(until);
                } else {
                    open.push((from, until, from + rng.random_range(0..400 * MS)));
                }
            }
        }
        arrived.sort_unstable();
        let inside = |end: i64| {
            arrived
                .iter()
                .filter(|(at, _)| *at <= end && *at > end - SECOND)
                .count()
        };
        let most = arrived.iter().map(|(at, _)| inside(*at)).max().unwrap();
        assert!(most <= limit as usize, "{most} of {limit}");
        let share = arrived.len() as f64 / f64::from(limit) / 12.0;
        println!("limit {limit}: at most {most} in a second, {:.0} % used", share * 100.0);
        assert!(share > 0.5, "{share}");
    }
}
