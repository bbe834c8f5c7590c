//! A lane's send window and cap.

use super::{error, load};
use crate::domain::{
    Lane,
    policy::{Cap, Days, SendWindow, TimeOfDay, Zone},
};

const WINDOW: &str =
    "[lanes.bulk.send_window]\nstart = \"09:00\"\nend = \"21:00\"\ntimezone = \"Asia/Shanghai\"\ndays = \"mon, fri\"";

#[test]
fn no_lane_has_a_policy_unless_one_is_set() {
    let settings = load("", &[], &[]).unwrap();
    for lane in Lane::ALL {
        let policy = &settings.lane(lane).policy;
        assert!(policy.send_window.is_none() && policy.cap.is_none());
    }
}

#[test]
fn a_lanes_policy_is_read_from_file_and_environment() {
    let environment = [
        ("IM_DISPATCHER__LANES__BULK__SEND_WINDOW__END", "22:30"),
        ("IM_DISPATCHER__LANES__HIGH__CAP__MAX", "10"),
        ("IM_DISPATCHER__LANES__HIGH__CAP__PERIOD", "1h"),
        ("IM_DISPATCHER__LANES__HIGH__CAP__GROUP_PREFIX", "alert-"),
    ];
    let settings = load(WINDOW, &environment, &[]).unwrap();
    let window = SendWindow {
        start: TimeOfDay::parse("09:00").unwrap(),
        end: TimeOfDay::parse("22:30").unwrap(),
        timezone: Zone::parse("Asia/Shanghai").unwrap(),
        days: Days::parse("mon,fri").unwrap(),
    };
    assert_eq!(settings.lane(Lane::Bulk).policy.send_window, Some(window));
    assert_eq!(settings.lane(Lane::Bulk).policy.cap, None);
    assert_eq!(
        settings.lane(Lane::High).policy.cap,
        Some(Cap::parse("10", "1h", Some("alert-")).unwrap())
    );
    let row = |name: &str| settings.effective().into_iter().find(|row| row.name == name).unwrap();
    let end = row("lanes.bulk.send_window.end");
    assert_eq!(end.value.as_deref(), Some("22:30"));
    assert!(
        end.origin
            .unwrap()
            .contains("IM_DISPATCHER__LANES__BULK__SEND_WINDOW__END")
    );
}

#[test]
fn a_wrong_or_missing_part_of_a_policy_names_its_setting() {
    let file = |change: (&str, &str)| error(&WINDOW.replace(change.0, change.1), &[]);
    let cases = [
        (file(("09:00", "9:00")), "lanes.bulk.send_window.start"),
        (file(("21:00", "09:00")), "lanes.bulk.send_window.end"),
        (file(("Asia/Shanghai", "Shanghai")), "lanes.bulk.send_window.timezone"),
        (file(("mon, fri", "mon-fri")), "lanes.bulk.send_window.days"),
        (
            file(("timezone = \"Asia/Shanghai\"\n", "")),
            "lanes.bulk.send_window.timezone",
        ),
        (error("[lanes.bulk.cap]\nmax = 3", &[]), "lanes.bulk.cap.period"),
        (error("[lanes.bulk.cap]\nperiod = \"1d\"", &[]), "lanes.bulk.cap.max"),
        (
            error("[lanes.bulk.cap]\nmax = 0\nperiod = \"1d\"", &[]),
            "lanes.bulk.cap.max",
        ),
        (
            error("[lanes.bulk.cap]\nmax = 1\nperiod = \"40d\"", &[]),
            "lanes.bulk.cap.period",
        ),
    ];
    for (told, name) in cases {
        assert!(told.contains(name), "{name}: {told}");
    }
}

#[test]
fn the_high_lane_has_no_window() {
    let told = error("[lanes.high.send_window]\nstart = \"09:00\"", &[]);
    assert!(told.contains("lanes.high.send_window"), "{told}");
}
