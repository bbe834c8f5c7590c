//! The frequency limits and the account of the busiest windows.

use super::*;

#[tokio::test]
async fn calls_beyond_the_limit_of_a_second_are_refused_and_the_window_slides() {
    let bench = Bench::with(SimulatorOptions {
        limits: Limits::calls(3),
        ..SimulatorOptions::default()
    });
    let mut codes = Vec::new();
    for number in 0..5 {
        codes.push(bench.code(Command::SendMsg, &message("bob", &number.to_string())).await);
    }
    // On a very slow machine the five calls take longer than the window; then its record says so.
    let arrivals = bench.sim.arrivals(Command::SendMsg);
    if arrivals[4].at - arrivals[0].at < 1_000_000 {
        assert_eq!(codes, [0, 0, 0, 60007, 60007]);
        assert_eq!(bench.sim.delivered_total(), 3);
    }
    assert_eq!(
        bench.code(Command::GetUnreadNum, &json!({"To_Account": "bob"})).await,
        0,
        "each command has its own"
    );
    bench.sim.advance_clock(Duration::from_secs(1));
    assert_eq!(bench.code(Command::SendMsg, &message("bob", "5")).await, 0);
    let report = bench.sim.report();
    let figures = &report.apps[&SAMPLE_SDK_APP_ID.0]["sendmsg"];
    assert_eq!(
        (figures.calls, figures.throttled, report.throttled),
        (6, figures.codes[&60007], figures.codes[&60007])
    );
    assert_eq!(figures.busiest.calls_minute, 6);
    assert!(figures.busiest_admitted.calls_second <= 3);
}

#[tokio::test]
async fn recipients_of_batches_are_limited_by_the_minute_and_limits_change_while_it_runs() {
    let bench = Bench::with(SimulatorOptions {
        limits: Limits::none().with_recipients_per_minute(5),
        ..SimulatorOptions::default()
    });
    let batch =
        |count: usize, text: &str| message(json!((0..count).map(|n| format!("u{n}")).collect::<Vec<_>>()), text);
    assert_eq!(bench.code(Command::BatchSendMsg, &batch(3, "a")).await, 0);
    assert_eq!(bench.code(Command::BatchSendMsg, &batch(3, "b")).await, 60007);
    assert_eq!(bench.code(Command::BatchSendMsg, &batch(2, "c")).await, 0);
    bench.sim.advance_clock(Duration::from_mins(1));
    assert_eq!(bench.code(Command::BatchSendMsg, &batch(5, "d")).await, 0);
    bench.sim.set_limits(Limits::none());
    assert_eq!(bench.code(Command::BatchSendMsg, &batch(6, "e")).await, 0);
    let report = bench.sim.report();
    let figures = &report.apps[&SAMPLE_SDK_APP_ID.0]["batchsendmsg"];
    assert_eq!(
        (
            figures.busiest.recipients_minute,
            figures.busiest_admitted.recipients_minute
        ),
        (11, 11)
    );
    let recipients: Vec<_> = bench
        .sim
        .arrivals(Command::BatchSendMsg)
        .iter()
        .map(|one| one.recipients)
        .collect();
    assert_eq!(recipients, [3, 3, 2, 5, 6]);
}

#[tokio::test]
async fn the_limit_of_the_whole_app_has_its_own_code() {
    let limits = Limits {
        app_calls_per_second: 2,
        ..Limits::none()
    };
    let bench = Bench::with(SimulatorOptions {
        limits,
        ..SimulatorOptions::default()
    });
    let mut codes = Vec::new();
    for number in 0..2 {
        codes.push(bench.code(Command::SendMsg, &message("bob", &number.to_string())).await);
    }
    codes.push(bench.code(Command::GetUnreadNum, &json!({"To_Account": "bob"})).await);
    let (first, last) = (
        bench.sim.arrivals(Command::SendMsg)[0].at,
        bench.sim.arrivals(Command::GetUnreadNum)[0].at,
    );
    if last - first < 1_000_000 {
        assert_eq!(codes, [0, 0, 60011]);
    }
    bench.sim.advance_clock(Duration::from_secs(1));
    assert_eq!(
        bench.code(Command::GetUnreadNum, &json!({"To_Account": "bob"})).await,
        0
    );
}

#[tokio::test]
async fn arrivals_tell_when_to_whom_and_with_what_result() {
    let bench = Bench::with(SimulatorOptions {
        keep_calls: Some(2),
        limits: Limits::none(),
        ..SimulatorOptions::default()
    });
    for to in ["a", "unknown_1", "c"] {
        bench.call(Command::SendMsg, &message(to, "x")).await;
    }
    let arrivals = bench.sim.arrivals(Command::SendMsg);
    let told: Vec<_> = arrivals
        .iter()
        .map(|one| (one.first_recipient.as_deref(), one.code, one.carried_out))
        .collect();
    assert_eq!(
        told,
        [(Some("unknown_1"), 90012, false), (Some("c"), 0, true)],
        "the last two are kept"
    );
    assert!(arrivals[0].at < arrivals[1].at);
    bench.sim.reset();
    assert!(bench.sim.arrivals(Command::SendMsg).is_empty() && bench.sim.messages().is_empty());
    assert_eq!((bench.sim.report().calls, bench.sim.delivered_total()), (0, 0));
}
