//! What is an app of the service? Its credentials, its limits, its accounts and conversations, and its ledgers.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, RwLock};
use secrecy::SecretString;

use super::{
    codes::{self, Refusal},
    ledger::Ledger,
    limits::Meter,
    options::{AccountRules, AppOptions, Limits},
    request::Params,
    store::Store,
};
use crate::{
    domain::{Command, SdkAppId},
    im::user_sig,
};

/// How many verified `UserSigs` are remembered before all are forgotten: more than any client renews in a day.
const MAX_SIGS: usize = 10_000;

/// An app.
pub(super) struct App {
    pub(super) id: SdkAppId,
    credentials: RwLock<Credentials>,
    /// Verified `UserSigs`, so that inflating and hashing is done once for each and not for each call.
    sigs: RwLock<HashMap<Box<str>, Verified>>,
    pub(super) limits: RwLock<Limits>,
    /// Calls of every command, kept while there is an app-wide limit.
    whole: Mutex<Meter>,
    pub(super) ledgers: [Mutex<Ledger>; 7],
    pub(super) store: Store,
}

/// Who may call.
struct Credentials {
    admins: Vec<String>,
    secret: SecretString,
}

/// What a UserSig that verified says.
#[derive(Clone)]
struct Verified {
    identifier: Arc<str>,
    /// The last Unix second of its validity.
    until: u64,
}

impl App {
    pub(super) fn new(options: AppOptions, limits: Limits) -> Self {
        Self {
            id: options.sdk_app_id,
            credentials: RwLock::new(Credentials {
                admins: options.admins,
                secret: options.secret,
            }),
            sigs: RwLock::default(),
            limits: RwLock::new(limits),
            whole: Mutex::default(),
            ledgers: Default::default(),
            store: Store::default(),
        }
    }

    /// Replaces the credentials, so that `UserSigs` of the old key fail from now on.
    pub(super) fn set_credentials(&self, admins: Vec<String>, secret: SecretString) {
        *self.credentials.write() = Credentials { admins, secret };
        self.sigs.write().clear();
    }

    /// Whether an account exists: administrators always, others by the rules.
    pub(super) fn exists(&self, account: &str, rules: &AccountRules) -> bool {
        rules.exists(account) || self.credentials.read().admins.iter().any(|admin| admin == account)
    }

    /// Checks identifier and UserSig at the Unix second `now`. The order is: form and hash (70002, 70003, 70009),
    /// expiry (70001), identifier (70013), app (70014), administrator (60010).
    pub(super) fn authenticate(&self, params: &Params<'_>, now: u64) -> Result<(), Refusal> {
        let known = self.sigs.read().get(params.user_sig.as_ref()).cloned();
        if let Some(known) = known {
            if now > known.until {
                return Err(sig_refusal(user_sig::SigError::Expired));
            }
            if *known.identifier == *params.identifier {
                return Ok(());
            }
            return Err(codes::SIG_IDENTIFIER);
        }
        let credentials = self.credentials.read();
        let claims = user_sig::verify(&params.user_sig, &credentials.secret, now).map_err(sig_refusal)?;
        if claims.identifier != params.identifier {
            return Err(codes::SIG_IDENTIFIER);
        }
        if claims.sdk_app_id != self.id {
            return Err(codes::SIG_APP);
        }
        if !credentials.admins.contains(&claims.identifier) {
            return Err(codes::NOT_ADMIN);
        }
        let mut sigs = self.sigs.write();
        if sigs.len() >= MAX_SIGS {
            sigs.clear();
        }
        let until = claims.time.saturating_add(claims.expire);
        sigs.insert(
            params.user_sig.as_ref().into(),
            Verified {
                identifier: claims.identifier.into(),
                until,
            },
        );
        Ok(())
    }

    /// Counts a call that arrives now, by the clock that is read under the ledger's lock so that stamps never go back,
    /// and says whether it is within the limits. Returns its stamp too.
    pub(super) fn admit(&self, command: Command, recipients: u32, now: impl Fn() -> u64) -> (u64, Result<(), Refusal>) {
        let limits = *self.limits.read();
        let calls = limits.calls_per_second[command.index()];
        let minute = if command == Command::BatchSendMsg {
            limits.recipients_per_minute
        } else {
            0
        };
        if limits.app_calls_per_second == 0 {
            let mut ledger = self.ledgers[command.index()].lock();
            let at = now();
            return (at, ledger.admit(at, recipients, calls, minute));
        }
        let mut whole = self.whole.lock();
        let mut ledger = self.ledgers[command.index()].lock();
        let at = now();
        whole.advance(at);
        if whole.calls_in_second() >= u64::from(limits.app_calls_per_second) {
            ledger.refuse(at, recipients);
            return (at, Err(codes::APP_THROTTLED));
        }
        let verdict = ledger.admit(at, recipients, calls, minute);
        if verdict.is_ok() {
            whole.push(at, recipients);
        }
        (at, verdict)
    }

    /// Forgets messages, calls and counts; credentials and limits stay.
    pub(super) fn reset(&self) {
        *self.whole.lock() = Meter::default();
        for ledger in &self.ledgers {
            *ledger.lock() = Ledger::default();
        }
        self.store.clear();
    }
}

const fn sig_refusal(error: user_sig::SigError) -> Refusal {
    let info = match error {
        user_sig::SigError::Empty => "UserSig is empty",
        user_sig::SigError::Base64 | user_sig::SigError::Zlib | user_sig::SigError::Json => {
            "UserSig is illegal or cut off"
        }
        user_sig::SigError::Signature => "UserSig check failed",
        user_sig::SigError::Expired => "UserSig expired",
    };
    Refusal {
        code: error.code(),
        info,
    }
}
