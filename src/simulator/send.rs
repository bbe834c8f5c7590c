//! sendmsg, batchsendmsg and importmsg: is the request well formed, and what follows when it is carried out?
//!
//! Documented: the fields and their codes; MsgKey as `MsgSeq_MsgRandom_MsgTime`; one key for a whole batch; the three
//! shapes of a batch's answer; `SyncOtherMachine` 2 keeps a message out of the sender's roaming storage, `OnlineOnlyFlag` 1
//! and `MsgLifeTime` 0 out of both; repeats within 120 s are dropped.
//! Choices: a repeat is one within the same conversation and direction, and is answered OK with the old key; a batch
//! that is a repeat for some of its recipients answers the new key, and the old one only if it is a repeat for all of
//! them; a recipient named twice counts and is delivered to twice (de-duplication then drops the second).

use std::{borrow::Cow, sync::Arc};

use flate2::Crc;
use serde_json::value::RawValue;

use super::{
    answer::{self, Answered},
    app::App,
    codes::{self, Refusal},
    elements,
    fields::{Field, Fields},
    options::AccountRules,
    store::{Account, Content, Flags, Message, key},
};
use crate::domain::{Command, job::MAX_CALL_RECIPIENTS};

/// The longest `MsgLifeTime`: 7 days.
const MAX_LIFE_TIME: u32 = 604_800;

/// Whom a send goes to.
#[derive(Debug)]
pub(super) enum Recipients<'a> {
    One(Cow<'a, str>),
    Many(Vec<Cow<'a, str>>),
}

impl<'a> Recipients<'a> {
    pub(super) fn as_slice(&self) -> &[Cow<'a, str>] {
        match self {
            Self::One(to) => std::slice::from_ref(to),
            Self::Many(to) => to,
        }
    }
}

/// What the three commands have in common.
#[derive(Debug)]
struct Body<'a> {
    seq: Option<u32>,
    random: u32,
    elements: &'a RawValue,
    custom: Option<&'a RawValue>,
}

/// A sendmsg or batchsendmsg.
#[derive(Debug)]
pub(super) struct Send<'a> {
    from: Option<Cow<'a, str>>,
    pub(super) to: Recipients<'a>,
    common: Body<'a>,
    /// Where it is stored, and whether it counts as unread.
    flags: Flags,
    read_receipt: bool,
    extension: bool,
}

/// The fields of sendmsg.
pub(super) const SEND_FIELDS: &[Field] = &[
    Field::SyncOtherMachine,
    Field::FromAccount,
    Field::ToAccount,
    Field::OnlineOnlyFlag,
    Field::MsgLifeTime,
    Field::MsgSeq,
    Field::MsgRandom,
    Field::MsgBody,
    Field::SendMsgControl,
    Field::CloudCustomData,
    Field::SupportMessageExtension,
    Field::IsNeedReadReceipt,
    Field::OfflinePushInfo,
    // From here on not in batchsendmsg.
    Field::MsgTimeStamp,
    Field::ForbidCallbackControl,
];
/// The fields of batchsendmsg.
pub(super) const BATCH_FIELDS: &[Field] = SEND_FIELDS.split_at(SEND_FIELDS.len() - 2).0;
/// The fields of importmsg.
pub(super) const IMPORT_FIELDS: &[Field] = &[
    Field::SyncFromOldSystem,
    Field::FromAccount,
    Field::ToAccount,
    Field::MsgSeq,
    Field::MsgRandom,
    Field::MsgTimeStamp,
    Field::MsgBody,
    Field::CloudCustomData,
];

impl<'a> Body<'a> {
    fn parse(fields: &Fields<'a>, too_long: Refusal) -> Result<Self, Refusal> {
        let random = fields
            .u32(Field::MsgRandom, codes::MSG_RANDOM)?
            .ok_or(codes::MSG_RANDOM)?;
        let seq = fields.u32(Field::MsgSeq, codes::BODY)?;
        let body = elements::check_body(fields.get(Field::MsgBody))?;
        if body.get().len() > elements::MAX_BODY {
            return Err(too_long);
        }
        let custom = fields.get(Field::CloudCustomData);
        if custom.is_some_and(|custom| !custom.get().starts_with('"')) {
            return Err(codes::BODY);
        }
        Ok(Self {
            seq,
            random,
            elements: body,
            custom,
        })
    }

    fn content(&self, time: u32, read_receipt: bool, extension: bool) -> Arc<Content> {
        let mut crc = Crc::new();
        crc.update(self.elements.get().as_bytes());
        if let Some(custom) = self.custom {
            crc.update(custom.get().as_bytes());
        }
        Arc::new(Content {
            seq: self.seq.unwrap_or_else(rand::random),
            random: self.random,
            time,
            crc: crc.sum(),
            body: self.elements.to_owned(),
            custom: self.custom.map(ToOwned::to_owned),
            read_receipt,
            extension,
        })
    }
}

impl<'a> Send<'a> {
    pub(super) fn parse(fields: &Fields<'a>, command: Command) -> Result<Self, Refusal> {
        let batch = command == Command::BatchSendMsg;
        let to = if batch {
            let to = fields
                .texts(Field::ToAccount, codes::TO_ACCOUNT)?
                .ok_or(codes::TO_ACCOUNT)?;
            if to.is_empty() || to.iter().any(|to| to.is_empty()) {
                return Err(codes::TO_ACCOUNT);
            }
            if to.len() > MAX_CALL_RECIPIENTS {
                return Err(codes::TOO_MANY_RECIPIENTS);
            }
            Recipients::Many(to)
        } else {
            Recipients::One(fields.required_text(Field::ToAccount, codes::TO_ACCOUNT)?)
        };
        let from = fields.text(Field::FromAccount, codes::FROM_ACCOUNT)?;
        let common = Body::parse(fields, if batch { codes::BATCH_TOO_LONG } else { codes::TOO_LONG })?;
        let at_sender = match fields.get(Field::SyncOtherMachine).map(RawValue::get) {
            None | Some("1") => true,
            Some("2") => false,
            Some(_) => return Err(codes::SYNC_OTHER_MACHINE),
        };
        let life_time = fields.u32(Field::MsgLifeTime, codes::LIFE_TIME_TYPE)?;
        if life_time.is_some_and(|life_time| life_time > MAX_LIFE_TIME) {
            return Err(codes::LIFE_TIME_RANGE);
        }
        if !batch {
            fields.u32(Field::MsgTimeStamp, codes::MSG_TIME)?;
            fields.texts(Field::ForbidCallbackControl, codes::BODY)?;
        }
        let control = fields.texts(Field::SendMsgControl, codes::BODY)?.unwrap_or_default();
        elements::check_push(fields.get(Field::OfflinePushInfo))?;
        let online_only = life_time == Some(0) || fields.flag(Field::OnlineOnlyFlag, codes::BODY)?.unwrap_or(false);
        let flags = if online_only {
            Flags::ONLINE_ONLY
        } else {
            Flags::AT_RECIPIENT
                .with(Flags::AT_SENDER.when(at_sender))
                .with(Flags::UNREAD.when(!control.iter().any(|word| word == "NoUnread")))
        };
        Ok(Self {
            from,
            to,
            common,
            flags: flags.with(Flags::BATCH.when(batch)),
            read_receipt: fields.flag(Field::IsNeedReadReceipt, codes::BODY)?.unwrap_or(false),
            extension: fields
                .flag(Field::SupportMessageExtension, codes::BODY)?
                .unwrap_or(false),
        })
    }

    /// Sends it, to the first `at_most` recipients only. `fault` gives the code by which a recipient shall fail.
    pub(super) fn carry_out(&self, call: &Context<'_>, at_most: usize) -> Result<Answered, Refusal> {
        let app = call.app;
        let from = self.from.as_deref().unwrap_or(call.identifier);
        if !app.exists(from, call.rules) {
            return Err(codes::FROM_ACCOUNT);
        }
        let from = app.store.account(from);
        let content = self.common.content(call.time, self.read_receipt, self.extension);
        match &self.to {
            Recipients::One(to) => {
                if let Some(code) = (call.fault)(to) {
                    return Err(Refusal { code, info: "injected" });
                }
                if !app.exists(to, call.rules) {
                    return Err(codes::NO_RECIPIENT);
                }
                let time = self.deliver(call, &from, to, &content).err().unwrap_or(content.time);
                Ok(answer::sent(&key(content.seq, content.random, time), Some(time)))
            }
            Recipients::Many(to) => {
                let (mut failed, mut repeated, mut delivered) = (Vec::new(), None, false);
                for to in to.iter().take(at_most) {
                    if let Some(code) = (call.fault)(to) {
                        failed.push((to.as_ref(), code));
                    } else if !app.exists(to, call.rules) {
                        failed.push((to.as_ref(), codes::NO_SUCH_ACCOUNT.code));
                    } else {
                        match self.deliver(call, &from, to, &content) {
                            Ok(()) => delivered = true,
                            Err(time) => repeated = Some(time),
                        }
                    }
                }
                let time = match repeated {
                    Some(time) if !delivered => time,
                    Some(_) => content.time,
                    None if delivered => content.time,
                    // Nobody was reached: the code of those who don't exist, else the first recipient's own.
                    None if failed.iter().all(|(_, code)| *code == codes::NO_SUCH_ACCOUNT.code) => {
                        return Err(codes::NO_RECIPIENT);
                    }
                    None => {
                        return Err(Refusal {
                            code: failed[0].1,
                            info: "every recipient failed",
                        });
                    }
                };
                Ok(answer::batch_sent(&key(content.seq, content.random, time), &failed))
            }
        }
    }

    fn deliver(&self, call: &Context<'_>, from: &Arc<Account>, to: &str, content: &Arc<Content>) -> Result<(), u32> {
        let to = call.app.store.account(to);
        let message = Message {
            content: Arc::clone(content),
            at: call.at,
            flags: self.flags,
        };
        call.app.store.deliver(from, &to, message, call.dedup)
    }
}

/// An importmsg.
#[derive(Debug)]
pub(super) struct Import<'a> {
    from: Cow<'a, str>,
    pub(super) to: Cow<'a, str>,
    common: Body<'a>,
    time: u32,
    unread: bool,
}

impl<'a> Import<'a> {
    /// `legacy`: `SyncFromOldSystem` is 1 or 2, as on older services, instead of 5 or 2.
    pub(super) fn parse(fields: &Fields<'a>, legacy: bool) -> Result<Self, Refusal> {
        let unread = match (fields.get(Field::SyncFromOldSystem).map(RawValue::get), legacy) {
            (Some("5"), false) | (Some("1"), true) => true,
            (Some("2"), _) => false,
            _ => return Err(codes::SYNC_FROM_OLD_SYSTEM),
        };
        Ok(Self {
            from: fields.required_text(Field::FromAccount, codes::FROM_ACCOUNT)?,
            to: fields.required_text(Field::ToAccount, codes::TO_ACCOUNT)?,
            common: Body::parse(fields, codes::TOO_LONG)?,
            time: fields
                .u32(Field::MsgTimeStamp, codes::MSG_TIME)?
                .ok_or(codes::MSG_TIME)?,
            unread,
        })
    }

    pub(super) fn carry_out(&self, call: &Context<'_>) -> Result<Answered, Refusal> {
        let app = call.app;
        if let Some(code) = (call.fault)(&self.to) {
            return Err(Refusal { code, info: "injected" });
        }
        if !app.exists(&self.from, call.rules) {
            return Err(codes::FROM_ACCOUNT);
        }
        if !app.exists(&self.to, call.rules) {
            return Err(codes::NO_RECIPIENT);
        }
        let flags = Flags::IMPORTED.with(Flags::AT_SENDER).with(Flags::AT_RECIPIENT);
        let message = Message {
            content: self.common.content(self.time, false, false),
            at: call.at,
            flags: flags.with(Flags::UNREAD.when(self.unread)),
        };
        app.store
            .import(&app.store.account(&self.from), &app.store.account(&self.to), message);
        Ok(answer::ok())
    }
}

/// What a command is carried out with.
pub(super) struct Context<'a> {
    pub(super) app: &'a App,
    /// The caller, who is the sender where none is given.
    pub(super) identifier: &'a str,
    /// Now, in microseconds of the simulator's clock.
    pub(super) at: u64,
    /// Now, in Unix seconds.
    pub(super) time: u32,
    pub(super) rules: &'a AccountRules,
    /// The window of de-duplication in microseconds.
    pub(super) dedup: u64,
    /// How long a message is invisible in the history, in microseconds.
    pub(super) roam_lag: u64,
    /// The oldest `MsgTime` in roaming storage, Unix seconds.
    pub(super) oldest: u32,
    /// The code by which a recipient shall fail, if a fault says so.
    pub(super) fault: &'a dyn Fn(&str) -> Option<i32>,
}
