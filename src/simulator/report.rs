//! What did the service accept? Figures and lists for tests, for the control API and for the report at the end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering,
};

use serde::Serialize;

use super::{
    core::Core,
    elements::text_of,
    faults::FaultReport,
    ledger::CommandReport,
    store::{Conversation, Flags, Message},
};
use crate::domain::Command;

/// Everything that a simulator counted since its start or the last reset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When it started, in Unix microseconds: add an arrival's `at` for its time.
    pub started_unix_micros: u64,
    /// How long ago that is, in microseconds of its clock.
    pub uptime_micros: u64,
    /// Calls of all apps and commands that passed authentication.
    pub calls: u64,
    /// Calls that were answered with a throttling code.
    pub throttled: u64,
    /// Calls refused before that, by code: a wrong URL, an invalid UserSig.
    pub refused: BTreeMap<i32, u64>,
    /// Messages that sendmsg and batchsendmsg made appear, one for each recipient.
    pub delivered: u64,
    /// Repeats that were dropped, one for each recipient.
    pub deduplicated: u64,
    /// Of the delivered ones, those that were stored nowhere.
    pub online_only: u64,
    /// Messages that importmsg made appear.
    pub imported: u64,
    /// Imports that were dropped as repeats.
    pub import_repeats: u64,
    /// Messages revoked.
    pub revoked: u64,
    /// Recipients that got the same body from the same sender more than once, under different keys or the same.
    pub sent_twice: Vec<SentTwice>,
    /// Fields of requests that the documentation doesn't have, by `command.Field`.
    pub unknown_fields: BTreeMap<String, u64>,
    /// The fault rules, and how often each fired.
    pub faults: Vec<FaultReport>,
    /// The figures of each app and command.
    pub apps: BTreeMap<u64, BTreeMap<&'static str, CommandReport>>,
}

/// One body that reached a recipient more than once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct SentTwice {
    /// The app.
    pub sdk_app_id: u64,
    /// The sender.
    pub sender: String,
    /// The recipient.
    pub recipient: String,
    /// The key of each message.
    pub keys: Vec<String>,
}

/// A message as the service has it. One for each recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact that tests ask for by its name"
)]
pub struct SimMessage {
    /// The app.
    pub sdk_app_id: u64,
    /// The sender.
    pub sender: String,
    /// The recipient.
    pub recipient: String,
    /// MsgKey.
    pub key: String,
    /// MsgSeq.
    pub seq: u32,
    /// MsgRandom.
    pub random: u32,
    /// `MsgTimeStamp`, Unix seconds.
    pub time: u32,
    /// When it was accepted, in microseconds since the simulator started.
    pub at: u64,
    /// The text of its text elements, one after the other.
    pub text: String,
    /// `MsgBody` as it came.
    pub body: String,
    /// `CloudCustomData`.
    pub custom_data: Option<String>,
    /// Whether it was revoked.
    pub revoked: bool,
    /// Whether the recipient has read it, or it never counted as unread.
    pub read: bool,
    /// Whether it came by importmsg.
    pub imported: bool,
    /// Whether it came by batchsendmsg.
    pub batch: bool,
    /// Whether it was stored nowhere.
    pub online_only: bool,
}

/// How often one body reached one recipient from one sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Delivery {
    /// The app.
    pub sdk_app_id: u64,
    /// The sender.
    pub sender: String,
    /// The recipient.
    pub recipient: String,
    /// The text of the body's text elements.
    pub text: String,
    /// The key of each message.
    pub keys: Vec<String>,
}

fn message(sdk_app_id: u64, conversation: &Conversation, message: &Message) -> SimMessage {
    let (from, to) = conversation.parties(message);
    let (content, flags) = (&message.content, message.flags);
    SimMessage {
        sdk_app_id,
        sender: from.name().to_owned(),
        recipient: to.name().to_owned(),
        key: content.key(),
        seq: content.seq,
        random: content.random,
        time: content.time,
        at: message.at,
        text: text_of(&content.body),
        body: content.body.get().to_owned(),
        custom_data: content
            .custom
            .as_deref()
            .and_then(|custom| serde_json::from_str(custom.get()).ok()),
        revoked: flags.has(Flags::REVOKED),
        read: !flags.has(Flags::UNREAD),
        imported: flags.has(Flags::IMPORTED),
        batch: flags.has(Flags::BATCH),
        online_only: flags.has(Flags::ONLINE_ONLY),
    }
}

impl Core {
    /// The messages that satisfy a condition on sender and recipient, in the order in which they were accepted.
    pub(super) fn messages(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<SimMessage> {
        let mut found = Vec::new();
        for (id, app) in self.apps.load().iter() {
            app.store.each_conversation(|conversation| {
                found.extend(conversation.messages().iter().filter_map(|one| {
                    let (from, to) = conversation.parties(one);
                    wanted(from.name(), to.name()).then(|| message(*id, conversation, one))
                }));
            });
        }
        found.sort_by_key(|message| message.at);
        found
    }

    /// Calls `look` with each sender, recipient and body that was sent, and the keys under which it was delivered.
    fn each_delivery(&self, mut look: impl FnMut(u64, &Conversation, &[&Message])) {
        for (id, app) in self.apps.load().iter() {
            app.store.each_conversation(|conversation| {
                let mut by_body: HashMap<_, Vec<&Message>> = HashMap::new();
                for one in conversation
                    .messages()
                    .iter()
                    .filter(|one| !one.flags.has(Flags::IMPORTED))
                {
                    let (from, _) = conversation.parties(one);
                    by_body
                        .entry((from.name(), one.content.body.get()))
                        .or_default()
                        .push(one);
                }
                for messages in by_body.values() {
                    look(*id, conversation, messages);
                }
            });
        }
    }

    /// How often each body reached each recipient; imports apart.
    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        self.each_delivery(|sdk_app_id, conversation, messages| {
            let (from, to) = conversation.parties(messages[0]);
            deliveries.push(Delivery {
                sdk_app_id,
                sender: from.name().to_owned(),
                recipient: to.name().to_owned(),
                text: text_of(&messages[0].content.body),
                keys: messages.iter().map(|message| message.content.key()).collect(),
            });
        });
        deliveries
    }

    fn sent_twice(&self) -> Vec<SentTwice> {
        let mut found = Vec::new();
        self.each_delivery(|sdk_app_id, conversation, messages| {
            if messages.len() > 1 {
                let (from, to) = conversation.parties(messages[0]);
                found.push(SentTwice {
                    sdk_app_id,
                    sender: from.name().to_owned(),
                    recipient: to.name().to_owned(),
                    keys: messages.iter().map(|message| message.content.key()).collect(),
                });
            }
        });
        found.sort();
        found
    }

    /// How many messages sendmsg and batchsendmsg made appear.
    pub(super) fn delivered(&self) -> u64 {
        self.apps
            .load()
            .values()
            .map(|app| app.store.totals.delivered.load(Ordering::Relaxed))
            .sum()
    }

    pub(super) fn report(&self) -> Report {
        let mut report = Report {
            started_unix_micros: self.clock.started_unix_micros(),
            uptime_micros: self.clock.now(),
            calls: 0,
            throttled: 0,
            refused: self.refused.lock().clone(),
            delivered: 0,
            deduplicated: 0,
            online_only: 0,
            imported: 0,
            import_repeats: 0,
            revoked: 0,
            sent_twice: self.sent_twice(),
            unknown_fields: self.unknown_fields.lock().clone(),
            faults: self.faults.report(),
            apps: BTreeMap::new(),
        };
        for (id, app) in self.apps.load().iter() {
            let totals = &app.store.totals;
            for (sum, total) in [
                (&mut report.delivered, &totals.delivered),
                (&mut report.deduplicated, &totals.repeats),
                (&mut report.online_only, &totals.online_only),
                (&mut report.imported, &totals.imported),
                (&mut report.import_repeats, &totals.import_repeats),
                (&mut report.revoked, &totals.revoked),
            ] {
                *sum += total.load(Ordering::Relaxed);
            }
            let of = |command: Command| (command.as_str(), app.ledgers[command.index()].lock().report());
            let commands: BTreeMap<_, _> = Command::ALL
                .into_iter()
                .map(of)
                .filter(|(_, report)| report.calls > 0)
                .collect();
            for command in commands.values() {
                report.calls += command.calls;
                report.throttled += command.throttled;
            }
            report.apps.insert(*id, commands);
        }
        report
    }
}
