//! Openings by the clock of a zone: over midnight, by days, and where the clock is changed.

use proptest::prelude::*;

use super::*;
use crate::domain::strategies;

fn window(start: &str, end: &str, timezone: &str, days: &str) -> SendWindow {
    SendWindow {
        start: TimeOfDay::parse(start).unwrap(),
        end: TimeOfDay::parse(end).unwrap(),
        timezone: Zone::parse(timezone).unwrap(),
        days: Days::parse(days).unwrap(),
    }
}

const DAILY: &str = "mon,tue,wed,thu,fri,sat,sun";

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[track_caller]
fn opens(window: &SendWindow, from: &str, opening: &str) {
    assert_eq!(window.next_opening(at(from)), Some(at(opening)), "from {from}");
}

#[test]
fn a_window_is_open_from_its_start_until_before_its_end() {
    let shanghai = window("09:00", "21:00", "Asia/Shanghai", DAILY);
    opens(&shanghai, "2026-05-01T00:59:59Z", "2026-05-01T01:00:00Z");
    opens(&shanghai, "2026-05-01T01:00:00Z", "2026-05-01T01:00:00Z");
    opens(&shanghai, "2026-05-01T12:59:59.9Z", "2026-05-01T12:59:59.9Z");
    opens(&shanghai, "2026-05-01T13:00:00Z", "2026-05-02T01:00:00Z");
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
    // 2026-05-01 is a Friday.
    let friday = window("22:00", "02:00", "UTC", "fri");
    opens(&friday, "2026-05-01T12:00:00Z", "2026-05-01T22:00:00Z");
    opens(&friday, "2026-05-02T01:59:59Z", "2026-05-02T01:59:59Z");
    opens(&friday, "2026-05-02T02:00:00Z", "2026-05-08T22:00:00Z");
    assert!(!friday.is_open(at("2026-05-01T01:00:00Z")), "that is Thursday's night");
}

#[test]
fn days_are_those_of_the_zone_and_not_of_utc() {
    let monday = window("00:00", "24:00", "Asia/Shanghai", "mon");
    opens(&monday, "2026-05-03T12:00:00Z", "2026-05-03T16:00:00Z");
    opens(&monday, "2026-05-04T15:59:59Z", "2026-05-04T15:59:59Z");
    opens(&monday, "2026-05-04T16:00:00Z", "2026-05-10T16:00:00Z");
}

#[test]
fn a_start_that_the_clock_leaves_out_opens_when_the_clock_has_jumped() {
    // Berlin, 29 March 2026: 02:00 is followed by 03:00, at 01:00 UTC.
    let spring = window("02:30", "05:00", "Europe/Berlin", DAILY);
    opens(&spring, "2026-03-29T00:30:00Z", "2026-03-29T01:00:00Z");
    opens(&spring, "2026-03-28T00:30:00Z", "2026-03-28T01:30:00Z");
}

#[test]
fn a_window_within_the_hour_that_the_clock_leaves_out_opens_on_the_next_day() {
    let lost = window("02:10", "02:50", "Europe/Berlin", DAILY);
    opens(&lost, "2026-03-29T00:00:00Z", "2026-03-30T00:10:00Z");
    let sundays = window("02:10", "02:50", "Europe/Berlin", "sun");
    opens(&sundays, "2026-03-29T00:00:00Z", "2026-04-05T00:10:00Z");
}

#[test]
fn an_hour_that_comes_twice_is_open_twice() {
    // Berlin, 25 October 2026: 03:00 is followed by 02:00, at 01:00 UTC.
    let autumn = window("01:30", "02:30", "Europe/Berlin", DAILY);
    opens(&autumn, "2026-10-24T22:00:00Z", "2026-10-24T23:30:00Z");
    opens(&autumn, "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z");
    opens(&autumn, "2026-10-25T01:30:00Z", "2026-10-26T00:30:00Z");
}

#[test]
fn a_change_of_half_an_hour_counts_as_well() {
    // Lord Howe, 4 October 2026: 02:00 is followed by 02:30, at 15:30 UTC of the day before.
    let lord_howe = window("02:15", "02:45", "Australia/Lord_Howe", DAILY);
    opens(&lord_howe, "2026-10-03T15:00:00Z", "2026-10-03T15:30:00Z");
}

#[test]
fn times_are_read_strictly() {
    for (text, shown) in [
        ("00:00", "00:00"),
        ("09:05", "09:05"),
        ("23:59:59", "23:59:59"),
        ("24:00", "24:00"),
        ("12:00:00", "12:00"),
    ] {
        assert_eq!(TimeOfDay::parse(text).unwrap().to_string(), shown);
    }
    for text in [
        "",
        "9:00",
        "09",
        "09:60",
        "24:01",
        "24:00:01",
        "25:00",
        "09:00:60",
        "09:00:00:00",
        "+9:00",
        "09-00",
        " 09:00",
    ] {
        assert_eq!(TimeOfDay::parse(text), Err(TimeOfDay::RULE), "{text}");
    }
}

#[test]
fn days_are_named_between_commas() {
    assert_eq!(Days::parse("mon, wed,mon").unwrap().to_string(), "mon,wed");
    for text in ["", "monday", "mon,", "Mon"] {
        assert_eq!(Days::parse(text), Err(Days::RULE), "{text}");
    }
}

proptest! {
    #[test]
    fn the_next_opening_is_open_and_nothing_before_it_is(
        window in strategies::send_window(),
        second in 1_750_000_000_i64..1_850_000_000,
        nanos in 0_u32..1_000_000_000,
    ) {
        let from = DateTime::from_timestamp(second, nanos).unwrap();
        let opening = window.next_opening(from).unwrap();
        prop_assert!(opening >= from && window.is_open(opening));
        prop_assert_eq!(opening == from, window.is_open(from));
        if opening > from {
            prop_assert!(!window.is_open(opening - TimeDelta::nanoseconds(1)));
        }
        // Windows begin and end at whole fives of minutes.
        let mut probe = from;
        let step = TimeDelta::minutes(5);
        while probe < opening {
            prop_assert!(!window.is_open(probe), "open at {}", probe);
            probe += step;
        }
    }

    #[test]
    fn asking_later_never_answers_an_earlier_opening(
        window in strategies::send_window(),
        second in 1_750_000_000_i64..1_850_000_000,
        later in 0_i64..1_000_000,
    ) {
        let from = DateTime::from_timestamp(second, 0).unwrap();
        let first = window.next_opening(from).unwrap();
        let second = window.next_opening(from + TimeDelta::seconds(later)).unwrap();
        prop_assert!(second >= first);
        prop_assert!(first > from + TimeDelta::seconds(later) || second >= first);
    }
}
