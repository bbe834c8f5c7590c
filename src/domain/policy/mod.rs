//! Sending policy: when may a message go out, and how many may a recipient get? What a job and its lane say, joined.
//!
//! Pure rules, and the clock is an argument. It must not know how a job waits, nor where is counted.
//!
//! ```
//! use im_dispatcher::domain::{job::Job, policy::{Gate, LanePolicy, gate}};
//!
//! let job = Job::decode(
//!     br#"{"type": "send", "id": "promo-1", "to": "alice", "message": {"text": "Today only"},
//!          "send_window": {"start": "09:00", "end": "21:00", "timezone": "Asia/Shanghai"}}"#,
//!     None,
//! )?;
//! let noon: chrono::DateTime<chrono::Utc> = "2026-11-29T12:00:00+08:00".parse().unwrap();
//! let night = "2026-11-29T23:00:00+08:00".parse().unwrap();
//! assert_eq!(gate(&job, &LanePolicy::default(), noon), Gate::Open);
//! let opens = "2026-11-30T09:00:00+08:00".parse().unwrap();
//! assert_eq!(gate(&job, &LanePolicy::default(), night), Gate::Until(opens));
//! # Ok::<(), im_dispatcher::domain::job::DecodeError>(())
//! ```

mod cap;
mod window;

use chrono::{DateTime, Utc};

pub use cap::{Cap, CapScope, CapScopeKind, MAX_PERIOD, Period};
pub use window::{Day, Days, SendWindow, TimeOfDay, Zone};

use super::{Lane, job::Job};

/// What a lane's settings ask of every send and batch send in it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LanePolicy {
    /// When its messages may go out; never set for the high lane.
    pub send_window: Option<SendWindow>,
    /// How many messages a recipient may get.
    pub cap: Option<Cap>,
}

/// How long two windows are searched for an instant that lies in both, in days: longer than a year, in which every
/// change of every zone's clock comes up.
const HORIZON_DAYS: i64 = 370;

/// Where a job stands against its windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// It may go out now.
    Open,
    /// Not before then.
    Until(DateTime<Utc>),
    /// The job's window and its lane's have nothing in common within a year.
    Never,
}

/// Whether a job may go out: its own window and its lane's must both be open. An import is no new message to anybody,
/// so no window holds for it.
pub fn gate(job: &Job, lane: &LanePolicy, now: DateTime<Utc>) -> Gate {
    if !job.job_type().obeys_policy() {
        return Gate::Open;
    }
    windows(job.send_window.as_ref(), lane, now)
}

/// Whether what has this window of its own may go out.
pub fn windows(own: Option<&SendWindow>, lane: &LanePolicy, now: DateTime<Utc>) -> Gate {
    match (own, &lane.send_window) {
        (None, None) => Gate::Open,
        (Some(window), None) | (None, Some(window)) => match window.next_opening(now) {
            Some(at) if at <= now => Gate::Open,
            Some(at) => Gate::Until(at),
            None => Gate::Never,
        },
        (Some(own), Some(lane)) => both(own, lane, now),
    }
}

fn both(own: &SendWindow, lane: &SendWindow, now: DateTime<Utc>) -> Gate {
    let last = now + chrono::TimeDelta::days(HORIZON_DAYS);
    let mut at = now;
    while at <= last {
        let Some(opening) = own.next_opening(at).and_then(|at| lane.next_opening(at)) else {
            return Gate::Never;
        };
        if own.is_open(opening) {
            return if opening <= now {
                Gate::Open
            } else {
                Gate::Until(opening)
            };
        }
        at = opening;
    }
    Gate::Never
}

/// The caps that hold for a job: its own, and its lane's where the lane's is about its group.
pub fn caps(job: &Job, lane: Lane, policy: &LanePolicy) -> Vec<CapScope> {
    if !job.job_type().obeys_policy() {
        return Vec::new();
    }
    let group = job.group.as_ref();
    [job.cap.as_ref(), policy.cap.as_ref()]
        .into_iter()
        .flatten()
        .filter(|cap| cap.covers(group))
        .map(|cap| cap.scope(lane))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "so that a case is one line")]
    fn job(fields: serde_json::Value) -> Job {
        let mut job = json!({"type": "send", "id": "j", "to": "bob", "message": {"text": "hi"}});
        for (name, value) in fields.as_object().unwrap() {
            job[name] = value.clone();
        }
        Job::decode(job.to_string().as_bytes(), None).unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn lane(start: &str, end: &str) -> LanePolicy {
        LanePolicy {
            send_window: Some(window(start, end)),
            cap: None,
        }
    }

    fn window(start: &str, end: &str) -> SendWindow {
        SendWindow {
            start: TimeOfDay::parse(start).unwrap(),
            end: TimeOfDay::parse(end).unwrap(),
            timezone: Zone::parse("UTC").unwrap(),
            days: Days::ALL,
        }
    }

    #[test]
    fn without_a_window_everything_may_go_out() {
        let now = at("2026-05-01T03:00:00Z");
        assert_eq!(gate(&job(json!({})), &LanePolicy::default(), now), Gate::Open);
    }

    #[test]
    fn the_jobs_window_and_its_lanes_must_both_be_open() {
        let own = job(json!({"send_window": {"start": "09:00", "end": "12:00", "timezone": "UTC"}}));
        let lane = lane("11:00", "20:00");
        let gate = |now: &str| gate(&own, &lane, at(now));
        assert_eq!(gate("2026-05-01T11:30:00Z"), Gate::Open);
        assert_eq!(gate("2026-05-01T09:30:00Z"), Gate::Until(at("2026-05-01T11:00:00Z")));
        assert_eq!(gate("2026-05-01T12:00:00Z"), Gate::Until(at("2026-05-02T11:00:00Z")));
    }

    #[test]
    fn windows_that_never_meet_are_told_apart_from_closed_ones() {
        let own = job(json!({"send_window": {"start": "09:00", "end": "10:00", "timezone": "UTC"}}));
        let now = at("2026-05-01T09:30:00Z");
        assert_eq!(gate(&own, &lane("10:00", "11:00"), now), Gate::Never);
    }

    #[test]
    fn an_import_obeys_no_policy_of_its_lane() {
        let import = json!({"type": "import", "id": "j", "from": "a", "to": "b", "message": {"text": "hi"},
                            "timestamp": 1, "unread": false});
        let import = Job::decode(import.to_string().as_bytes(), None).unwrap();
        let mut lane = lane("09:00", "10:00");
        lane.cap = Some(Cap::parse("1", "1d", None).unwrap());
        assert_eq!(gate(&import, &lane, at("2026-05-01T03:00:00Z")), Gate::Open);
        assert_eq!(caps(&import, Lane::Bulk, &lane), []);
    }

    #[test]
    fn a_cap_of_a_group_prefix_holds_for_groups_that_begin_so() {
        let policy = LanePolicy {
            cap: Some(Cap::parse("2", "1h", Some("promo-")).unwrap()),
            send_window: None,
        };
        assert_eq!(caps(&job(json!({"group": "news"})), Lane::Bulk, &policy), []);
        assert_eq!(caps(&job(json!({})), Lane::Bulk, &policy), []);
        let held = caps(&job(json!({"group": "promo-may"})), Lane::Bulk, &policy);
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].key(), "group:promo-");
    }

    #[test]
    fn a_jobs_cap_and_its_lanes_both_hold() {
        let policy = LanePolicy {
            cap: Some(Cap::parse("9", "7d", None).unwrap()),
            send_window: None,
        };
        let capped = job(json!({"group": "promo-may", "cap": {"max": 2, "period": "1d", "group_prefix": "promo-"}}));
        let keys: Vec<_> = caps(&capped, Lane::Bulk, &policy).iter().map(CapScope::key).collect();
        assert_eq!(keys, ["group:promo-", "lane:bulk"]);
    }

    proptest! {
        #[test]
        fn the_next_common_opening_is_open_in_both_windows_and_nothing_before_it_is(
            own in crate::domain::strategies::send_window(),
            lane in crate::domain::strategies::send_window(),
            second in 1_750_000_000_i64..1_850_000_000,
        ) {
            let now = DateTime::from_timestamp(second, 0).unwrap();
            let end = match both(&own, &lane, now) {
                Gate::Open => {
                    prop_assert!(own.is_open(now) && lane.is_open(now));
                    now
                }
                Gate::Until(at) => {
                    prop_assert!(at > now && own.is_open(at) && lane.is_open(at));
                    at
                }
                Gate::Never => now + chrono::TimeDelta::days(9),
            };
            // Windows of whole minutes: one look at each is enough, and a few hundred are.
            let step = ((end - now).num_minutes() / 300).max(1);
            let mut probe = now;
            while probe < end {
                prop_assert!(!(own.is_open(probe) && lane.is_open(probe)), "open at {probe}");
                probe += chrono::TimeDelta::minutes(step);
            }
        }
    }
}
