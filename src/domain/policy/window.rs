//! A send window: the hours of a day, by the clock of a zone, in which messages may go out.
//!
//! What the clock on the wall there shows counts. So an hour that a change of the clock leaves out is in no window, and
//! one that comes twice is open twice.

use std::{borrow::Cow, fmt, str::FromStr};

use chrono::{DateTime, Datelike, NaiveDateTime, Offset, TimeDelta, TimeZone, Timelike, Utc, Weekday};
use chrono_tz::Tz;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Seconds of a day by the clock.
const DAY: u32 = 86_400;
/// How far the next opening of one window is searched: a week, a day whose hours the clock leaves out, and one for the
/// window that began the day before.
const HORIZON_DAYS: i64 = 16;

/// When messages may go out: from `start` until before `end`, on `days`, by the clock of `timezone`.
///
/// An `end` that isn't later than `start` is on the next day; the days are those on which the window begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SendWindow {
    /// The first moment, `09:00` or `09:00:00`.
    pub start: TimeOfDay,
    /// The first moment behind it, up to `24:00`. Not later than `start`: on the next day. Never equal to it.
    pub end: TimeOfDay,
    /// The zone whose clock counts, by its IANA name, such as `Asia/Shanghai`.
    pub timezone: Zone,
    /// The days on which it begins; left out: every day.
    #[serde(default, skip_serializing_if = "Days::is_all")]
    pub days: Days,
}

impl SendWindow {
    /// Why it isn't one: the field, and the rule that it breaks.
    pub(crate) const fn fault(&self) -> Option<(&'static str, &'static str)> {
        if self.start.0 == self.end.0 {
            return Some(("end", "must differ from `start`; the whole day is from 00:00 to 24:00"));
        }
        if self.start.0 == DAY {
            return Some(("start", "must be before 24:00"));
        }
        None
    }

    /// Whether messages may go out then.
    pub fn is_open(&self, at: DateTime<Utc>) -> bool {
        self.is_open_by_clock(at.naive_utc() + self.offset(at))
    }

    /// The first instant, not before `from`, at which it is open; `None`: none within two weeks, since the clock of the
    /// zone never shows its hours.
    pub fn next_opening(&self, from: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let last = from + TimeDelta::days(HORIZON_DAYS);
        let mut at = from;
        // By pieces of a day at most in which the clock isn't changed. A change may lead right into the window, so each
        // begin is looked at; behind it the window opens where it begins by the clock.
        while at < last {
            if self.is_open(at) {
                return Some(at);
            }
            let end = self.next_change(at, at + TimeDelta::days(1));
            let offset = self.offset(at);
            let opening = self.next_start(at.naive_utc() + offset) - offset;
            if opening < end.naive_utc() {
                return Some(opening.and_utc());
            }
            at = end;
        }
        None
    }

    fn is_open_by_clock(&self, clock: NaiveDateTime) -> bool {
        let time = clock.num_seconds_from_midnight();
        let today = self.days.has(clock.weekday());
        let yesterday = self.days.has(clock.weekday().pred());
        if self.start.0 < self.end.0 {
            today && (self.start.0..self.end.0).contains(&time)
        } else {
            today && time >= self.start.0 || yesterday && time < self.end.0
        }
    }

    /// The next time by the clock, later than `clock`, at which the window begins.
    fn next_start(&self, clock: NaiveDateTime) -> NaiveDateTime {
        let begin = |day: i64| {
            let date = clock.date() + TimeDelta::days(day);
            let midnight = date.and_time(chrono::NaiveTime::MIN);
            (self.days.has(date.weekday())).then(|| midnight + TimeDelta::seconds(self.start.0.into()))
        };
        // Seven days ahead is the same day of the week: `days` is never empty.
        (0..=7)
            .filter_map(begin)
            .find(|start| *start > clock)
            .unwrap_or(clock + TimeDelta::days(7))
    }

    /// The difference of the zone's clock from UTC.
    fn offset(&self, at: DateTime<Utc>) -> TimeDelta {
        let offset = self.timezone.0.offset_from_utc_datetime(&at.naive_utc()).fix();
        TimeDelta::seconds(offset.local_minus_utc().into())
    }

    /// The first second after `from` at which the clock differs from UTC by something else; `until` if there is none. Of
    /// two changes within a day that undo each other neither is seen: no zone has had that.
    fn next_change(&self, from: DateTime<Utc>, until: DateTime<Utc>) -> DateTime<Utc> {
        let before = self.offset(from);
        if self.offset(until) == before {
            return until;
        }
        let (mut same, mut other) = (from.timestamp(), until.timestamp());
        while other - same > 1 {
            let middle = i64::midpoint(same, other);
            if DateTime::from_timestamp(middle, 0).is_some_and(|at| self.offset(at) == before) {
                same = middle;
            } else {
                other = middle;
            }
        }
        DateTime::from_timestamp(other, 0).unwrap_or(until).max(from)
    }
}

impl fmt::Display for SendWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} {}", self.start, self.end, self.timezone)?;
        if self.days.is_all() {
            return Ok(());
        }
        write!(f, " on {}", self.days)
    }
}

/// Reads a type by its text.
macro_rules! by_text {
    ($name:ident) => {
        $crate::domain::by_text::deserialize_by_text!($name);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}
pub(super) use by_text;

/// A time of day by the clock, to the second; 24:00 is the end of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimeOfDay(u32);

impl TimeOfDay {
    /// What a text must be; for sentences.
    pub const RULE: &str = "must be a time of day such as 09:00 or 21:30:00, at most 24:00";

    /// Reads `HH:MM` or `HH:MM:SS`, two digits each.
    ///
    /// # Errors
    /// [`TimeOfDay::RULE`].
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let read = || {
            let mut numbers = text.split(':').map(|part| {
                let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
                digits.then(|| part.parse::<u32>().ok()).flatten()
            });
            let (hour, minute) = (numbers.next()??, numbers.next()??);
            let second = numbers.next().unwrap_or(Some(0))?;
            let time = hour * 3600 + minute * 60 + second;
            (numbers.next().is_none() && minute < 60 && second < 60 && time <= DAY).then_some(Self(time))
        };
        read().ok_or(Self::RULE)
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hour, minute, second) = (self.0 / 3600, self.0 / 60 % 60, self.0 % 60);
        write!(f, "{hour:02}:{minute:02}")?;
        if second > 0 { write!(f, ":{second:02}") } else { Ok(()) }
    }
}

by_text!(TimeOfDay);

impl JsonSchema for TimeOfDay {
    fn schema_name() -> Cow<'static, str> {
        "TimeOfDay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?|24:00(:00)?)$",
            "description": "A time of day by the clock: HH:MM or HH:MM:SS, at most 24:00.",
        })
    }
}

/// A time zone of the IANA database, as this build has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Zone(Tz);

impl Zone {
    /// What a text must be; for sentences.
    pub const RULE: &str = "must be the name of a time zone in the IANA database, such as Asia/Shanghai";

    /// Reads a name, in the spelling of the database.
    ///
    /// # Errors
    /// [`Zone::RULE`].
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        Tz::from_str(text).map(Self).map_err(|_| Self::RULE)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

by_text!(Zone);

impl JsonSchema for Zone {
    fn schema_name() -> Cow<'static, str> {
        "TimeZone".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[A-Za-z0-9_+/-]+$",
            "description": "A time zone by its name in the IANA database, such as Asia/Shanghai.",
        })
    }
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Day {
    /// Monday.
    Mon,
    /// Tuesday.
    Tue,
    /// Wednesday.
    Wed,
    /// Thursday.
    Thu,
    /// Friday.
    Fri,
    /// Saturday.
    Sat,
    /// Sunday.
    Sun,
}

impl Day {
    /// Every day, from Monday.
    pub const ALL: [Self; 7] = [
        Self::Mon,
        Self::Tue,
        Self::Wed,
        Self::Thu,
        Self::Fri,
        Self::Sat,
        Self::Sun,
    ];

    /// Its word in jobs and settings.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mon => "mon",
            Self::Tue => "tue",
            Self::Wed => "wed",
            Self::Thu => "thu",
            Self::Fri => "fri",
            Self::Sat => "sat",
            Self::Sun => "sun",
        }
    }
}

/// Some days of the week, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Days(u8);

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0b111_1111);
    /// What a text must be; for sentences.
    pub const RULE: &str = "must name at least one day: mon, tue, wed, thu, fri, sat or sun";

    /// The days of a list; `None` of an empty one.
    pub fn of(days: impl IntoIterator<Item = Day>) -> Option<Self> {
        let bits = days.into_iter().fold(0, |bits, day| bits | 1 << day as u8);
        (bits != 0).then_some(Self(bits))
    }

    /// Reads words between commas, as settings have them.
    ///
    /// # Errors
    /// [`Days::RULE`].
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let days: Option<Vec<Day>> = text
            .split(',')
            .map(|word| Day::ALL.into_iter().find(|day| day.as_str() == word.trim()))
            .collect();
        days.and_then(Self::of).ok_or(Self::RULE)
    }

    /// Whether it is every day.
    pub const fn is_all(&self) -> bool {
        self.0 == Self::ALL.0
    }

    const fn has(self, day: Weekday) -> bool {
        self.0 & (1 << day.num_days_from_monday()) != 0
    }

    fn iter(self) -> impl Iterator<Item = Day> {
        Day::ALL.into_iter().filter(move |day| self.0 & (1 << *day as u8) != 0)
    }
}

impl Default for Days {
    fn default() -> Self {
        Self::ALL
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.iter().map(Day::as_str).collect();
        f.write_str(&words.join(","))
    }
}

impl Serialize for Days {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Days {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let days = Vec::<Day>::deserialize(deserializer)?;
        Self::of(days).ok_or_else(|| de::Error::custom(Self::RULE))
    }
}

impl JsonSchema for Days {
    fn schema_name() -> Cow<'static, str> {
        "Days".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": generator.subschema_for::<Day>(),
            "minItems": 1,
            "description": "Days of the week.",
        })
    }
}

#[cfg(test)]
mod tests;
