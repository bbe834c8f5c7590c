//! Postgres: the records, and the work that the table owns. Returns domain types, never rows; knows no AMQP and no HTTP.
//!
//! ```no_run
//! use im_dispatcher::{domain::JobId, store::{MessagePage, Store, StoreOptions}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::new(&StoreOptions::new("postgres://user:password@127.0.0.1/im".to_owned().into()))?;
//! store.migrate().await?;
//! match store.job_status(&JobId::parse("otp-4711")?, &MessagePage::counts_only()).await? {
//!     Some(status) => println!("{:?}: {} of {} sent", status.state, status.recipients.sent, status.recipients.total),
//!     None => println!("not on record"),
//! }
//! store.close().await;
//! # Ok(())
//! # }
//! ```

mod audit;
mod budgets;
#[cfg(test)]
mod budgets_tests;
mod caps;
#[cfg(test)]
mod caps_tests;
mod claims;
mod closing;
#[cfg(test)]
mod closing_tests;
mod doubts;
mod durability;
mod erase;
#[cfg(test)]
mod erase_tests;
mod erase_traces;
mod error;
mod explain;
mod group_repeats;
mod groups;
mod handover;
mod outbox;
mod outcomes;
mod part_outcomes;
mod parts;
mod pauses;
mod prune;
#[cfg(test)]
mod prune_tests;
#[cfg(test)]
mod repeats_tests;
mod retry;
mod revocations;
mod revoke_status;
mod revoked;
#[cfg(test)]
mod revoked_tests;
mod runs;
mod search;
mod sent;
mod singles;
mod slices;
mod status;
#[cfg(test)]
mod status_tests;
mod verify;
mod waiting;
mod windows;
mod work;
mod workers;

use std::{str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

pub use audit::{AuditRow, NewAudit};
pub use budgets::{BudgetRow, SlotsGranted, SlotsWanted};
pub use caps::{CAPPED, CapRule, SuppressedMembers};
pub use claims::{CALL_WINDOW, ClaimVerdict, ExistingJob, ExistingMessage, NewClaim};
pub use closing::ClosedJob;
pub use doubts::{Doubt, DoubtNext, DoubtVerdict, DoubtfulMember, Found};
pub use durability::Durability;
pub use erase::{EraseScope, JobErased, JobOfAccount, JobsOfAccount, StillLive};
pub use erase_traces::TracesOfAccount;
pub use error::StoreError;
pub use explain::{
    AttemptFact, CallFact, JobFacts, KeyFact, MessageFact, OutboxFact, RevocationFact, RevocationTarget, WorkFact,
};
pub use group_repeats::{AbsentCall, RepeatedCall, RepeatedMember};
pub use groups::{DueMember, SharedCall};
pub use handover::{HandedOver, Handover, SecondDelivery};
pub use outbox::{OutboxEvent, OutboxItem, OutboxLetter, OutboxRow};
pub use outcomes::{AttemptNote, Holder, Parcel, Recorded, Settlement, SingleOutcome};
pub use part_outcomes::{MemberFailure, PartNext, PartOutcome};
pub use parts::{CallPair, Caller, CancelledMembers, Member, PartCall, PartClaim, RepeatRule};
pub use prune::{OldWeek, Pruned, Retention};
pub use retry::{RetryFilter, Retryable};
pub use revocations::{CancelledByFanOut, NewRevocation, RevocationAdded};
pub use revoked::{RawMessage, RevocableMessage, RevokeOutcome};
pub use runs::WorkerRun;
pub use search::FoundJob;
pub use sent::SentOutcome;
pub use singles::{FinalSingle, SingleClaim};
pub use status::{After, DEFAULT_PAGE, MessagePage};
pub use verify::{PendingCounts, ScopeRecord, Stranded, VerifyScope, VerifyWalk};
pub use waiting::{DoubtRow, DueCount, OldestDue, WaitingRow};
pub use windows::Opening;
pub use work::{Backlog, Room, StoredJob, WorkKind, WorkUnit};
pub use workers::{WorkerIdentity, WorkerRow};

/// How to reach the database.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// `postgres://…`, with the password in it.
    pub url: SecretString,
    /// Connections of this process at most.
    pub max_connections: u32,
    /// How long a statement waits for a free connection before it fails.
    pub acquire_timeout: Duration,
    /// Statements find rows by their keys, whatever the planner thinks of small tables: see [`StoreOptions::for_worker`].
    pub by_keys: bool,
}

impl StoreOptions {
    /// Options with the defaults of a worker: at most 6 connections, since Postgres pays for each.
    pub fn new(url: SecretString) -> Self {
        Self {
            url,
            max_connections: 6,
            acquire_timeout: Duration::from_secs(5),
            by_keys: false,
        }
    }

    /// The same for a worker, whose statements all look some hundred rows up by their keys. A plan that is made while a
    /// table or a week's partition is still small would scan it, and being kept for the connection go on doing so while the
    /// table grows by thousands of rows a second: so a worker's connections join by nested loops over indexes only.
    pub fn for_worker(url: SecretString) -> Self {
        Self {
            by_keys: true,
            ..Self::new(url)
        }
    }
}

/// What leaves nested loops over indexes, planned once for each connection. Of a partitioned table a plan for the values at
/// hand always looks cheaper, so each execution would be planned: 0.25 to 0.8 ms, most of Postgres' CPU at some hundred jobs a
/// second. A plan for all values takes a lock for each partition instead, which is as dear at 150 weeks.
const BY_KEYS: [(&str, &str); 5] = [
    ("plan_cache_mode", "force_generic_plan"),
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_material", "off"),
];

/// The database, cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pool: PgPool,
    /// Kept for urgent work, so that it never waits behind a campaign's statements.
    high: PgPool,
    /// For the fleet's budget alone: calls wait for it, and it never waits behind records.
    slots: PgPool,
    session: Session,
}

/// What kind of connections a store's are.
#[derive(Debug, Clone, Copy)]
enum Session {
    /// Of a command.
    Plain,
    /// Of a worker: see [`StoreOptions::for_worker`].
    ByKeys,
    /// Of those who look and act by HTTP: a question that takes longer than 10 s is given up.
    Http,
}

impl Session {
    fn connect(self, url: &SecretString) -> Result<PgConnectOptions, StoreError> {
        let connect = PgConnectOptions::from_str(url.expose_secret())
            .map_err(|_| StoreError::Url)?
            .application_name(match self {
                Self::Plain | Self::ByKeys => "im-dispatcher",
                Self::Http => "im-dispatcher http",
            })
            // Every promise rests on the first, whatever the server's default is.
            .options([("synchronous_commit", "on"), ("timezone", "UTC"), ("jit", "off")]);
        Ok(match self {
            Self::Plain => connect,
            Self::ByKeys => connect.options(BY_KEYS),
            Self::Http => connect.options([("statement_timeout", "10s")]),
        })
    }
}

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!();

impl Store {
    /// Prepares the pool without connecting: a database that is away doesn't stop a start.
    ///
    /// # Errors
    /// [`StoreError::Url`] where the URL can't be parsed; its text never holds the password.
    pub fn new(options: &StoreOptions) -> Result<Self, StoreError> {
        let session = if options.by_keys {
            Session::ByKeys
        } else {
            Session::Plain
        };
        let connect = session.connect(&options.url)?;
        let high = (options.max_connections / 3).clamp(1, 2);
        let pool = |connections: u32| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(options.acquire_timeout)
                .test_before_acquire(false)
                .connect_lazy_with(connect.clone())
        };
        let slots = 1;
        Ok(Self {
            pool: pool(options.max_connections.saturating_sub(high + slots).max(1)),
            high: pool(high),
            slots: pool(slots),
            session,
        })
    }

    /// The same database for those who look and act by HTTP: at most 2 connections of its own, so that no question holds
    /// work up, closed when nobody asked for a minute; and a question that takes longer than 10 s is given up.
    ///
    /// # Errors
    /// As [`Store::new`].
    pub fn for_http(options: &StoreOptions) -> Result<Self, StoreError> {
        let session = Session::Http;
        let connect = session.connect(&options.url)?;
        let pool = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(options.acquire_timeout)
            .idle_timeout(Duration::from_mins(1))
            .connect_lazy_with(connect);
        Ok(Self {
            high: pool.clone(),
            slots: pool.clone(),
            pool,
            session,
        })
    }

    /// Takes another URL for the connections to come, so that a password can be changed without a new start. Connections
    /// that stand stay as they are; Postgres asks for the password at the beginning of each only.
    ///
    /// # Errors
    /// [`StoreError::Url`], and nothing is changed.
    pub fn set_url(&self, url: &SecretString) -> Result<(), StoreError> {
        let connect = self.session.connect(url)?;
        for pool in [&self.pool, &self.high, &self.slots] {
            pool.set_connect_options(connect.clone());
        }
        Ok(())
    }

    /// The connections for claims and outcomes of a lane.
    fn hot(&self, high: bool) -> &PgPool {
        if high { &self.high } else { &self.pool }
    }

    /// The store of a test's own database.
    #[cfg(test)]
    pub(crate) fn of_pool(pool: PgPool) -> Self {
        Self {
            high: pool.clone(),
            slots: pool.clone(),
            pool,
            session: Session::Plain,
        }
    }

    /// The pool, for the statements of this crate's tests and tools.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Applies the migrations that are compiled in.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        MIGRATOR.run(&self.pool).await.map_err(StoreError::Migrate)
    }

    /// Whether every migration that is compiled in has been applied; `Ok(Some(version))` names the first that hasn't.
    pub async fn missing_migration(&self) -> Result<Option<i64>, StoreError> {
        let applied: Vec<i64> = match sqlx::query_scalar("SELECT version FROM _sqlx_migrations WHERE success")
            .fetch_all(&self.pool)
            .await
        {
            Ok(applied) => applied,
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
            Err(error) => return Err(StoreError::query("read the applied migrations", error)),
        };
        Ok(MIGRATOR
            .iter()
            .filter(|migration| migration.migration_type.is_up_migration())
            .map(|migration| migration.version)
            .find(|version| !applied.contains(version)))
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT 1")
            .execute(&self.pool)
            .await
            .map_err(|error| StoreError::query("ping", error))?;
        Ok(())
    }

    /// Makes the partitions of the weeks around now; harmless where they are there.
    pub async fn ensure_partitions(&self) -> Result<(), StoreError> {
        sqlx::query!(r#"SELECT ensure_partitions() AS "made!""#)
            .fetch_one(&self.pool)
            .await
            .map_err(|error| StoreError::query("make partitions ahead", error))?;
        Ok(())
    }

    /// Whether the database takes writes: after a failover it may be read-only for a while.
    ///
    /// Connections that are read-only are closed, of every pool: the server that they lead to may be what has become the
    /// replica, and another one be found under its name.
    ///
    /// # Errors
    /// [`StoreError::Query`] where it can't be reached.
    pub async fn is_writable(&self) -> Result<bool, StoreError> {
        for pool in [&self.high, &self.slots, &self.pool] {
            // All at once: one that goes back would be the next to be handed out.
            let idle: Vec<_> = (0..pool.num_idle()).map_while(|_| pool.try_acquire()).collect();
            for connection in idle {
                takes_writes(connection).await;
            }
        }
        let connection = self.pool.acquire().await;
        Ok(takes_writes(connection.map_err(|error| StoreError::query("connect", error))?).await)
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.pool.close().await;
        self.high.close().await;
        self.slots.close().await;
    }
}

/// Whether a connection takes writes; one that doesn't is closed.
async fn takes_writes(mut connection: PoolConnection<Postgres>) -> bool {
    let read_only = sqlx::query_scalar!(
        r#"SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS "read_only!""#
    )
    .fetch_one(&mut *connection)
    .await;
    if matches!(read_only, Ok(false)) {
        return true;
    }
    // It is of no more use, whether or not the server hears of its end.
    drop(connection.close().await);
    false
}
