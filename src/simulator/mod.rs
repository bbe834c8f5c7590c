//! How does the IM service behave, and what did it accept? A simulator of its REST API: a library for tests and the
//! command `simulate`. It knows no worker, queue or record, and nothing in the product but tests and that command knows it.
//!
//! # What is faithful
//! Whatever the service's documentation says is done to the letter:
//! - all seven commands under `/v4/openim/`, POST only, with `sdkappid`, `identifier` (an app administrator), `usersig`
//!   (HMAC-SHA256, expiry), `random` (u32) and `contenttype=json`; HTTP 200 for every API-level outcome;
//! - the fields, their types and the code for each fault of them; 12 KB a message, 500 recipients a batch, 10 peers an
//!   unread count, at most one custom element;
//! - both frequency limits: calls per command and second, recipients of batches per minute (60007);
//! - MsgKey `MsgSeq_MsgRandom_MsgTime`, one for a whole batch; MsgSeq drawn where absent; the three shapes of a batch's
//!   answer; the 120 s de-duplication by sender, MsgSeq, MsgRandom and CRC32 of the content;
//! - roaming storage on two sides (`SyncOtherMachine` 2: the recipient's only; online-only: none), pages that end at
//!   `MaxCnt` or 13 KB, revoked messages listed with flag 8, 7 days of retention;
//! - revoking with 20022 and 20023 and no age limit; imports that are idempotent; unread counts.
//!
//! # What is a choice
//! Where the documentation is silent, the simulator does what a careful client must be able to live with:
//! - which of several fitting codes a fault gets, and the order of checks (see `request`, `app`, `elements`, `send`);
//! - the limits are exact sliding windows on admitted calls: what was refused for its frequency takes nothing, anything
//!   else does, whatever its outcome; every recipient named in a batch counts;
//! - de-duplication is per conversation and direction, and a dropped repeat answers OK with the old key (`send`);
//! - accounts exist unless a list or a prefix says otherwise ([`AccountRules`]); account names compare byte by byte;
//! - an importmsg repeats another by MsgSeq, MsgRandom and `MsgTimeStamp` in either direction (the current
//!   documentation), not by the five fields of the older;
//! - page order and ceilings of the history (`history`), errors of the commands that manage messages (`manage`).
//!
//! # What only the simulator can
//! Faults by rule, probability or script ([`FaultRule`]); a clock that can be put forward; a history that lags; limits that
//! change while it runs; a control API (`/_sim/…`, loopback only); and an exact account of what it accepted ([`Report`]).
//! A call is carried out at once when its body is there, also if its client is gone by then.
//!
//! # How it is used
//! ```
//! use im_dispatcher::{
//!     domain::Command,
//!     simulator::{Fault, Simulator, SimulatorOptions},
//! };
//!
//! # fn main() -> anyhow::Result<()> {
//! let service = Simulator::start(SimulatorOptions::default())?;
//! // The next call is carried out, and its answer lost.
//! service.inject(Command::SendMsg, Fault::CutAfter, 1);
//! // … what is tested calls `service.base_url()` with [`SAMPLE_SDK_APP_ID`] and [`SAMPLE_SECRET`] …
//! assert_eq!(service.messages_to("alice").len(), 0, "nobody has called here");
//! assert!(service.report().sent_twice.is_empty());
//! # Ok(())
//! # }
//! ```

mod answer;
mod app;
mod clock;
mod codes;
mod control;
mod core;
mod elements;
mod fault_rule;
mod faults;
mod fields;
mod history;
mod ledger;
mod limits;
mod manage;
mod options;
mod report;
mod request;
mod send;
mod server;
mod store;
#[cfg(test)]
mod tests;

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use secrecy::SecretString;

use self::{
    core::{Core, micros},
    server::Server,
};
pub use self::{
    fault_rule::{AccountMatch, Fault, FaultRule, When},
    faults::FaultReport,
    ledger::{Arrival, CommandReport},
    limits::Busiest,
    options::{AccountRules, AppOptions, Limits, SAMPLE_SDK_APP_ID, SAMPLE_SECRET, SimulatorOptions},
    report::{Delivery, Report, SentTwice, SimMessage},
};
use crate::domain::{Command, SdkAppId};

/// A running simulator. Dropping it closes its port and its connections.
pub struct Simulator {
    core: Arc<Core>,
    server: Server,
}

impl fmt::Debug for Simulator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulator")
            .field("address", &self.server.address())
            .finish_non_exhaustive()
    }
}

impl Simulator {
    /// Starts one, on threads of its own: it needs no async runtime.
    ///
    /// # Errors
    /// If the address can't be bound or a thread can't be started.
    pub fn start(options: SimulatorOptions) -> anyhow::Result<Self> {
        let (listen, threads) = (options.listen, options.threads);
        let core = Arc::new(Core::new(options));
        let server = Server::start(&core, listen, threads)?;
        Ok(Self { core, server })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// The base URL for clients: `http://127.0.0.1:PORT`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Everything that it counted.
    pub fn report(&self) -> Report {
        self.core.report()
    }

    /// The messages that a recipient got, in the order in which they were accepted.
    pub fn messages_to(&self, recipient: &str) -> Vec<SimMessage> {
        self.core.messages(|_, to| to == recipient)
    }

    /// Every message, in the order in which they were accepted.
    pub fn messages(&self) -> Vec<SimMessage> {
        self.core.messages(|_, _| true)
    }

    /// How often each body reached each recipient; imports apart.
    pub fn deliveries(&self) -> Vec<Delivery> {
        self.core.deliveries()
    }

    /// How many messages sendmsg and batchsendmsg made appear, one for each recipient, without dropped repeats.
    pub fn delivered_total(&self) -> u64 {
        self.core.delivered()
    }

    /// The calls of a command that were kept, in order of their arrival.
    pub fn arrivals(&self, command: Command) -> Vec<Arrival> {
        self.core.arrivals(command, usize::MAX)
    }

    /// Lets the next `count` calls of a command meet a fault. Several are a queue.
    pub fn inject(&self, command: Command, fault: Fault, count: u64) {
        self.add_fault(FaultRule::new(Some(command), fault, When::Next(count)));
    }

    /// Lets each call of a command meet a fault with a probability, in place of the one set before; 0 ends it.
    pub fn set_fault_rate(&self, command: Command, fault: Fault, probability: f64) {
        self.core.faults.remove(|rule| {
            rule.command == Some(command) && rule.fault == fault && matches!(rule.when, When::Probability(_))
        });
        if probability > 0.0 {
            self.add_fault(FaultRule::new(Some(command), fault, When::Probability(probability)));
        }
    }

    /// Adds a rule after the others; the first that fires wins.
    pub fn add_fault(&self, rule: FaultRule) {
        self.core.faults.add(rule, self.core.clock.now());
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.core.faults.remove(|_| true);
    }

    /// Sets the limits of every app, also of those added later.
    pub fn set_limits(&self, limits: Limits) {
        self.core.set_limits(None, limits);
    }

    /// Sets the limits of one app.
    pub fn set_app_limits(&self, app: SdkAppId, limits: Limits) {
        self.core.set_limits(Some(app), limits);
    }

    /// Adds an app, or replaces the administrator and secret of one that is there.
    pub fn add_app(&self, sdk_app_id: SdkAppId, admin: &str, secret: SecretString) {
        self.core.add_app(AppOptions {
            sdk_app_id,
            admins: vec![admin.to_owned()],
            secret,
        });
    }

    /// Replaces the rules of which accounts exist.
    pub fn set_accounts(&self, rules: AccountRules) {
        self.core.settings.rules.store(Arc::new(rules));
    }

    /// Sets how long a send is remembered for de-duplication; zero: never.
    pub fn set_dedup(&self, window: Duration) {
        self.core.settings.set_dedup(micros(window));
    }

    /// Sets how long an accepted message stays invisible in the history.
    pub fn set_roam_lag(&self, lag: Duration) {
        self.core.settings.set_roam_lag(micros(lag));
    }

    /// Sets what every call takes at least.
    pub fn set_latency(&self, latency: Duration) {
        for command in Command::ALL {
            self.core.settings.set_latency(command, micros(latency));
        }
    }

    /// Puts its clock forward: windows, expiry and lag go by without waiting.
    pub fn advance_clock(&self, by: Duration) {
        self.core.clock.advance(by);
    }

    /// Deletes a conversation on one side, as that user could: the other side still sees it.
    pub fn clear_conversation(&self, app: SdkAppId, owner: &str, peer: &str) {
        self.core.clear_side(app, owner, peer);
    }

    /// Forgets messages, calls and counts; apps, limits, settings and faults stay.
    pub fn reset(&self) {
        self.core.reset();
    }
}
