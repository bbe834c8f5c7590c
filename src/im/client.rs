//! What does the service answer to an operation? One method per operation of the IM API, typed in and out.
//!
//! A success is HTTP 2xx, code 0, status OK or `SomeError` and, for sends, a MsgKey; everything else is an [`ImError`].

use std::{
    fmt,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use futures::Stream;
use secrecy::SecretString;
use serde::Serialize;

use super::{
    error::{ImError, ImErrorKind},
    error_code, history,
    options::{self, ClientOptions, ImApp, ImSetupError},
    reply,
    signer::{AfterRefusal, Signed, Signer},
    transport,
    wire::{
        self, Malformed,
        batch_send::{self, BatchReply},
        history::{HistoryCursor, HistoryMessage, HistoryPage, HistoryQuery},
        mark_read, revoke,
        send::{self, SendReply},
        unread::{self, MAX_PEERS, UnreadReply},
    },
};
use crate::domain::{AccountId, Command, ErrorClass, MsgKey};

/// The client of one app. Cheap to clone; clones share connections and signature.
///
/// # Cancel safety
/// A call whose future is dropped is never written afterwards; if it had been written, nobody learns its outcome.
#[derive(Clone)]
pub struct ImClient {
    inner: Arc<Inner>,
}

struct Inner {
    app: ImApp,
    http: reqwest::Client,
    signer: Signer,
    repeat_when_signed_anew: bool,
}

impl fmt::Debug for ImClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImClient")
            .field("app", &self.inner.app)
            .finish_non_exhaustive()
    }
}

fn unix_now() -> u64 {
    // A clock before 1970 gives signatures that the service refuses, which is the right outcome.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

impl ImClient {
    /// Checks the app and the options and signs the first UserSig. Makes no call.
    pub fn new(app: ImApp, options: ClientOptions) -> Result<Self, ImSetupError> {
        options::check(&app, &options)?;
        let signer = Signer::new(&app, options.usersig_lifetime, unix_now());
        let repeat_when_signed_anew = options.repeat_when_signed_anew;
        let http = transport::http_client(&app, options)?;
        Ok(Self {
            inner: Arc::new(Inner {
                app,
                http,
                signer,
                repeat_when_signed_anew,
            }),
        })
    }

    /// The app as it was given to [`ImClient::new`], its first secret included.
    pub fn app(&self) -> &ImApp {
        &self.inner.app
    }

    /// Changes the secret key: calls from now on are signed with it. An empty one is refused.
    pub fn set_secret(&self, secret: SecretString) -> Result<(), ImSetupError> {
        options::check_secret(&secret)?;
        self.inner.signer.set_secret(secret, unix_now());
        Ok(())
    }

    /// sendmsg with a body of [`super::encode_send`]. After the deadline nothing is written any more.
    pub async fn send(&self, body: Bytes, deadline: Option<Instant>) -> Result<SendReply, ImError> {
        self.call(Command::SendMsg, body, deadline, send::reply).await
    }

    /// batchsendmsg with a body of [`super::encode_batch`].
    pub async fn batch_send(&self, body: Bytes, deadline: Option<Instant>) -> Result<BatchReply, ImError> {
        self.call(Command::BatchSendMsg, body, deadline, batch_send::reply)
            .await
    }

    /// importmsg with a body of [`super::encode_import`]. Importing the same message again is a success.
    pub async fn import(&self, body: Bytes, deadline: Option<Instant>) -> Result<(), ImError> {
        self.call(Command::ImportMsg, body, deadline, |_| Ok(())).await
    }

    /// `admin_msgwithdraw`: revokes one message at one recipient. `from` is the sender that the message really had.
    /// One that was revoked before is an error of class [`ErrorClass::AlreadyDone`].
    pub async fn revoke(
        &self,
        from: &AccountId,
        to: &AccountId,
        key: &MsgKey,
        deadline: Option<Instant>,
    ) -> Result<(), ImError> {
        let request = revoke::Request { from, to, key };
        self.ask(Command::MsgWithdraw, &request, deadline, |_| Ok(())).await
    }

    /// `admin_set_msg_read`: `user` has read everything from `peer` up to now.
    pub async fn mark_read(&self, user: &AccountId, peer: &AccountId) -> Result<(), ImError> {
        let request = mark_read::Request { user, peer };
        self.ask(Command::SetMsgRead, &request, None, |_| Ok(())).await
    }

    /// `get_c2c_unread_msg_num`, one call: what `user` has not read from each of at most [`MAX_PEERS`] peers, or, with
    /// no peers, in all. Lists of any length go by [`unread_calls`], a call for each part, or [`ImClient::unread_all`].
    pub async fn unread(&self, user: &AccountId, peers: &[AccountId]) -> Result<UnreadReply, ImError> {
        const COMMAND: Command = Command::GetUnreadNum;
        if peers.len() > MAX_PEERS {
            let text = format!("{} peers in one call: at most {MAX_PEERS}", peers.len());
            return Err(ImError::without_code(COMMAND, ImErrorKind::Request, false, text));
        }
        self.ask(COMMAND, &unread::Request { user, peers }, None, unread::reply)
            .await
    }

    /// The same for any number of peers, by one call after the other.
    pub async fn unread_all(&self, user: &AccountId, peers: &[AccountId]) -> Result<UnreadReply, ImError> {
        let mut all = UnreadReply::default();
        for part in unread_calls(peers) {
            all.extend(self.unread(user, part).await?);
        }
        Ok(all)
    }

    /// `admin_getroammsg`, one call: a page of the history, the newest without a cursor. The loop over pages, with its
    /// guards, is [`super::HistoryWalk`].
    pub async fn history_page(
        &self,
        query: &HistoryQuery,
        cursor: Option<&HistoryCursor>,
    ) -> Result<HistoryPage, ImError> {
        let request = wire::history::Request::new(query, cursor);
        let reply = |bytes: &[u8]| wire::history::reply(bytes, cursor);
        self.ask(Command::GetRoamMsg, &request, None, reply).await
    }

    /// Every message of a conversation ("pull"): follows the pages, gives each message once, can't loop for ever. An
    /// error is the last item; see [`super::HistoryWalk`] for those of an incomplete history.
    pub fn history(&self, query: HistoryQuery) -> impl Stream<Item = Result<HistoryMessage, ImError>> + Send + use<> {
        history::stream(self.clone(), query)
    }

    async fn ask<T>(
        &self,
        command: Command,
        request: &impl Serialize,
        deadline: Option<Instant>,
        read: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, ImError> {
        self.call(command, wire::to_bytes(request), deadline, read).await
    }

    /// One call: one HTTP request, or two if the first one's UserSig was refused, which is a definite refusal.
    async fn call<T>(
        &self,
        command: Command,
        body: Bytes,
        deadline: Option<Instant>,
        read: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, ImError> {
        let Inner {
            signer,
            repeat_when_signed_anew,
            ..
        } = &*self.inner;
        let signed = signer.current(unix_now());
        let mut error = match self.request(command, &signed, body.clone(), deadline, &read).await {
            Err(error) if error.code.is_some_and(error_code::names_signature) => error,
            other => return other,
        };
        if signer.refused(&signed, unix_now()) == AfterRefusal::Hopeless {
            return Err(error);
        }
        if !repeat_when_signed_anew {
            error.class = ErrorClass::Transient;
            return Err(error);
        }
        tracing::debug!(im.command = %command, im.error_code = error.code.map(|code| code.0), "UserSig refused: repeating with a new one");
        let signed = signer.current(unix_now());
        self.request(command, &signed, body, deadline, &read).await
    }

    async fn request<T>(
        &self,
        command: Command,
        signed: &Signed,
        body: Bytes,
        deadline: Option<Instant>,
        read: impl Fn(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, ImError> {
        let random: u32 = rand::random();
        tracing::debug!(im.command = %command, im.random = random, "calling the IM API");
        let (bytes, status) = transport::exchange(&self.inner.http, command, signed, random, body, deadline).await?;
        let outcome = reply::interpret(command, &bytes, |text| signed.redact(text), read);
        let refused = outcome.as_ref().err().and_then(|error| error.code);
        if outcome.is_ok() || refused.is_some_and(|code| !error_code::names_signature(code)) {
            self.inner.signer.accepted(signed);
        }
        outcome.map_err(|error| error.at(random, Some(status)))
    }
}

/// The parts of a list of peers that one unread call each can ask for: at most [`MAX_PEERS`], and one empty part for
/// an empty list, which asks for the total.
pub fn unread_calls(peers: &[AccountId]) -> impl Iterator<Item = &[AccountId]> {
    let total: Option<&[AccountId]> = peers.is_empty().then_some(&[]);
    total.into_iter().chain(peers.chunks(MAX_PEERS))
}
