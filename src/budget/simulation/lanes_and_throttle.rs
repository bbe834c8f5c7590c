//! Who gets the slots, and what a throttled answer, a pause or a cancelled wait makes of them.

use super::*;
use crate::budget::CallOutcome;

/// The even pace at 200 a second and a guard of 4 ms.
const BEAT: Nanos = 5_020_000;

fn percentile(sorted: &[Nanos], hundredths: usize) -> Nanos {
    sorted[(sorted.len() - 1) * hundredths / 100]
}

/// A machine whose timers are exact and whose claims take no time: what remains is the budget's own wait.
fn exact() -> Model {
    Model {
        claim: 0,
        timer: 0,
        ..Model::default()
    }
}

#[test]
fn an_urgent_call_waits_less_than_a_beat_as_a_rule_and_four_at_most_while_bulk_work_has_a_backlog() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), exact());
    simulation.backlog(400, &Job::new(Lane::Bulk));
    for number in 0..100 {
        simulation.arrive(2 * SECOND + number * 200 * MS + number * 700_000, Job::new(Lane::High));
    }
    simulation.run(25 * SECOND);
    let waits = simulation.waits(Lane::High);
    let (median, worst) = (percentile(&waits, 50), percentile(&waits, 100));
    println!("high under a bulk backlog at 200/s: median {median} ns, worst {worst} ns");
    assert_eq!(waits.len(), 100);
    assert!(worst < 4 * BEAT);
    assert!(median < BEAT);
    assert!(simulation.fullest(SECOND, one) <= 200);
    assert!(simulation.used(SECOND, 25 * SECOND, 200.0, one) >= 0.995);
    assert!(simulation.state.counts().taken_over > 50);
}

#[test]
fn an_urgent_call_never_waits_for_the_second_to_pass_after_a_burst_of_bulk_work() {
    let options = BudgetOptions {
        floors: [0.0; 3],
        ..BudgetOptions::default()
    };
    let mut simulation = Simulation::new(&options, limits(200, 0), exact());
    simulation.backlog(1_000, &Job::new(Lane::Bulk));
    for number in 0..40 {
        simulation.arrive(10 * MS + number * 25 * MS, Job::new(Lane::High));
    }
    simulation.run(3 * SECOND);
    let waits = simulation.waits(Lane::High);
    println!("40 high calls in the second after a burst of bulk work: {waits:?}");
    assert_eq!(waits.len(), 40);
    // Four beats, and what was granted ahead to others before it came.
    assert!(percentile(&waits, 100) < 4 * BEAT + 50 * MS, "{waits:?}");
    assert!(percentile(&waits, 90) < BEAT, "{waits:?}");
}

#[test]
fn saturated_high_leaves_bulk_its_floor_and_no_more() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), Model::default());
    simulation.backlog(200, &Job::new(Lane::High));
    simulation.backlog(200, &Job::new(Lane::Bulk));
    simulation.run(31 * SECOND);
    let (from, to) = (SECOND, 31 * SECOND);
    let bulk = simulation.count(from, to, Lane::Bulk) as f64;
    let share = bulk / (bulk + simulation.count(from, to, Lane::High) as f64);
    println!("bulk beside saturated high: {:.2} % of the calls", share * 100.0);
    assert!((0.095..=0.105).contains(&share), "{share}");
    assert!(simulation.used(from, to, 200.0, one) >= 0.995);
}

#[test]
fn every_lane_has_its_floor_and_what_is_unused_goes_to_the_most_urgent() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), Model::default());
    for lane in Lane::ALL {
        simulation.backlog(200, &Job::new(lane));
    }
    simulation.run(21 * SECOND);
    let shares = Lane::ALL.map(|lane| simulation.count(SECOND, 21 * SECOND, lane) as f64 / 4_000.0);
    assert!((0.69..=0.71).contains(&shares[0]), "{shares:?}");
    assert!((0.19..=0.21).contains(&shares[1]), "{shares:?}");
    assert!((0.09..=0.11).contains(&shares[2]), "{shares:?}");

    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), Model::default());
    simulation.backlog(200, &Job::new(Lane::Bulk));
    simulation.run(11 * SECOND);
    assert!(simulation.used(SECOND, 11 * SECOND, 200.0, one) >= 0.995);
}

#[test]
fn a_small_campaign_is_done_long_before_a_large_one_that_came_first() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), Model::default());
    simulation.backlog(500, &Job::new(Lane::Bulk).in_group("million"));
    for _ in 0..100 {
        simulation.arrive(5 * SECOND, Job::new(Lane::Bulk).in_group("hundred"));
    }
    simulation.run(8 * SECOND);
    let small = simulation.uses.iter().filter(|used| !used.job.endless);
    let done = small.clone().map(|used| used.at).max().unwrap();
    assert_eq!(small.count(), 100);
    // By turns: 100 of 200 slots.
    assert!(done < 6_200 * MS, "{done}");
}

#[test]
fn in_a_group_first_come_is_first_served() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(20, 0), exact());
    for number in 0..60 {
        simulation.arrive(number, Job::new(Lane::Normal));
    }
    simulation.run(10 * SECOND);
    let asked: Vec<_> = simulation.uses.iter().map(|used| used.asked).collect();
    assert_eq!(asked.len(), 60);
    assert!(asked.is_sorted(), "{asked:?}");
}

#[test]
fn one_throttled_answer_stops_the_key_for_a_second_also_for_slots_granted_ahead() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), Model::default());
    simulation.backlog(200, &Job::new(Lane::Normal));
    simulation.run(5 * SECOND);
    assert!(simulation.state.held() > 0);
    let outcome = CallOutcome::Throttled { app_wide: false };
    simulation.state.outcome(simulation.now, outcome, 1_000);
    simulation.turn();
    simulation.run(10 * SECOND);
    assert_eq!(simulation.count(5 * SECOND, 6 * SECOND, Lane::Normal), 0);
    assert!(simulation.used(6 * SECOND, 10 * SECOND, 200.0, one) >= 0.99);
    assert_eq!(simulation.state.effective(), limits(200, 0));
}

#[test]
fn over_one_percent_throttled_halves_the_rate_and_it_comes_back_in_steps() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(200, 0), Model::default());
    simulation.backlog(200, &Job::new(Lane::Normal));
    simulation.run(5 * SECOND);
    for _ in 0..11 {
        let outcome = CallOutcome::Throttled { app_wide: false };
        simulation.state.outcome(simulation.now, outcome, 1_000);
        simulation.turn();
    }
    simulation.run(30 * SECOND);
    assert_eq!(simulation.count(5 * SECOND, 6 * SECOND, Lane::Normal), 0);
    let rate = |from: u64, to: u64| simulation.count(from * SECOND, to * SECOND, Lane::Normal) as u64 / (to - from);
    let rates = [rate(7, 11), rate(12, 16), rate(17, 21), rate(27, 30)];
    println!("after being halved, calls a second by steps of 5 s: {rates:?}");
    assert!((97..=101).contains(&rates[0]));
    assert!((121..=126).contains(&rates[1]));
    assert!((146..=151).contains(&rates[2]));
    assert!((195..=200).contains(&rates[3]));
}

#[test]
fn who_stops_waiting_leaves_the_slots_to_the_others() {
    let mut simulation = Simulation::new(&BudgetOptions::default(), limits(20, 0), Model::default());
    simulation.backlog(40, &Job::new(Lane::Normal));
    simulation.run(5 * SECOND);
    let tickets: Vec<_> = simulation.tickets.values().skip(1).cloned().collect();
    assert!(tickets.len() > 30);
    for ticket in tickets {
        simulation.state.leave(&ticket);
    }
    simulation.turn();
    let waiting = simulation.state.waiting();
    assert_eq!(waiting, [0, 1, 0]);
    simulation.backlog(40, &Job::new(Lane::Normal));
    simulation.run(10 * SECOND);
    assert!(simulation.used(5 * SECOND, 10 * SECOND, 20.0, one) >= 0.98);
}

#[test]
fn a_slot_that_was_forfeited_comes_back_before_others_in_its_lane() {
    let options = BudgetOptions {
        pacer: Pacer::Governor,
        ..BudgetOptions::default()
    };
    let source = Box::new(GovernorPacer::new(&options, limits(10, 0)));
    let mut state = KeyState::new(&options, limits(10, 0), source);
    let wish = Wish::default();
    let first = state.at_once(SECOND, &wish).unwrap();
    assert_eq!(state.use_now(SECOND + 5 * MS, first.id), Err(Forfeited::Late));
    state.queue(SECOND + 5 * MS, Wish::default(), "other");
    let retry = Wish {
        retry: true,
        ..Wish::default()
    };
    state.queue(SECOND + 6 * MS, retry, "retry");
    let turn = state.turn(SECOND + 51 * MS);
    let served: Vec<_> = turn.grants.iter().map(|(name, _)| *name).collect();
    assert_eq!(served, ["retry"]);
    assert_eq!(
        state.use_now(SECOND + 52 * MS, turn.grants[0].1.id),
        Err(Forfeited::Early)
    );
    assert_eq!(
        state.use_now(turn.grants[0].1.due, turn.grants[0].1.id),
        Ok(turn.grants[0].1.due)
    );
    assert_eq!(
        state.use_now(turn.grants[0].1.due, turn.grants[0].1.id),
        Err(Forfeited::TakenBack)
    );
}
