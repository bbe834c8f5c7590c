//! From a typed job back to its JSON: what a producer publishes. Decoding it gives the same job.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    AppName,
    job::{Job, OnUnknown, RevokeTarget, Task},
};

impl Job {
    /// The job as compact JSON. Defaults are left out.
    ///
    /// # Panics
    ///
    /// Never: every type in a job serialises to JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a job's types serialise to JSON")
    }
}

/// RFC 3339 in UTC, with as many digits as the time has.
fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

fn entry<M: SerializeMap, T: Serialize>(map: &mut M, key: &'static str, value: Option<T>) -> Result<(), M::Error> {
    match value {
        Some(value) => map.serialize_entry(key, &value),
        None => Ok(()),
    }
}

impl Serialize for Job {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", self.type_name())?;
        map.serialize_entry("id", &self.id)?;
        entry(
            &mut map,
            "app",
            Some(&self.app).filter(|app| **app != AppName::default_app()),
        )?;
        entry(&mut map, "group", self.group.as_ref())?;
        entry(&mut map, "send_at", self.send_at.map(rfc3339))?;
        entry(&mut map, "expires_at", self.expires_at.map(rfc3339))?;
        entry(&mut map, "coalesce", Some(true).filter(|_| self.coalesce))?;
        entry(
            &mut map,
            "on_unknown",
            Some(self.on_unknown).filter(|choice| *choice != OnUnknown::default()),
        )?;
        entry(&mut map, "send_window", self.send_window.as_ref())?;
        entry(&mut map, "cap", self.cap.as_ref())?;
        match &self.task {
            Task::Send { from, to, message } => {
                entry(&mut map, "from", from.as_ref())?;
                map.serialize_entry("to", to)?;
                map.serialize_entry("message", message)?;
            }
            Task::BatchSend { from, to, message } => {
                entry(&mut map, "from", from.as_ref())?;
                map.serialize_entry("to", to)?;
                map.serialize_entry("message", message)?;
            }
            Task::Revoke(target) => map.serialize_entry("target", target)?,
            Task::Import {
                from,
                to,
                message,
                timestamp,
                unread,
            } => {
                map.serialize_entry("from", from)?;
                map.serialize_entry("to", to)?;
                map.serialize_entry("message", message)?;
                map.serialize_entry("timestamp", timestamp)?;
                map.serialize_entry("unread", unread)?;
            }
            Task::MarkRead { user, peer } => {
                map.serialize_entry("user", user)?;
                map.serialize_entry("peer", peer)?;
            }
            Task::Unread { user, peers } => {
                map.serialize_entry("user", user)?;
                entry(&mut map, "peers", Some(peers).filter(|peers| !peers.is_empty()))?;
            }
            Task::History {
                from,
                to,
                since,
                until,
                limit,
            } => {
                map.serialize_entry("from", from)?;
                map.serialize_entry("to", to)?;
                entry(&mut map, "since", since.map(rfc3339))?;
                entry(&mut map, "until", until.map(rfc3339))?;
                entry(&mut map, "limit", *limit)?;
            }
        }
        map.end()
    }
}

impl Serialize for RevokeTarget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Job { job, to } => {
                map.serialize_entry("job", job)?;
                entry(&mut map, "to", to.as_ref())?;
            }
            Self::Group(group) => map.serialize_entry("group", group)?,
            Self::Message { from, to, msg_key } => {
                map.serialize_entry("from", from)?;
                map.serialize_entry("to", to)?;
                map.serialize_entry("msg_key", msg_key)?;
            }
        }
        map.end()
    }
}
