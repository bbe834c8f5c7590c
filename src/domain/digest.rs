//! Are two jobs with one id the same job? Same type, app, target and content: yes, whatever the order of keys, the
//! blanks, or the envelope (group, times, `on_unknown`, `coalesce`) that came with them.
//!
//! The encoding is our own and must never change: digests of jobs carried out long ago are on record. A test pins it.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::{
    AccountId,
    job::{Job, RevokeTarget, Task},
    message::Message,
};

/// Keeps these digests apart from any other use of SHA-256, and from a later version of the encoding.
const DOMAIN: &[u8] = b"im-dispatcher/job-digest/1\0";

impl Job {
    /// SHA-256 over a canonical form of the job's type, app, target and content. `text` and a body of one `TIMTextElem`
    /// are the same content, and so are recipients in another order, since the calls would be equivalent.
    pub fn digest(&self) -> [u8; 32] {
        let mut canon = Canon::new();
        canon.text("type", self.type_name());
        canon.text("app", self.app.as_str());
        match &self.task {
            Task::Send { from, to, message } => {
                canon.optional("from", from.as_ref().map(AccountId::as_str));
                canon.text("to", to.as_str());
                canon.message(message);
            }
            Task::BatchSend { from, to, message } => {
                canon.optional("from", from.as_ref().map(AccountId::as_str));
                canon.accounts("to", to);
                canon.message(message);
            }
            Task::Revoke(RevokeTarget::Job { job, to }) => {
                canon.text("job", job.as_str());
                if let Some(to) = to {
                    canon.accounts("to", to);
                }
            }
            Task::Revoke(RevokeTarget::Group(group)) => canon.text("group", group.as_str()),
            Task::Revoke(RevokeTarget::Message { from, to, msg_key }) => {
                canon.text("from", from.as_str());
                canon.text("to", to.as_str());
                canon.text("msg_key", msg_key.as_str());
            }
            Task::Import {
                from,
                to,
                message,
                timestamp,
                unread,
            } => {
                canon.text("from", from.as_str());
                canon.text("to", to.as_str());
                canon.message(message);
                canon.number("timestamp", *timestamp);
                canon.number("unread", u64::from(*unread));
            }
            Task::MarkRead { user, peer } => {
                canon.text("user", user.as_str());
                canon.text("peer", peer.as_str());
            }
            Task::Unread { user, peers } => {
                canon.text("user", user.as_str());
                canon.accounts("peers", peers);
            }
            Task::History {
                from,
                to,
                since,
                until,
                limit,
            } => {
                canon.text("from", from.as_str());
                canon.text("to", to.as_str());
                for (name, time) in [("since", since), ("until", until)] {
                    if let Some(time) = time {
                        canon.name(name);
                        canon.value(&Value::from(time.timestamp()));
                        canon.value(&Value::from(time.timestamp_subsec_nanos()));
                    }
                }
                if let Some(limit) = limit {
                    canon.number("limit", u64::from(*limit));
                }
            }
        }
        canon.0.finalize().into()
    }
}

impl Message {
    /// SHA-256 over a canonical form of the content and its options: two messages that have the same would be the same
    /// call to the same recipient. Kept nowhere, so it may change with a release.
    pub fn digest(&self) -> [u8; 32] {
        let mut canon = Canon::new();
        canon.message(self);
        canon.0.finalize().into()
    }
}

/// The canonical form, hashed while it is written. Every text has its length before it and every value its tag, so
/// that no two forms run into one; an absent field is not written.
struct Canon(Sha256);

impl Canon {
    fn new() -> Self {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        Self(hash)
    }

    fn bytes(&mut self, text: &str) {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
    }

    fn name(&mut self, name: &str) {
        self.0.update(b"n");
        self.bytes(name);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        self.0.update(b"s");
        self.bytes(text);
    }

    fn optional(&mut self, name: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        self.value(&Value::from(number));
    }

    /// A set of accounts: their order says nothing.
    fn accounts(&mut self, name: &str, accounts: &[AccountId]) {
        let mut sorted: Vec<&str> = accounts.iter().map(AccountId::as_str).collect();
        sorted.sort_unstable();
        self.name(name);
        self.0.update(b"a");
        self.0.update((sorted.len() as u64).to_be_bytes());
        for account in sorted {
            self.0.update(b"s");
            self.bytes(account);
        }
    }

    fn message(&mut self, message: &Message) {
        let mut options = message.clone();
        let elements = std::mem::take(&mut options.body);
        let text = std::mem::take(&mut options.text);
        let body = Message {
            text,
            body: elements,
            ..Message::default()
        };
        self.name("body");
        self.value(&json(body.elements()));
        self.name("options");
        self.value(&json(options));
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.0.update(b"0"),
            Value::Bool(false) => self.0.update(b"f"),
            Value::Bool(true) => self.0.update(b"t"),
            Value::Number(number) => {
                if let Some(number) = number.as_u64() {
                    self.0.update(b"u");
                    self.0.update(number.to_be_bytes());
                } else if let Some(number) = number.as_i64() {
                    self.0.update(b"i");
                    self.0.update(number.to_be_bytes());
                } else {
                    self.0.update(b"d");
                    self.0
                        .update(number.as_f64().unwrap_or(f64::NAN).to_bits().to_be_bytes());
                }
            }
            Value::String(text) => {
                self.0.update(b"s");
                self.bytes(text);
            }
            Value::Array(entries) => {
                self.0.update(b"a");
                self.0.update((entries.len() as u64).to_be_bytes());
                for entry in entries {
                    self.value(entry);
                }
            }
            Value::Object(fields) => {
                let mut fields: Vec<_> = fields.iter().collect();
                fields.sort_unstable_by_key(|(name, _)| *name);
                self.0.update(b"o");
                self.0.update((fields.len() as u64).to_be_bytes());
                for (name, value) in fields {
                    self.name(name);
                    self.value(value);
                }
            }
        }
    }
}

/// A message as a tree, so that the order in which a type declares its fields says nothing.
fn json(part: impl serde::Serialize) -> Value {
    serde_json::to_value(part).expect("a message's types serialise to JSON")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(job: &str) -> String {
        hex::encode(Job::decode(job.as_bytes(), None).unwrap().digest())
    }

    /// Digests of jobs that were carried out are on record: a release that computes others would take a repeat for a
    /// conflict, so these never change.
    #[test]
    fn digests_are_pinned_for_ever() {
        let push = r#"{"PushFlag": 0, "Ext": "{}", "Vendor": {"a": [1, -1, 1.5, null, true, "x"]}}"#;
        let body = r#"[{"MsgType": "TIMLocationElem", "MsgContent": {"Latitude": 39, "Longitude": 116.4}}]"#;
        let vectors = [
            (r#"{"type": "send", "id": "1", "to": "bob", "message": {"text": "hi"}}"#.to_owned(), "f9f2546d422623612b10e08bdbeffd848a461600446616511e64edb57b9e061a"),
            (
                format!(
                    r#"{{"type": "send", "id": "1", "app": "shop", "from": "a", "to": "b", "message": {{"body": {body}, "offline_push": {push}, "seq": 0, "control": ["NoUnread"]}}}}"#
                ),
                "347faa1b5edcd01303a55fcea036370df2b58c1af9398d48d79fd8626c5b52e9",
            ),
            (r#"{"type": "batch_send", "id": "1", "to": ["b", "a"], "message": {"text": "hi"}}"#.to_owned(), "1bae2e54b0f8fadd47ce0cde52ef757028d9dd03f4e94a6c58a6ad56c2776b66"),
            (r#"{"type": "revoke", "id": "1", "target": {"job": "j", "to": ["a"]}}"#.to_owned(), "453d66904c27964fbb1b82c1fe32e1541edd210d6ec11296cdd7f4d3de7225b2"),
            (r#"{"type": "revoke", "id": "1", "target": {"group": "g"}}"#.to_owned(), "abd53a2332811e8335515881b917ac1425a45f0fea5d03c6f73321308aeb2895"),
            (r#"{"type": "revoke", "id": "1", "target": {"from": "a", "to": "b", "msg_key": "k"}}"#.to_owned(), "7c732bf4c3b6e45b66d786be26ea0ce33e09f596a0c442380e2e86ba0a9c0707"),
            (
                r#"{"type": "import", "id": "1", "from": "a", "to": "b", "message": {"text": "hi"}, "timestamp": 1, "unread": true}"#.to_owned(),
                "85b597adb9a4d91d612b8c288ff00013b58401360e29fe8890a3803cca9551e4",
            ),
            (r#"{"type": "mark_read", "id": "1", "user": "a", "peer": "b"}"#.to_owned(), "7c55cee271170b180743253595b410e2f9e5a83ff2da2c9a93ec5eeeb47d27a3"),
            (r#"{"type": "unread", "id": "1", "user": "a", "peers": ["b"]}"#.to_owned(), "d9cf2f6af3ff31b067eaa098c86245976e50d9eec73414bea4b4758c95553dc3"),
            (
                r#"{"type": "history", "id": "1", "from": "a", "to": "b", "since": "2026-05-01T00:00:00.5Z", "limit": 9}"#.to_owned(),
                "a196fade14c039ded498000a4f1b3dcd3d4a62046280a5e1ab9846cf1b9073b0",
            ),
        ];
        let found: Vec<_> = vectors.iter().map(|(job, _)| digest(job)).collect();
        let pinned: Vec<_> = vectors.iter().map(|(_, pinned)| (*pinned).to_owned()).collect();
        assert_eq!(found, pinned);
    }

    #[test]
    fn spelling_and_envelope_say_nothing() {
        let plain = digest(r#"{"type":"send","id":"1","to":"bob","message":{"text":"hi","seq":5,"random":6}}"#);
        for same in [
            r#"{ "message": {"random": 6, "seq": 5.0, "text": "\u0068i"}, "to": "bob", "type": "send", "id": "1" }"#,
            r#"{"type":"send","id":"2","to":"bob","app":"default","group":"g","coalesce":true,"on_unknown":"fail",
                "send_at":"2026-05-01T08:00:00Z","expires_at":"2026-05-01T09:00:00Z",
                "message":{"text":"hi","seq":5,"random":6}}"#,
            r#"{"type":"send","id":"1","to":"bob",
                "message":{"body":[{"MsgContent":{"Text":"hi"},"MsgType":"TIMTextElem"}],"seq":5,"random":6}}"#,
        ] {
            assert_eq!(digest(same), plain, "{same}");
        }
        let batch = |to: &str| {
            digest(&format!(
                r#"{{"type":"batch_send","id":"1","to":{to},"message":{{"text":"x"}}}}"#
            ))
        };
        assert_eq!(batch(r#"["a","b","a"]"#), batch(r#"["b","a"]"#));
    }

    #[test]
    fn type_app_target_and_content_all_count() {
        let base = json!({"type": "send", "id": "1", "to": "bob", "message": {"text": "hi"}});
        let plain = digest(&base.to_string());
        let changes = [
            ("/to", json!("bobby")),
            ("/app", json!("shop")),
            ("/from", json!("a")),
            ("/message", json!({"text": "hi "})),
            ("/message", json!({"text": "hi", "seq": 0})),
            ("/message", json!({"text": "hi", "read_receipt": false})),
            ("/message", json!({"text": "hi", "offline_push": {}})),
            ("/message", json!({"text": "hi", "offline_push": {"V": 1}})),
        ];
        let mut seen = vec![plain];
        for (pointer, value) in changes {
            let mut job = base.clone();
            job[&pointer[1..]] = value;
            let digest = digest(&job.to_string());
            assert!(!seen.contains(&digest), "{job}");
            seen.push(digest);
        }
    }
}
