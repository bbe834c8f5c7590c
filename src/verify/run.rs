//! The walk: every record in scope, conversation by conversation, beside the workers.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::atomic::{AtomicU32, Ordering},
};

use futures::{TryStreamExt as _, stream};

use super::{
    Finding, HistoryAsker, NamedFinding, Verdict, VerifyOptions, VerifyReport,
    judge::{Sight, asks, judge, strangers},
};
use crate::{
    domain::{AppName, MessageState},
    im::ImError,
    store::{ScopeRecord, Store, StoreError, VerifyWalk},
};

/// Conversations that are asked about side by side.
const AT_ONCE: usize = 16;
/// Records of one conversation that are judged together: more are asked about in turns.
const TOGETHER: usize = 500;
/// Conversations that could not be asked about in a row before the service counts as away.
const HOPELESS: u32 = 20;
/// Messages that are looked for a second time; beyond that the first look counts.
const SECOND_LOOKS: usize = 10_000;

/// Why a verification could not be brought to its end.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// The service refuses an app's credentials.
    #[error("the IM API refuses the credentials of app {app}")]
    Credentials {
        /// The app.
        app: AppName,
        /// The refusal.
        #[source]
        source: Box<ImError>,
    },
    /// The history can't be asked at all.
    #[error("the IM history can't be asked: {0}")]
    Away(String),
}

/// Verifies a scope. Apps that are missing among `askers` can't be asked. `progress` is told how many records of how many
/// have been judged.
///
/// # Errors
/// See [`VerifyError`]. What was found until then proves nothing.
pub async fn verify(
    store: &Store,
    askers: &BTreeMap<AppName, HistoryAsker>,
    options: &VerifyOptions<'_>,
    progress: impl Fn(u64, u64),
) -> Result<VerifyReport, VerifyError> {
    let mut report = VerifyReport::default();
    stranded(store, options, &mut report).await?;
    let pending = store.pending_counts(&options.scope).await?;
    report.waiting = pending.pending.saturating_sub(report.missing);
    report.past_due = pending.past_due;
    for (state, count) in store.count_records(&options.scope).await? {
        match state {
            MessageState::Failed => report.failed = count,
            MessageState::Cancelled => report.cancelled = count,
            MessageState::Expired => report.expired = count,
            MessageState::Suppressed => report.suppressed = count,
            _ => {}
        }
    }
    let walk = store.walk_records(&options.scope).await?;
    let records = walk.records();
    report.unverifiable.beyond_retention = walk.beyond_retention();

    let looker = Looker {
        store,
        askers,
        options,
        failures: AtomicU32::new(0),
    };
    let mut again = Vec::new();
    let mut judged = 0;
    progress(0, records);
    let mut looks = Box::pin(
        stream::try_unfold(Conversations::new(walk), |conversations| async move {
            conversations.next().await.map_err(VerifyError::Store)
        })
        .map_ok(|records| looker.look(records))
        .try_buffer_unordered(AT_ONCE),
    );
    while let Some(verdicts) = looks.try_next().await? {
        judged += verdicts.len() as u64;
        progress(judged, records);
        for (record, verdict) in verdicts {
            let young = verdict.finding == Finding::Missing && record.age < options.listed_after;
            if young && again.len() < SECOND_LOOKS {
                again.push(record);
            } else {
                count(&mut report, &record, verdict, options);
            }
        }
    }
    drop(looks);
    second_look(&looker, again, &mut report).await?;
    report.calls = askers.values().map(HistoryAsker::calls).sum();
    Ok(report)
}

/// Counts a verdict. What ended without being sent has been counted by state already.
fn count(report: &mut VerifyReport, record: &ScopeRecord, verdict: Verdict, options: &VerifyOptions<'_>) {
    let by_state = matches!(
        verdict.finding,
        Finding::Failed | Finding::Cancelled | Finding::Expired | Finding::Suppressed
    );
    if !by_state {
        report.add(record, verdict, options.examples);
    }
}

async fn stranded(store: &Store, options: &VerifyOptions<'_>, report: &mut VerifyReport) -> Result<(), VerifyError> {
    let most = u32::try_from(options.examples).unwrap_or(u32::MAX);
    let (count, first) = store.stranded(&options.scope, most).await?;
    report.missing = count;
    for stranded in first {
        let finding = NamedFinding {
            finding: Finding::Missing,
            job: stranded.job,
            from: String::new(),
            to: stranded.to,
            msg_keys: Vec::new(),
            why: "it is pending, and its row of work is gone: nothing would carry it on".to_owned(),
        };
        report.name(finding, options.examples);
    }
    Ok(())
}

/// What was sent a moment ago may not be listed yet: it is looked for once more, a little later.
async fn second_look(
    looker: &Looker<'_>,
    records: Vec<ScopeRecord>,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    if records.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(looker.options.settle).await;
    let mut conversations: BTreeMap<(AppName, String, String), Vec<ScopeRecord>> = BTreeMap::new();
    for record in records {
        let key = (record.app.clone(), record.to.clone(), record.from.clone());
        conversations.entry(key).or_default().push(record);
    }
    let mut looks = stream::iter(conversations.into_values().map(Ok::<_, VerifyError>))
        .map_ok(|records| looker.look(records))
        .try_buffer_unordered(AT_ONCE);
    while let Some(verdicts) = looks.try_next().await? {
        for (record, mut verdict) in verdicts {
            if verdict.finding == Finding::Missing {
                verdict
                    .why
                    .push_str("; it was sent a moment ago, and the service may list it later (reconcile.listed_after)");
            }
            count(report, &record, verdict, looker.options);
        }
    }
    Ok(())
}

/// Looks at conversations.
struct Looker<'a> {
    store: &'a Store,
    askers: &'a BTreeMap<AppName, HistoryAsker>,
    options: &'a VerifyOptions<'a>,
    /// Conversations in a row that could not be asked about.
    failures: AtomicU32,
}

impl Looker<'_> {
    async fn look(&self, records: Vec<ScopeRecord>) -> Result<Vec<(ScopeRecord, Verdict)>, VerifyError> {
        let retention = self.options.scope.retention;
        let to_ask: Vec<&ScopeRecord> = records.iter().filter(|record| asks(record, retention)).collect();
        let sight = self.sight(&to_ask).await?;
        let mut verdicts = Vec::with_capacity(records.len());
        for record in records {
            let strangers = match &sight {
                Sight::Seen(messages) => strangers(&record, messages),
                _ => Vec::new(),
            };
            let others = if strangers.is_empty() {
                Vec::new()
            } else {
                self.store.keys_of_others(&record, &strangers).await?
            };
            let verdict = judge(&record, &sight, &others, self.options.quiet, retention);
            verdicts.push((record, verdict));
        }
        Ok(verdicts)
    }

    async fn sight(&self, records: &[&ScopeRecord]) -> Result<Sight, VerifyError> {
        let Some(first) = records.first() else {
            return Ok(Sight::Seen(Vec::new()));
        };
        let Some(asker) = self.askers.get(&first.app) else {
            return Ok(Sight::Unasked(format!("app {} is not configured here", first.app)));
        };
        let sight = asker.look(records).await.map_err(|error| VerifyError::Credentials {
            app: first.app.clone(),
            source: Box::new(error),
        })?;
        if let Sight::Unasked(why) = &sight {
            if self.failures.fetch_add(1, Ordering::Relaxed) + 1 >= HOPELESS {
                return Err(VerifyError::Away(why.clone()));
            }
        } else {
            self.failures.store(0, Ordering::Relaxed);
        }
        Ok(sight)
    }
}

/// The records of a walk, conversation by conversation.
struct Conversations {
    walk: VerifyWalk,
    page: VecDeque<ScopeRecord>,
    ended: bool,
}

impl Conversations {
    const fn new(walk: VerifyWalk) -> Self {
        Self {
            walk,
            page: VecDeque::new(),
            ended: false,
        }
    }

    async fn next(mut self) -> Result<Option<(Vec<ScopeRecord>, Self)>, StoreError> {
        let mut conversation: Vec<ScopeRecord> = Vec::new();
        loop {
            if self.page.is_empty() && !self.ended {
                self.page = self.walk.next_page().await?.into();
                self.ended = self.page.is_empty();
            }
            let same = |record: &ScopeRecord| {
                conversation
                    .first()
                    .is_none_or(|first| (&first.app, &first.from, &first.to) == (&record.app, &record.from, &record.to))
            };
            let fits = conversation.len() < TOGETHER && self.page.front().is_some_and(same);
            match self.page.pop_front_if(|_| fits) {
                Some(record) => conversation.push(record),
                None if conversation.is_empty() => return Ok(None),
                None => return Ok(Some((conversation, self))),
            }
        }
    }
}
