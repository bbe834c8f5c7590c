//! What can be paused: a lane, a group or an app.
//!
//! A pause stops what sends: calls that make a message appear, and the queues of a lane. Revocations, reconciliation and
//! reads go on.

use std::{collections::HashMap, fmt};

use chrono::{DateTime, Utc};

use super::{AppName, Command, GroupName, Lane};

/// How long a pause lasts, as people read it.
pub fn pause_end(until: Option<DateTime<Utc>>) -> String {
    until.map_or_else(
        || "until it is resumed".to_owned(),
        |until| format!("until {}", until.to_rfc3339()),
    )
}

/// What is paused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PauseScope {
    /// Its queues are not consumed, and nothing of it is sent.
    Lane(Lane),
    /// Nothing of it is sent.
    Group(GroupName),
    /// Nothing of it is sent.
    App(AppName),
}

impl PauseScope {
    /// The word of its kind: `lane`, `group` or `app`.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Lane(_) => "lane",
            Self::Group(_) => "group",
            Self::App(_) => "app",
        }
    }

    /// The name within its kind.
    pub fn name(&self) -> &str {
        match self {
            Self::Lane(lane) => lane.as_str(),
            Self::Group(group) => group.as_str(),
            Self::App(app) => app.as_str(),
        }
    }

    /// The inverse of [`PauseScope::kind`] and [`PauseScope::name`].
    pub fn parse(kind: &str, name: &str) -> Option<Self> {
        match kind {
            "lane" => Lane::ALL.into_iter().find(|lane| lane.as_str() == name).map(Self::Lane),
            "group" => GroupName::parse(name).ok().map(Self::Group),
            "app" => AppName::parse(name).ok().map(Self::App),
            _ => None,
        }
    }
}

impl fmt::Display for PauseScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.name())
    }
}

/// Everything that is paused, with the time at which each pause ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pauses(HashMap<PauseScope, Option<DateTime<Utc>>>);

impl Pauses {
    /// Whether a lane is paused.
    pub fn lane(&self, lane: Lane) -> bool {
        self.0.contains_key(&PauseScope::Lane(lane))
    }

    /// Whether an app is paused.
    pub fn app(&self, app: &AppName) -> bool {
        !self.0.is_empty() && self.0.contains_key(&PauseScope::App(app.clone()))
    }

    /// Whether a group is paused.
    pub fn group(&self, group: Option<&GroupName>) -> bool {
        let Some(group) = group.filter(|_| !self.0.is_empty()) else {
            return false;
        };
        self.0.contains_key(&PauseScope::Group(group.clone()))
    }

    /// Whether a call has to wait.
    pub fn stops(&self, command: Command, lane: Lane, app: &AppName, group: Option<&GroupName>) -> bool {
        sends(command) && (self.lane(lane) || self.app(app) || self.group(group))
    }

    /// Each pause, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&PauseScope, Option<DateTime<Utc>>)> {
        self.0.iter().map(|(scope, until)| (scope, *until))
    }
}

impl FromIterator<(PauseScope, Option<DateTime<Utc>>)> for Pauses {
    fn from_iter<I: IntoIterator<Item = (PauseScope, Option<DateTime<Utc>>)>>(pauses: I) -> Self {
        Self(pauses.into_iter().collect())
    }
}

/// Whether a command makes a message appear: only those can be paused.
pub const fn sends(command: Command) -> bool {
    matches!(command, Command::SendMsg | Command::BatchSendMsg | Command::ImportMsg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_stops_what_sends_of_its_lane_group_or_app_and_nothing_else() {
        let group = GroupName::parse("spring").unwrap();
        let (app, other) = (AppName::default_app(), AppName::parse("other").unwrap());
        let scopes = [
            PauseScope::Lane(Lane::Bulk),
            PauseScope::Group(group.clone()),
            PauseScope::App(other.clone()),
        ];
        for scope in &scopes {
            assert_eq!(PauseScope::parse(scope.kind(), scope.name()).as_ref(), Some(scope));
        }
        let pauses: Pauses = scopes.into_iter().map(|scope| (scope, None)).collect();
        assert!(pauses.stops(Command::SendMsg, Lane::Bulk, &app, None));
        assert!(pauses.stops(Command::BatchSendMsg, Lane::High, &app, Some(&group)));
        assert!(pauses.stops(Command::ImportMsg, Lane::High, &other, None));
        assert!(!pauses.stops(Command::SendMsg, Lane::High, &app, None));
        assert!(!pauses.stops(Command::MsgWithdraw, Lane::Bulk, &other, Some(&group)));
        assert_eq!(PauseScope::parse("lane", "middle"), None);
    }
}
