//! Never over, never wasted: limits of calls and of recipients, as they stand and as they change.

use proptest::prelude::*;

use super::*;
use crate::budget::WindowMode;

fn backlog(limit: u32, seconds: u64, options: &BudgetOptions, model: Model) -> Simulation {
    let mut simulation = Simulation::new(options, limits(limit, 0), model);
    simulation.backlog((limit as usize).max(50), &Job::new(Lane::Normal));
    simulation.run(seconds * SECOND);
    simulation
}

fn governor() -> BudgetOptions {
    BudgetOptions {
        pacer: Pacer::Governor,
        ..BudgetOptions::default()
    }
}

fn answered() -> BudgetOptions {
    BudgetOptions {
        window: WindowMode::Answered,
        ..BudgetOptions::default()
    }
}

#[test]
fn under_backlog_at_least_99_5_percent_of_the_limit_is_used_and_no_second_is_over_it() {
    let models = [
        ("calm", 0.995, Model::default()),
        (
            "1 % up to 12 ms late",
            0.995,
            Model {
                late: (10, 12 * MS),
                ..Model::default()
            },
        ),
        // Each job that hands its slot on only after it was due delays one slot by the next one's claim.
        (
            "8 % hand their slot on",
            0.99,
            Model {
                drops: 80,
                ..Model::default()
            },
        ),
    ];
    for limit in [20, 200, 1_000] {
        for (name, least, model) in models.clone() {
            let simulation = backlog(limit, 61, &BudgetOptions::default(), model);
            let used = simulation.used(SECOND, 61 * SECOND, limit.into(), one);
            let fullest = simulation.fullest(SECOND, one);
            println!(
                "limit {limit:>4}, {name:<22}: {:.3} % used, fullest second {fullest}",
                used * 100.0
            );
            assert!(fullest <= limit.into());
            assert!(used >= least, "{limit}, {name}: {used}");
        }
    }
}

#[test]
fn as_the_service_sees_it_drifts_within_20_ms_stay_within_2_percent() {
    for limit in [20, 200, 1_000] {
        let model = Model {
            drift: 20 * MS,
            ..Model::default()
        };
        let simulation = backlog(limit, 30, &BudgetOptions::default(), model);
        let (shorter, second) = (
            simulation.fullest_at_service(980 * MS),
            simulation.fullest_at_service(SECOND),
        );
        println!("limit {limit:>4}, drift to 20 ms: {shorter} in 980 ms, {second} in 1,000 ms at the service");
        assert!(shorter <= u64::from(limit));
        assert!(second <= u64::from(limit + limit.div_ceil(50)));
    }
}

#[test]
fn drifts_within_the_guard_are_exact_at_the_service() {
    let model = Model {
        timer: MS,
        drift: 2 * MS,
        ..Model::default()
    };
    let simulation = backlog(200, 30, &BudgetOptions::default(), model);
    assert!(simulation.fullest_at_service(SECOND) <= 200);
}

#[test]
fn a_window_from_the_answer_on_is_exact_at_the_service_however_long_calls_take() {
    let model = Model {
        answer: 300 * MS,
        drift: 300 * MS,
        late: (50, 100 * MS),
        ..Model::default()
    };
    let simulation = backlog(200, 30, &answered(), model);
    let used = simulation.used(2 * SECOND, 30 * SECOND, 200.0, one);
    println!("answered, calls of up to 300 ms: {:.1} % used", used * 100.0);
    assert!(simulation.fullest_at_service(SECOND) <= 200);
    // A mean answer after 150 ms costs 15 % more time a slot.
    assert!(used > 0.80, "{used}");
}

#[test]
fn governor_alone_uses_as_much_under_backlog_and_is_never_over() {
    for limit in [20, 200, 1_000] {
        let simulation = backlog(limit, 31, &governor(), Model::default());
        let used = simulation.used(SECOND, 31 * SECOND, limit.into(), one);
        println!("governor, limit {limit:>4}: {:.3} % used", used * 100.0);
        assert!(simulation.fullest(SECOND, one) <= limit.into());
        assert!(used >= 0.995, "{used}");
    }
}

#[test]
fn batches_use_99_percent_of_the_recipients_of_three_minutes_and_no_minute_is_over() {
    for chunk in [500, 37] {
        for options in [BudgetOptions::default(), governor()] {
            let mut simulation = Simulation::new(&options, limits(200, 12_000), Model::default());
            simulation.backlog(50, &Job::new(Lane::Bulk).to(chunk));
            simulation.run(180 * SECOND);
            let used = simulation.used(0, 180 * SECOND, 200.0, |used| used.job.recipients);
            let fullest = simulation.fullest(60 * SECOND, |used| used.job.recipients);
            let name = options.pacer;
            println!(
                "chunks of {chunk:>3}, {name:?}: {:.2} % used, fullest minute {fullest}",
                used * 100.0
            );
            assert!(fullest <= 12_000);
            assert!(used >= 0.99, "{used}");
        }
    }
}

#[test]
fn batches_of_few_recipients_are_held_back_by_the_calls_instead() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(50, 12_000), Model::default());
    simulation.backlog(100, &Job::new(Lane::Bulk).to(2));
    simulation.run(20 * SECOND);
    assert!(simulation.fullest(SECOND, one) <= 50);
    assert!(simulation.used(SECOND, 20 * SECOND, 50.0, one) >= 0.995);
}

#[test]
fn an_idle_second_answers_a_burst_at_once() {
    let calm = Model {
        claim: 0,
        timer: 0,
        ..Model::default()
    };
    for (lane, at_once) in [(Lane::High, 200), (Lane::Bulk, 150)] {
        let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), calm.clone());
        for _ in 0..at_once {
            simulation.arrive(10 * SECOND, Job::new(lane));
        }
        simulation.run(11 * SECOND);
        assert_eq!(simulation.waits(lane), vec![0; at_once], "{lane}");
    }
}

#[test]
fn a_stall_of_the_process_is_caught_up_with_and_never_over() {
    let model = Model {
        stalls: vec![(5 * SECOND, 100 * MS), (8 * SECOND, 2 * SECOND)],
        ..Model::default()
    };
    let simulation = backlog(200, 15, &BudgetOptions::default(), model);
    assert!(simulation.fullest(SECOND, one) <= 200);
    // 20 slots passed during the short stall; most of them are caught up with before its second is over.
    let used = simulation.used(5 * SECOND, 6 * SECOND, 200.0, one);
    assert!(used > 0.96, "{used}");
    // After the long one it goes on at the full rate.
    let used = simulation.used(10 * SECOND, 15 * SECOND, 200.0, one);
    assert!(used > 0.99, "{used}");
}

#[test]
fn a_limit_that_changes_while_work_waits_holds_from_then_on() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), Model::default());
    simulation.backlog(100, &Job::new(Lane::Normal));
    simulation.run(5 * SECOND);
    simulation.state.set_limits(simulation.now, limits(20, 0), &[]);
    simulation.turn();
    let before = simulation.uses.len();
    simulation.run(10 * SECOND);
    let lowered = simulation.uses.split_off(before);
    // What was used in the second before still counts.
    let first: Vec<_> = lowered.iter().map(|used| used.at).take(5).collect();
    assert!(first[0] >= 5 * SECOND + 850 * MS, "{first:?}");
    simulation.uses = lowered;
    assert!(simulation.fullest(SECOND, one) <= 20);
    assert!(simulation.used(6 * SECOND, 10 * SECOND, 20.0, one) >= 0.98);

    simulation.state.set_limits(simulation.now, limits(1_000, 0), &[]);
    simulation.turn();
    simulation.run(12 * SECOND);
    let used = simulation.used(10 * SECOND, 12 * SECOND, 1_000.0, one);
    assert!(simulation.fullest(SECOND, one) <= 1_000);
    assert!(used > 0.09 * 10.0 / 2.0, "{used}");

    simulation.state.set_limits(simulation.now, limits(0, 0), &[]);
    simulation.turn();
    assert_eq!(simulation.state.waiting(), [0; 3]);
}

#[derive(Debug, Clone)]
struct Arrival {
    at: Nanos,
    lane: Lane,
    group: u8,
    recipients: u32,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    // In clumps: bursts at the edges of windows are what breaks limiters.
    let clump = (0..40_u64, 0..3_usize, 0..3_u8, 1..600_u32, 1..25_usize, 0..60_u64);
    prop::collection::vec(clump, 1..30).prop_map(|clumps| {
        let arrival = |(tenth, lane, group, recipients, count, spread): (u64, usize, u8, u32, usize, u64)| {
            (0..count as u64).map(move |number| Arrival {
                at: tenth * 100 * MS + number * spread * 100_000,
                lane: Lane::ALL[lane],
                group,
                recipients,
            })
        };
        clumps.into_iter().flat_map(arrival).collect()
    })
}

fn models() -> impl Strategy<Value = Model> {
    let stalls = prop::collection::vec((0..5_000 * MS, 1..1_500 * MS), 0..3);
    (
        any::<u64>(),
        0..60 * MS,
        0..3 * MS,
        0..100_u32,
        0..60 * MS,
        0..200_u32,
        0..400 * MS,
        stalls,
    )
        .prop_map(|(seed, claim, timer, odds, late, drops, answer, stalls)| Model {
            seed,
            claim,
            timer,
            late: (odds, late),
            drops,
            answer,
            drift: answer,
            stalls,
        })
}

fn any_options() -> impl Strategy<Value = BudgetOptions> {
    prop_oneof![Just(BudgetOptions::default()), Just(governor()), Just(answered())]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_arrives_is_late_or_is_dropped_no_window_is_ever_over(
        arrivals in arrivals(),
        model in models(),
        options in any_options(),
        calls in 3..60_u32,
        recipients in 600..5_000_u32,
        changes in prop::collection::vec((0..6_000 * MS, 3..60_u32), 0..3),
        throttles in prop::collection::vec(0..6_000 * MS, 0..3),
    ) {
        let mut simulation = Simulation::new(&options, limits(calls, recipients), model);
        let jobs = arrivals.len();
        for arrival in arrivals {
            let job = Job::new(arrival.lane).to(arrival.recipients).in_group(&arrival.group.to_string());
            simulation.arrive(arrival.at, job);
        }
        let mut stops: Vec<(Nanos, Option<u32>)> = changes.into_iter().map(|(at, limit)| (at, Some(limit))).collect();
        stops.extend(throttles.into_iter().map(|at| (at, None)));
        stops.sort_unstable();
        let mut most = calls;
        for (at, limit) in stops {
            simulation.run(at.max(simulation.now));
            match limit {
                Some(limit) => {
                    most = most.max(limit);
                    simulation.state.set_limits(at, limits(limit, recipients), &[]);
                }
                None => simulation.state.pause_until(at, at + SECOND),
            }
            simulation.turn();
        }
        // Long enough for the recipients of a minute to come free over and over.
        simulation.run(50_000 * SECOND);
        prop_assert!(simulation.fullest(SECOND, one) <= u64::from(most));
        prop_assert!(simulation.fullest(60 * SECOND, |used| used.job.recipients) <= u64::from(recipients));
        if options.window == WindowMode::Answered {
            prop_assert!(simulation.fullest_at_service(SECOND) <= u64::from(most));
        }
        // Nobody is forgotten.
        prop_assert_eq!(simulation.uses.len(), jobs);
        prop_assert_eq!(simulation.state.waiting(), [0; 3]);
        prop_assert_eq!(simulation.state.held(), 0);
    }
}
