//! A cap: how many messages a recipient may get within a period.
//!
//! It says what is counted together; the counting is the records'.

use std::{borrow::Cow, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize, Serializer};

use super::window::by_text;
use crate::domain::{GroupName, Lane};

/// The longest period: what was counted is kept as long.
pub const MAX_PERIOD: Duration = Duration::from_hours(31 * 24);
/// At most `max` messages for each recipient within any `period`, counted together over the jobs whose cap names the same
/// group prefix, or, without one, over those of the same lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    /// Messages at most.
    #[schemars(range(min = 1, max = 10_000))]
    pub max: u32,
    /// Within any such span, from 1 second to 31 days, in one unit: `30s`, `15m`, `24h`, `7d`.
    pub period: Period,
    /// What the job's `group` begins with: jobs that name the same prefix are counted together. Left out: the jobs of the
    /// same lane are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_prefix: Option<GroupName>,
}

impl Cap {
    /// The highest `max`.
    pub const MOST: u32 = 10_000;
    /// What `max` must be; for sentences.
    pub const MAX_RULE: &str = "must be a whole number from 1 to 10000";

    /// Reads a cap from the texts of settings.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn parse(max: &str, period: &str, group_prefix: Option<&str>) -> Result<Self, String> {
        let cap = Self {
            max: max.parse().map_err(|_| Self::MAX_RULE.to_owned())?,
            period: Period::parse(period)?,
            group_prefix: group_prefix
                .map(GroupName::parse)
                .transpose()
                .map_err(|error| error.to_string())?,
        };
        match cap.fault() {
            Some((_, rule)) => Err(rule.to_owned()),
            None => Ok(cap),
        }
    }

    /// Why it isn't one: the field, and the rule that it breaks.
    pub(crate) const fn fault(&self) -> Option<(&'static str, &'static str)> {
        if self.max == 0 || self.max > Self::MOST {
            return Some(("max", Self::MAX_RULE));
        }
        None
    }

    /// Whether it is about a job of this group.
    pub fn covers(&self, group: Option<&GroupName>) -> bool {
        match (&self.group_prefix, group) {
            (None, _) => true,
            (Some(prefix), Some(group)) => group.as_str().starts_with(prefix.as_str()),
            (Some(_), None) => false,
        }
    }

    /// What it is for a job of this lane.
    pub fn scope(&self, lane: Lane) -> CapScope {
        CapScope {
            kind: match &self.group_prefix {
                Some(prefix) => CapScopeKind::GroupPrefix(prefix.clone()),
                None => CapScopeKind::Lane(lane),
            },
            max: self.max,
            period: self.period,
        }
    }
}

/// A cap as it holds for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapScope {
    /// What is counted together.
    pub kind: CapScopeKind,
    /// Messages at most.
    pub max: u32,
    /// Within any such span.
    pub period: Period,
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CapScopeKind {
    /// Jobs whose cap names this prefix.
    GroupPrefix(GroupName),
    /// Jobs with a cap of this lane.
    Lane(Lane),
}

impl CapScope {
    /// Names what is counted together, in the records.
    pub fn key(&self) -> String {
        match &self.kind {
            CapScopeKind::GroupPrefix(prefix) => format!("group:{prefix}"),
            CapScopeKind::Lane(lane) => format!("lane:{lane}"),
        }
    }
}

impl fmt::Display for CapScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} in {} ", self.max, self.period)?;
        match &self.kind {
            CapScopeKind::GroupPrefix(prefix) => write!(f, "within the group prefix {prefix}"),
            CapScopeKind::Lane(lane) => write!(f, "within the lane {lane}"),
        }
    }
}

/// A span of time in whole seconds, from 1 second to 31 days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

/// The units, the longest first, each in seconds.
const UNITS: [(char, u64); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

impl Period {
    /// What a text must be; for sentences.
    pub const RULE: &str = "must be a number with its unit s, m, h or d, such as 24h, from 1s to 31d";

    /// Reads a number with its unit.
    ///
    /// # Errors
    /// [`Period::RULE`].
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let read = || {
            let (number, factor) = UNITS
                .into_iter()
                .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
            let digits = (1..=7).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
            let seconds = digits.then(|| number.parse::<u64>().ok()).flatten()? * factor;
            let span = Duration::from_secs(seconds);
            (Duration::from_secs(1)..=MAX_PERIOD)
                .contains(&span)
                .then_some(Self(span))
        };
        read().ok_or(Self::RULE)
    }

    /// The span.
    pub const fn span(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let unit = UNITS.into_iter().find(|(_, factor)| seconds.is_multiple_of(*factor));
        let (unit, factor) = unit.unwrap_or(('s', 1));
        write!(f, "{}{unit}", seconds / factor)
    }
}

by_text!(Period);

impl JsonSchema for Period {
    fn schema_name() -> Cow<'static, str> {
        "Period".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]{1,7}[smhd]$",
            "description": "A span from 1s to 31d: a number with its unit s, m, h or d.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_a_number_with_one_unit() {
        for (text, shown) in [
            ("30s", "30s"),
            ("90s", "90s"),
            ("60m", "1h"),
            ("24h", "1d"),
            ("31d", "31d"),
        ] {
            assert_eq!(Period::parse(text).unwrap().to_string(), shown);
        }
        for text in [
            "",
            "1",
            "d",
            "0s",
            "32d",
            "1w",
            "1.5h",
            "-1h",
            "1h30m",
            "99999999s",
            " 1h",
            "+1h",
        ] {
            assert_eq!(Period::parse(text), Err(Period::RULE), "{text}");
        }
    }

    #[test]
    fn what_is_counted_together_is_named_by_the_prefix_or_by_the_lane() {
        let within_lane = Cap::parse("3", "1d", None).unwrap();
        let within_group = Cap::parse("3", "1d", Some("promo-")).unwrap();
        assert_eq!(within_lane.scope(Lane::Bulk).key(), "lane:bulk");
        assert_eq!(
            within_group.scope(Lane::Bulk).key(),
            within_group.scope(Lane::Normal).key()
        );
        assert_eq!(
            within_group.scope(Lane::Bulk).to_string(),
            "at most 3 in 1d within the group prefix promo-"
        );
        assert_eq!(Cap::parse("0", "1d", None), Err(Cap::MAX_RULE.to_owned()));
    }
}
