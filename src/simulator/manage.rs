//! `admin_msgwithdraw`, `admin_set_msg_read` and `get_c2c_unread_msg_num`: what follows when they are carried out?
//!
//! Documented: the fields and codes; 20022 and 20023; no age limit but the roaming retention; at most 10 peers; a peer
//! that doesn't exist is in the `ErrorList` with 70107 while `ErrorCode` is 0; `MsgReadTime` is a string in one place and a
//! number in another, so both are taken. Choices: an online-only message can't be revoked (20022), since it is stored
//! nowhere; more than 10 peers are 90018; a user that doesn't exist is 90048 for the unread count.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    answer::{self, Answered, push, quoted},
    codes::{self, Refusal},
    fields::{Field, Fields, string},
    send::Context,
    store::NotRevoked,
};

/// The most peers of one unread count.
const MAX_PEERS: usize = 10;
/// The longest MsgKey, in characters.
const MAX_KEY: usize = 50;

/// The fields of `admin_msgwithdraw`.
pub(super) const REVOKE_FIELDS: &[Field] = &[Field::FromAccount, Field::ToAccount, Field::MsgKey];
/// The fields of `admin_set_msg_read`.
pub(super) const READ_FIELDS: &[Field] = &[Field::ReportAccount, Field::PeerAccount, Field::MsgReadTime];
/// The fields of `get_c2c_unread_msg_num`.
pub(super) const UNREAD_FIELDS: &[Field] = &[Field::ToAccount, Field::PeerAccount];

/// An `admin_msgwithdraw`.
#[derive(Debug)]
pub(super) struct Revoke<'a> {
    from: Cow<'a, str>,
    pub(super) to: Cow<'a, str>,
    key: Cow<'a, str>,
}

impl<'a> Revoke<'a> {
    pub(super) fn parse(fields: &Fields<'a>) -> Result<Self, Refusal> {
        let from = fields.required_text(Field::FromAccount, codes::FROM_ACCOUNT)?;
        let to = fields.required_text(Field::ToAccount, codes::TO_ACCOUNT)?;
        let key = fields.required_text(Field::MsgKey, codes::MSG_KEY)?;
        let numbers = key.split('_').filter(|part| part.parse::<u32>().is_ok()).count();
        if numbers != 3 || key.split('_').count() != 3 || key.len() > MAX_KEY {
            return Err(codes::MSG_KEY);
        }
        Ok(Self { from, to, key })
    }

    pub(super) fn carry_out(&self, context: &Context<'_>) -> Result<Answered, Refusal> {
        if !context.app.exists(&self.from, context.rules) {
            return Err(codes::FROM_ACCOUNT);
        }
        let store = &context.app.store;
        let (from, to) = (store.account(&self.from), store.account(&self.to));
        store
            .revoke(&from, &to, &self.key, context.oldest)
            .map_err(|reason| match reason {
                NotRevoked::NotFound => codes::REVOKE_NOT_FOUND,
                NotRevoked::Already => codes::ALREADY_REVOKED,
            })?;
        Ok(answer::ok())
    }
}

/// An `admin_set_msg_read`.
#[derive(Debug)]
pub(super) struct MarkRead<'a> {
    pub(super) reader: Cow<'a, str>,
    peer: Cow<'a, str>,
    until: Option<u32>,
}

impl<'a> MarkRead<'a> {
    pub(super) fn parse(fields: &Fields<'a>) -> Result<Self, Refusal> {
        let number = |raw: &RawValue| {
            string(raw)
                .as_deref()
                .unwrap_or(raw.get())
                .parse()
                .map_err(|_| codes::BODY)
        };
        Ok(Self {
            reader: fields.required_text(Field::ReportAccount, codes::FROM_ACCOUNT)?,
            peer: fields.required_text(Field::PeerAccount, codes::TO_ACCOUNT)?,
            until: fields.get(Field::MsgReadTime).map(number).transpose()?,
        })
    }

    pub(super) fn carry_out(&self, context: &Context<'_>) -> Result<Answered, Refusal> {
        if !context.app.exists(&self.reader, context.rules) {
            return Err(codes::FROM_ACCOUNT);
        }
        if !context.app.exists(&self.peer, context.rules) {
            return Err(codes::TO_ACCOUNT);
        }
        let store = &context.app.store;
        let (reader, peer) = (store.account(&self.reader), store.account(&self.peer));
        store.mark_read(&reader, &peer, self.until.unwrap_or(context.time));
        Ok(answer::ok())
    }
}

/// A `get_c2c_unread_msg_num`.
#[derive(Debug)]
pub(super) struct Unread<'a> {
    pub(super) user: Cow<'a, str>,
    peers: Option<Vec<Cow<'a, str>>>,
}

impl<'a> Unread<'a> {
    pub(super) fn parse(fields: &Fields<'a>) -> Result<Self, Refusal> {
        let user = fields.required_text(Field::ToAccount, codes::TO_ACCOUNT)?;
        let peers = fields.texts(Field::PeerAccount, codes::BODY)?;
        if peers.as_ref().is_some_and(|peers| peers.len() > MAX_PEERS) {
            return Err(codes::TOO_MANY_ACCOUNTS);
        }
        Ok(Self { user, peers })
    }

    pub(super) fn carry_out(&self, context: &Context<'_>) -> Result<Answered, Refusal> {
        let app = context.app;
        if !app.exists(&self.user, context.rules) {
            return Err(codes::UNKNOWN_ACCOUNT);
        }
        let user = app.store.account(&self.user);
        let Some(peers) = &self.peers else {
            return Ok(answer::ok_with(&format!(r#""AllC2CUnreadMsgNum":{}"#, user.unread())));
        };
        let (mut counts, mut errors) = (String::new(), String::new());
        let comma = |list: &str| if list.is_empty() { "" } else { "," };
        for peer in peers {
            let name = quoted(peer);
            if app.exists(peer, context.rules) {
                let count = app.store.unread_from(&user, &app.store.account(peer));
                let comma = comma(&counts);
                push(
                    &mut counts,
                    format_args!(r#"{comma}{{"Peer_Account":{name},"C2CUnreadMsgNum":{count}}}"#),
                );
            } else {
                let (comma, code) = (comma(&errors), codes::NO_SUCH_ACCOUNT.code);
                push(
                    &mut errors,
                    format_args!(r#"{comma}{{"Peer_Account":{name},"ErrorCode":{code}}}"#),
                );
            }
        }
        let errors = if errors.is_empty() {
            errors
        } else {
            format!(r#","ErrorList":[{errors}]"#)
        };
        Ok(answer::ok_with(&format!(r#""C2CUnreadMsgNumList":[{counts}]{errors}"#)))
    }
}
