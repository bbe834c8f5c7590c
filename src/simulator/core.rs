//! The way of a call: who calls, what, is it within the limits, which fault does it meet, what comes of it.
//!
//! Order: the URL and the UserSig; the body's form; the limits, which count the call whatever becomes of it; a refusal
//! for the body's form; faults; carrying it out. All of it happens at once and without waiting as soon as the body is
//! there, so that a call whose body arrived whole is carried out even if its client is gone. It knows no HTTP.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;

use super::{
    answer::{self, Answered},
    app::App,
    clock::Clock,
    codes::{self, Refusal},
    faults::{self, Carry, Effect, Ending, Faults},
    fields::{Field, Fields},
    history::{self, History},
    ledger::{self, Arrival},
    manage::{self, MarkRead, Revoke, Unread},
    options::{AccountRules, AppOptions, Limits, SimulatorOptions},
    request::{self, Params},
    send::{self, Context, Import, Send},
    store::Account,
};
use crate::domain::{Command, SdkAppId};

/// How many names of unknown fields are counted.
const MAX_UNKNOWN: usize = 1_000;

/// A parsed request.
enum Operation<'a> {
    Send(Send<'a>),
    Import(Import<'a>),
    History(History<'a>),
    Revoke(Revoke<'a>),
    MarkRead(MarkRead<'a>),
    Unread(Unread<'a>),
}

impl<'a> Operation<'a> {
    fn parse(command: Command, fields: &Fields<'a>, legacy_import: bool) -> Result<Self, Refusal> {
        Ok(match command {
            Command::SendMsg | Command::BatchSendMsg => Self::Send(Send::parse(fields, command)?),
            Command::ImportMsg => Self::Import(Import::parse(fields, legacy_import)?),
            Command::GetRoamMsg => Self::History(History::parse(fields)?),
            Command::MsgWithdraw => Self::Revoke(Revoke::parse(fields)?),
            Command::SetMsgRead => Self::MarkRead(MarkRead::parse(fields)?),
            Command::GetUnreadNum => Self::Unread(Unread::parse(fields)?),
        })
    }

    /// The recipients, or the account that it is about: what a fault's `to` looks at.
    fn accounts(&self) -> &[Cow<'a, str>] {
        match self {
            Self::Send(send) => send.to.as_slice(),
            Self::Import(Import { to, .. })
            | Self::History(History { peer: to, .. })
            | Self::Revoke(Revoke { to, .. })
            | Self::MarkRead(MarkRead { reader: to, .. })
            | Self::Unread(Unread { user: to, .. }) => std::slice::from_ref(to),
        }
    }

    /// To how many a message goes out.
    fn recipients(&self) -> u32 {
        match self {
            Self::Send(send) => send.to.as_slice().len() as u32,
            Self::Import(_) => 1,
            _ => 0,
        }
    }

    fn carry_out(&self, context: &Context<'_>, at_most: usize) -> Result<Answered, Refusal> {
        match self {
            Self::Send(send) => send.carry_out(context, at_most),
            Self::Import(import) => import.carry_out(context),
            Self::History(history) => history.carry_out(context),
            Self::Revoke(revoke) => revoke.carry_out(context),
            Self::MarkRead(read) => read.carry_out(context),
            Self::Unread(unread) => unread.carry_out(context),
        }
    }
}

/// The fields that a command has.
const fn fields_of(command: Command) -> &'static [Field] {
    match command {
        Command::SendMsg => send::SEND_FIELDS,
        Command::BatchSendMsg => send::BATCH_FIELDS,
        Command::ImportMsg => send::IMPORT_FIELDS,
        Command::GetRoamMsg => history::FIELDS,
        Command::MsgWithdraw => manage::REVOKE_FIELDS,
        Command::SetMsgRead => manage::READ_FIELDS,
        Command::GetUnreadNum => manage::UNREAD_FIELDS,
    }
}

/// What the client gets.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) text: String,
    pub(super) ending: Ending,
    /// How long it waits before it gets that.
    pub(super) late: Duration,
}

impl Reply {
    fn refusal(refusal: Refusal) -> Self {
        Self {
            text: answer::fail(refusal),
            ending: Ending::Answer,
            late: Duration::ZERO,
        }
    }
}

/// What follows when a request is there.
pub(super) enum Step {
    /// It was carried out, or not: this is the reply.
    Reply(Reply),
    /// It is carried out so much later.
    Later(Duration, Deferred),
}

/// A call that is carried out later.
pub(super) struct Deferred {
    call: Admitted,
    body: Bytes,
}

/// A call that is within the limits.
struct Admitted {
    app: Arc<App>,
    command: Command,
    identifier: String,
    random: u32,
    recipients: u32,
    at: u64,
    effect: Effect,
    fault: Option<Box<str>>,
}

/// What can be changed while it runs, in microseconds.
#[derive(Debug)]
pub(super) struct Settings {
    dedup: AtomicU64,
    roam_lag: AtomicU64,
    latency: [AtomicU64; 7],
    pub(super) rules: ArcSwap<AccountRules>,
}

impl Settings {
    pub(super) fn set_dedup(&self, micros: u64) {
        self.dedup.store(micros, Ordering::Relaxed);
    }

    pub(super) fn set_roam_lag(&self, micros: u64) {
        self.roam_lag.store(micros, Ordering::Relaxed);
    }

    pub(super) fn set_latency(&self, command: Command, micros: u64) {
        self.latency[command.index()].store(micros, Ordering::Relaxed);
    }
}

/// The service.
pub(super) struct Core {
    pub(super) clock: Clock,
    pub(super) apps: ArcSwap<HashMap<u64, Arc<App>>>,
    /// The limits of apps that are added later.
    default_limits: Mutex<Limits>,
    pub(super) settings: Settings,
    pub(super) faults: Faults,
    /// Calls that were refused before they were known to be an app's.
    pub(super) refused: Mutex<BTreeMap<i32, u64>>,
    /// Fields that the documentation doesn't have, by `command.Field`.
    pub(super) unknown_fields: Mutex<BTreeMap<String, u64>>,
    roam_retention: Duration,
    legacy_import: bool,
    keep_calls: Option<usize>,
}

/// A duration in microseconds.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Core {
    pub(super) fn new(options: SimulatorOptions) -> Self {
        let latency = micros(options.latency);
        let core = Self {
            clock: Clock::new(),
            apps: ArcSwap::default(),
            default_limits: Mutex::new(options.limits),
            settings: Settings {
                dedup: AtomicU64::new(micros(options.dedup)),
                roam_lag: AtomicU64::new(micros(options.roam_lag)),
                latency: std::array::from_fn(|_| AtomicU64::new(latency)),
                rules: ArcSwap::from_pointee(options.accounts),
            },
            faults: Faults::new(options.seed),
            refused: Mutex::default(),
            unknown_fields: Mutex::default(),
            roam_retention: options.roam_retention,
            legacy_import: options.legacy_import,
            keep_calls: options.keep_calls,
        };
        for app in options.apps {
            core.add_app(app);
        }
        for rule in options.faults {
            core.faults.add(rule, 0);
        }
        core
    }

    /// Adds an app, or replaces the credentials of one that is there.
    pub(super) fn add_app(&self, options: AppOptions) {
        let limits = self.default_limits.lock();
        let mut apps = HashMap::clone(&self.apps.load());
        if let Some(app) = apps.get(&options.sdk_app_id.0) {
            app.set_credentials(options.admins, options.secret);
        } else {
            apps.insert(options.sdk_app_id.0, Arc::new(App::new(options, *limits)));
            self.apps.store(Arc::new(apps));
        }
    }

    /// Sets the limits of one app, or of all, those that are added later too.
    pub(super) fn set_limits(&self, app: Option<SdkAppId>, limits: Limits) {
        let mut default = self.default_limits.lock();
        for (id, found) in self.apps.load().iter() {
            if app.is_none_or(|app| app.0 == *id) {
                *found.limits.write() = limits;
            }
        }
        if app.is_none() {
            *default = limits;
        }
    }

    /// The limits of an app, or those of apps that are added later.
    pub(super) fn limits(&self, app: Option<SdkAppId>) -> Option<Limits> {
        app.map_or_else(
            || Some(*self.default_limits.lock()),
            |app| self.apps.load().get(&app.0).map(|app| *app.limits.read()),
        )
    }

    /// Deletes a conversation on one side.
    pub(super) fn clear_side(&self, app: SdkAppId, owner: &str, peer: &str) {
        if let Some(app) = self.apps.load().get(&app.0) {
            app.store
                .clear_side(&app.store.account(owner), &app.store.account(peer));
        }
    }

    /// The last `limit` calls of a command in each app, in order of their arrival.
    pub(super) fn arrivals(&self, command: Command, limit: usize) -> Vec<Arrival> {
        let apps = self.apps.load();
        let of = |app: &Arc<App>| app.ledgers[command.index()].lock().arrivals(app.id.0, command, limit);
        let mut arrivals: Vec<_> = apps.values().flat_map(of).collect();
        arrivals.sort_by_key(|arrival| arrival.at);
        arrivals
    }

    /// A request, as soon as its body is there.
    pub(super) fn call(&self, post: bool, path: &str, query: &str, body: &Bytes) -> Step {
        let (app, command, params) = match self.caller(post, path, query) {
            Ok(caller) => caller,
            Err(refusal) => {
                *self.refused.lock().entry(refusal.code).or_default() += 1;
                return Step::Reply(Reply::refusal(refusal));
            }
        };
        let operation = self.parse(command, body);
        let recipients = operation.as_ref().map_or(0, Operation::recipients);
        let (at, admitted) = app.admit(command, recipients, || self.clock.now());
        let accounts = operation.as_ref().map_or(&[][..], Operation::accounts);
        let call = faults::Call {
            sdk_app_id: app.id.0,
            command,
            recipients: accounts,
            now: at,
        };
        let account = accounts.first().map(|account| app.store.account(account));
        let met = match (&admitted, &operation) {
            (Ok(()), Ok(_)) => self.faults.of_call(&call),
            _ => None,
        };
        let (fault, effect) = met.map_or((None, Effect::NONE), |(fault, effect)| {
            (Some(fault.to_string().into_boxed_str()), effect)
        });
        let mut call = Admitted {
            app,
            command,
            identifier: params.identifier.into_owned(),
            random: params.random,
            recipients,
            at,
            effect,
            fault,
        };
        if !effect.accept_late.is_zero() {
            call.effect.accept_late = Duration::ZERO;
            return Step::Later(
                effect.accept_late,
                Deferred {
                    call,
                    body: body.clone(),
                },
            );
        }
        Step::Reply(self.finish(call, admitted.and(operation).as_ref(), account))
    }

    /// Carries out a call whose time has come.
    pub(super) fn resume(&self, deferred: Deferred) -> Reply {
        let Deferred { call, body } = deferred;
        let operation = self.parse(call.command, &body);
        let accounts = operation.as_ref().map_or(&[][..], Operation::accounts);
        let account = accounts.first().map(|account| call.app.store.account(account));
        self.finish(call, operation.as_ref(), account)
    }

    /// Who calls which command.
    fn caller<'a>(&self, post: bool, path: &str, query: &'a str) -> Result<(Arc<App>, Command, Params<'a>), Refusal> {
        let command = request::command(path)?;
        if !post {
            return Err(codes::HTTP);
        }
        let params = Params::parse(query)?;
        let app = self
            .apps
            .load()
            .get(&params.sdk_app_id)
            .cloned()
            .ok_or(codes::NO_SUCH_APP)?;
        app.authenticate(&params, u64::from(self.clock.unix_seconds(self.clock.now())))?;
        Ok((app, command, params))
    }

    fn parse<'a>(&self, command: Command, body: &'a [u8]) -> Result<Operation<'a>, Refusal> {
        let fields = Fields::parse(body)?;
        let known = fields_of(command);
        let strange = fields
            .unknown
            .iter()
            .map(String::as_str)
            .chain(fields.besides(known).map(|name| -> &str { name }));
        for name in strange {
            let mut counts = self.unknown_fields.lock();
            if counts.len() < MAX_UNKNOWN {
                *counts.entry(format!("{command}.{name}")).or_default() += 1;
            }
        }
        Operation::parse(command, &fields, self.legacy_import)
    }

    fn finish(
        &self,
        call: Admitted,
        operation: Result<&Operation<'_>, &Refusal>,
        account: Option<Arc<Account>>,
    ) -> Reply {
        let Admitted {
            app,
            command,
            identifier,
            random,
            recipients,
            at,
            effect,
            fault,
        } = call;
        let now = self.clock.now();
        let result = match operation {
            Err(refusal) => Some(Err(*refusal)),
            Ok(operation) => match effect.carry {
                Carry::Nothing => None,
                Carry::Everything => Some(self.carry_out(&app, command, operation, &identifier, now, usize::MAX)),
                Carry::First(count) => Some(self.carry_out(&app, command, operation, &identifier, now, count)),
            },
        };
        let carried_out = matches!(result, Some(Ok(_)));
        let (code, text) = match (result, effect.ending) {
            (_, Ending::Code(code)) => (code, answer::fail(Refusal { code, info: "injected" })),
            (Some(Ok(_)), Ending::NoMsgKey) => (0, answer::ok().0),
            (Some(Ok(Answered(text))), _) => (0, text),
            (Some(Err(refusal)), _) => (refusal.code, answer::fail(refusal)),
            (None, _) => (ledger::NO_CODE, String::new()),
        };
        let record = ledger::Call {
            at,
            recipients,
            random,
            code,
            carried_out,
            answered: effect.answers(),
            fault,
            account,
        };
        app.ledgers[command.index()].lock().record(record, self.keep_calls);
        let latency = Duration::from_micros(self.settings.latency[command.index()].load(Ordering::Relaxed));
        Reply {
            text,
            ending: effect.ending,
            late: effect.late + latency,
        }
    }

    fn carry_out(
        &self,
        app: &App,
        command: Command,
        operation: &Operation<'_>,
        identifier: &str,
        now: u64,
        at_most: usize,
    ) -> Result<Answered, Refusal> {
        let time = self.clock.unix_seconds(now);
        let call = faults::Call {
            sdk_app_id: app.id.0,
            command,
            recipients: operation.accounts(),
            now,
        };
        let context = Context {
            app,
            identifier,
            at: now,
            time,
            rules: &self.settings.rules.load(),
            dedup: self.settings.dedup.load(Ordering::Relaxed),
            roam_lag: self.settings.roam_lag.load(Ordering::Relaxed),
            oldest: time.saturating_sub(u32::try_from(self.roam_retention.as_secs()).unwrap_or(u32::MAX)),
            fault: &|recipient| self.faults.of_recipient(&call, recipient),
        };
        operation.carry_out(&context, at_most)
    }

    /// Forgets messages, calls and counts; apps, limits, settings and faults stay.
    pub(super) fn reset(&self) {
        for app in self.apps.load().values() {
            app.reset();
        }
        self.refused.lock().clear();
        self.unknown_fields.lock().clear();
    }
}
