//! How is a fault described? The kinds of faults, when one happens, and the one-line grammar that the command line and
//! the control API share:
//!
//! ```text
//! COMMAND:FAULT[:ARGUMENT]=WHEN[,OPTION=VALUE]...
//!
//! COMMAND   sendmsg, batchsendmsg, … or * for every command
//! FAULT     code:N            answered with ErrorCode N, not carried out
//!           code_after:N      the same after it was carried out
//!           http:N            answered with HTTP status N and a page of HTML, not carried out
//!           http_after:N      the same after it was carried out
//!           garbage           HTTP 200 with something that isn't JSON, not carried out
//!           garbage_after     the same after it was carried out
//!           no_msg_key        carried out, answered OK without MsgKey
//!           reset_before      the connection is reset, not carried out
//!           reset_after       carried out, then the connection is reset
//!           cut_after         carried out, then the connection is closed without an answer
//!           cut_midway        carried out, then closed after half of the answer
//!           late:DURATION     carried out at once, answered that much later
//!           accept_late:DURATION  carried out that much later, even if the client is gone by then
//!           never             carried out, never answered: held until the client goes
//!           never_before      never answered, not carried out
//!           recipient:N       each recipient by itself fails with N (in a batch's ErrorList)
//!           partial_cut:N     a batch is carried out for its first N recipients, then the connection is closed
//! WHEN      0.02              with that probability
//!           next:N            the next N calls
//!           nth:N             the Nth matching call from now
//! OPTION    to=ACCOUNT or to=PREFIX*   only calls that have such a recipient
//!           app=SDKAPPID      only this app's calls
//!           after=DURATION    not before so long from now
//!           for=DURATION      no longer than that
//!           every=DURATION    the window of `for` comes back in this period
//! ```

use std::{fmt, str::FromStr, time::Duration};

use humantime::{format_duration, parse_duration};

use crate::domain::Command;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answered with this `ErrorCode`, not carried out.
    Code(i32),
    /// Carried out, then answered with this `ErrorCode`.
    CodeAfter(i32),
    /// Answered with this HTTP status, not carried out.
    Http(u16),
    /// Carried out, then answered with this HTTP status.
    HttpAfter(u16),
    /// Answered with something that isn't JSON, not carried out.
    Garbage,
    /// Carried out, then answered with something that isn't JSON.
    GarbageAfter,
    /// Carried out, answered OK without a MsgKey.
    NoMsgKey,
    /// The connection is reset, nothing carried out.
    ResetBefore,
    /// Carried out, then the connection is reset.
    ResetAfter,
    /// Carried out, then the connection is closed without an answer.
    CutAfter,
    /// Carried out, then the connection is closed after half of the answer.
    CutMidway,
    /// Carried out at once, answered this much later.
    Late(Duration),
    /// Carried out this much later, whether the client is still there or not.
    AcceptLate(Duration),
    /// Carried out, held without an answer until the client goes.
    Never,
    /// Held without an answer until the client goes, nothing carried out.
    NeverBefore,
    /// A recipient fails with this code; in a batch the others don't.
    Recipient(i32),
    /// A batch is carried out for this many of its recipients, then the connection is closed without an answer.
    PartialCut(u32),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "code:{code}"),
            Self::CodeAfter(code) => write!(f, "code_after:{code}"),
            Self::Http(status) => write!(f, "http:{status}"),
            Self::HttpAfter(status) => write!(f, "http_after:{status}"),
            Self::Garbage => f.write_str("garbage"),
            Self::GarbageAfter => f.write_str("garbage_after"),
            Self::NoMsgKey => f.write_str("no_msg_key"),
            Self::ResetBefore => f.write_str("reset_before"),
            Self::ResetAfter => f.write_str("reset_after"),
            Self::CutAfter => f.write_str("cut_after"),
            Self::CutMidway => f.write_str("cut_midway"),
            Self::Late(by) => write!(f, "late:{}", compact(*by)),
            Self::AcceptLate(by) => write!(f, "accept_late:{}", compact(*by)),
            Self::Never => f.write_str("never"),
            Self::NeverBefore => f.write_str("never_before"),
            Self::Recipient(code) => write!(f, "recipient:{code}"),
            Self::PartialCut(count) => write!(f, "partial_cut:{count}"),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = text
            .split_once(':')
            .map_or((text, None), |(name, argument)| (name, Some(argument)));
        let needs = |what: &str| format!("{name} needs {what}: {name}:…");
        let number = || {
            argument
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| needs("an error code"))
        };
        let status = || {
            let status = argument
                .and_then(|text| text.parse().ok())
                .filter(|status| (200..=599).contains(status));
            status.ok_or_else(|| needs("an HTTP status from 200 to 599"))
        };
        let duration = || {
            argument
                .and_then(|text| parse_duration(text).ok())
                .ok_or_else(|| needs("a duration such as 2500ms"))
        };
        let plain = |fault| argument.map_or(Ok(fault), |_| Err(format!("{name} takes no argument")));
        match name {
            "code" => number().map(Self::Code),
            "code_after" => number().map(Self::CodeAfter),
            "http" => status().map(Self::Http),
            "http_after" => status().map(Self::HttpAfter),
            "garbage" => plain(Self::Garbage),
            "garbage_after" => plain(Self::GarbageAfter),
            "no_msg_key" => plain(Self::NoMsgKey),
            "reset_before" => plain(Self::ResetBefore),
            "reset_after" => plain(Self::ResetAfter),
            "cut_after" => plain(Self::CutAfter),
            "cut_midway" => plain(Self::CutMidway),
            "late" => duration().map(Self::Late),
            "accept_late" => duration().map(Self::AcceptLate),
            "never" => plain(Self::Never),
            "never_before" => plain(Self::NeverBefore),
            "recipient" => number().map(Self::Recipient),
            "partial_cut" => argument
                .and_then(|text| text.parse().ok())
                .map(Self::PartialCut)
                .ok_or_else(|| needs("a count")),
            _ => Err(format!("unknown fault {name:?}")),
        }
    }
}

/// When a rule's fault happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// With this probability, 0 to 1.
    Probability(f64),
    /// At the next so many matching calls.
    Next(u64),
    /// At the so-manyth matching call, counted from 1.
    Nth(u64),
}

/// Which recipients a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountMatch {
    /// This one.
    Exactly(String),
    /// Those that begin like this.
    Prefix(String),
}

impl AccountMatch {
    /// Whether it is about an account.
    pub fn matches(&self, account: &str) -> bool {
        match self {
            Self::Exactly(name) => account == name,
            Self::Prefix(prefix) => account.starts_with(prefix.as_str()),
        }
    }
}

/// A fault, and which calls meet it.
#[derive(Debug, Clone, PartialEq)]
pub struct FaultRule {
    /// Only calls of this command; `None`: of any.
    pub command: Option<Command>,
    /// What goes wrong.
    pub fault: Fault,
    /// When.
    pub when: When,
    /// Only calls that have such a recipient.
    pub to: Option<AccountMatch>,
    /// Only calls of this app.
    pub sdk_app_id: Option<u64>,
    /// Not before so long after the rule was set.
    pub after: Duration,
    /// No longer than that.
    pub lasting: Option<Duration>,
    /// The window comes back in this period.
    pub every: Option<Duration>,
}

impl FaultRule {
    /// A rule without conditions but the command.
    pub const fn new(command: Option<Command>, fault: Fault, when: When) -> Self {
        Self {
            command,
            fault,
            when,
            to: None,
            sdk_app_id: None,
            after: Duration::ZERO,
            lasting: None,
            every: None,
        }
    }

    /// The same rule for calls that have such a recipient only.
    #[must_use]
    pub fn to(mut self, account: AccountMatch) -> Self {
        self.to = Some(account);
        self
    }
}

/// A duration as one word.
fn compact(duration: Duration) -> String {
    format_duration(duration).to_string().replace(' ', "")
}

impl fmt::Display for FaultRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}=", self.command.map_or("*", Command::as_str), self.fault)?;
        match self.when {
            When::Probability(probability) => write!(f, "{probability}")?,
            When::Next(count) => write!(f, "next:{count}")?,
            When::Nth(count) => write!(f, "nth:{count}")?,
        }
        match &self.to {
            Some(AccountMatch::Exactly(name)) => write!(f, ",to={name}")?,
            Some(AccountMatch::Prefix(prefix)) => write!(f, ",to={prefix}*")?,
            None => {}
        }
        if let Some(app) = self.sdk_app_id {
            write!(f, ",app={app}")?;
        }
        if !self.after.is_zero() {
            write!(f, ",after={}", compact(self.after))?;
        }
        if let Some(lasting) = self.lasting {
            write!(f, ",for={}", compact(lasting))?;
        }
        if let Some(every) = self.every {
            write!(f, ",every={}", compact(every))?;
        }
        Ok(())
    }
}

impl FromStr for FaultRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let head = parts.next().unwrap_or_default();
        let (what, when) = head
            .rsplit_once('=')
            .ok_or("use COMMAND:FAULT=WHEN, such as sendmsg:cut_after=0.02")?;
        let (command, fault) = what
            .split_once(':')
            .ok_or("use COMMAND:FAULT=WHEN, such as sendmsg:cut_after=0.02")?;
        let mut rule = Self::new(parse_command(command)?, fault.parse()?, parse_when(when)?);
        for option in parts {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("option {option:?} has no value"))?;
            let duration = || parse_duration(value).map_err(|_| format!("{name}: {value:?} is no duration such as 5s"));
            match name {
                "to" => {
                    rule.to = Some(value.strip_suffix('*').map_or_else(
                        || AccountMatch::Exactly(value.to_owned()),
                        |prefix| AccountMatch::Prefix(prefix.to_owned()),
                    ));
                }
                "app" => rule.sdk_app_id = Some(value.parse().map_err(|_| format!("app: {value:?} is no number"))?),
                "after" => rule.after = duration()?,
                "for" => rule.lasting = Some(duration()?),
                "every" => rule.every = Some(duration()?),
                _ => return Err(format!("unknown option {name:?}: use to, app, after, for or every")),
            }
        }
        if rule
            .every
            .is_some_and(|every| every.is_zero() || rule.lasting.is_none_or(|lasting| lasting > every))
        {
            return Err("every needs a for that is not longer than it".to_owned());
        }
        Ok(rule)
    }
}

fn parse_command(text: &str) -> Result<Option<Command>, String> {
    if text == "*" {
        return Ok(None);
    }
    let found = Command::ALL.into_iter().find(|command| command.as_str() == text);
    let names = || Command::ALL.map(Command::as_str).join(", ");
    found
        .map(Some)
        .ok_or_else(|| format!("unknown command {text:?}: use * or one of {}", names()))
}

fn parse_when(text: &str) -> Result<When, String> {
    let count = |text: &str| {
        text.parse()
            .ok()
            .filter(|count| *count > 0)
            .ok_or_else(|| format!("{text:?} is no count from 1 up"))
    };
    if let Some(next) = text.strip_prefix("next:") {
        return count(next).map(When::Next);
    }
    if let Some(nth) = text.strip_prefix("nth:") {
        return count(nth).map(When::Nth);
    }
    match text.parse() {
        Ok(probability) if (0.0..=1.0).contains(&probability) => Ok(When::Probability(probability)),
        _ => Err(format!(
            "{text:?} is neither a probability from 0 to 1 nor next:N nor nth:N"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        for text in [
            "sendmsg:cut_after=0.02",
            "*:code:70009=1,for=30s",
            "batchsendmsg:recipient:70169=next:3,to=alice",
            "batchsendmsg:partial_cut:250=nth:2",
            "sendmsg:late:2s500ms=0.03,to=user_*,app=1400000000",
            "sendmsg:code:60007=1,after=10s,for=5s,every=1m",
            "admin_getroammsg:accept_late:1m=next:1",
            "importmsg:http_after:502=0.5",
        ] {
            assert_eq!(
                text.parse::<FaultRule>().map(|rule| rule.to_string()).as_deref(),
                Ok(text)
            );
        }
    }

    #[test]
    fn every_kind_of_fault_is_read_back() {
        let faults = [
            Fault::Code(60008),
            Fault::CodeAfter(91000),
            Fault::Http(502),
            Fault::HttpAfter(504),
            Fault::Garbage,
            Fault::GarbageAfter,
            Fault::NoMsgKey,
            Fault::ResetBefore,
            Fault::ResetAfter,
            Fault::CutAfter,
            Fault::CutMidway,
            Fault::Late(Duration::from_millis(2500)),
            Fault::AcceptLate(Duration::from_mins(3)),
            Fault::Never,
            Fault::NeverBefore,
            Fault::Recipient(70169),
            Fault::PartialCut(7),
        ];
        for fault in faults {
            assert_eq!(fault.to_string().parse(), Ok(fault));
        }
    }

    #[test]
    fn a_wrong_rule_is_refused_with_what_would_be_right() {
        for (text, expected) in [
            ("sendmsg", "COMMAND:FAULT=WHEN"),
            ("sendmail:never=1", "unknown command"),
            ("sendmsg:nothing=1", "unknown fault"),
            ("sendmsg:code=1", "error code"),
            ("sendmsg:late:soon=1", "duration"),
            ("sendmsg:http:99=1", "HTTP status"),
            ("sendmsg:never:3=1", "no argument"),
            ("sendmsg:never=2", "probability"),
            ("sendmsg:never=next:0", "count"),
            ("sendmsg:never=1,with=x", "unknown option"),
            ("sendmsg:never=1,every=5s", "for"),
        ] {
            let error = text.parse::<FaultRule>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
