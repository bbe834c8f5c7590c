//! Arguments that several commands read: accounts, times, durations.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::domain::AccountId;

use super::output::{Usage, usage};

/// An account by the argument that names it.
pub(super) fn account(name: &str, value: &str) -> Result<AccountId, Usage> {
    AccountId::parse(value).map_err(|error| usage(format!("{name} {error}")))
}

/// A time: RFC 3339, Unix seconds, or how long ago, such as `2h`.
pub(super) fn time(name: &str, value: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, Usage> {
    let unix = || {
        value
            .parse()
            .ok()
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
    };
    let rfc3339 = || DateTime::parse_from_rfc3339(value).ok().map(|time| time.to_utc());
    let ago = || now.checked_sub_signed(chrono::Duration::from_std(humantime::parse_duration(value).ok()?).ok()?);
    unix().or_else(rfc3339).or_else(ago).ok_or_else(|| {
        usage(format!(
            "{name} takes 2026-01-31T12:00:00Z, Unix seconds, or how long ago, such as 2h"
        ))
    })
}

/// A time to wait: seconds, or a duration with its unit.
pub(super) fn patience(name: &str, value: &str) -> Result<Duration, Usage> {
    let seconds = value
        .parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .or_else(|| humantime::parse_duration(value).ok())
        .ok_or_else(|| usage(format!("{name} takes seconds, or a duration such as 5m")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_ago() {
        let now = DateTime::from_timestamp(1_000_000, 0).unwrap();
        let seconds = |value: &str| time("--since", value, now).unwrap().timestamp();
        assert_eq!(seconds("1970-01-01T01:00:00+01:00"), 0);
        assert_eq!(seconds("77"), 77);
        assert_eq!(seconds("2h"), 1_000_000 - 7_200);
        assert!(time("--since", "yesterday", now).is_err());
    }

    #[test]
    fn patience_is_in_seconds_unless_it_names_its_unit() {
        assert_eq!(patience("--timeout", "30").unwrap(), Duration::from_secs(30));
        assert_eq!(patience("--timeout", "0.5").unwrap(), Duration::from_millis(500));
        assert_eq!(patience("--timeout", "5m").unwrap(), Duration::from_mins(5));
        assert!(patience("--timeout", "-1").is_err());
    }
}
