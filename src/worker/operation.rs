//! Operations without recipients: `mark_read`, `unread`, `history`. They only read, or may be repeated without harm, so a
//! crash begins them again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    app::App,
    cache::LoadedJob,
    context::{CallFailure, Context, Errand, Halt},
    due::{LEASE, give_back, load},
    events::Facts,
    judge::{Judgement, needs_letter},
    single::about,
};
use crate::{
    domain::{
        AccountId, Command,
        event::{Outcome, PeerUnread, RecipientFailure, Reply},
        job::Task,
    },
    im::{HistoryQuery, HistoryWalk, ImError, MAX_PAGE, lookup, unread_calls},
    store::{OutboxEvent, OutboxLetter, WorkUnit},
};

/// Messages in one `im.reply` of a history job at most: below RabbitMQ's frame and memory comfort at 13 KB a message.
const MESSAGES_PER_REPLY: usize = 200;

/// What an operation gave.
enum Done {
    /// It is carried out: the replies to publish.
    Replies(Vec<Reply>),
    /// A conversation is read.
    Read,
}

/// Why an operation stopped.
enum Stopped {
    Halt(Halt),
    Im(Box<ImError>),
    /// No slot or no time: later.
    Later(Duration),
}

impl From<Halt> for Stopped {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

/// An operation under way.
struct Run<'a> {
    ctx: &'a Arc<Context>,
    unit: &'a WorkUnit,
    loaded: &'a LoadedJob,
    app: &'a App,
}

/// Carries an operation out.
pub(super) async fn run(ctx: &Arc<Context>, unit: &WorkUnit) -> Result<(), Halt> {
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    let Some(app) = ctx.apps.get(&unit.app) else {
        return Ok(());
    };
    let run = Run {
        ctx,
        unit,
        loaded: &loaded,
        app,
    };
    if loaded.job.expires_at.is_some_and(|at| at <= chrono::Utc::now()) {
        let event = run.event(Outcome::Expired, 0, Facts::default());
        let error = ("expired".to_owned(), "its time was over".to_owned());
        return run.end(Some(&error), &[event], None).await;
    }
    let _permit = ctx.permit(unit.lane).await?;
    match run.carry_out().await {
        Ok(Done::Read) => {
            let event = run.event(Outcome::Read, 0, run.peer_facts());
            run.end(None, &[event], None).await
        }
        Ok(Done::Replies(replies)) => {
            let events: Vec<OutboxEvent> = replies
                .into_iter()
                .enumerate()
                .map(|(number, reply)| {
                    run.event(
                        Outcome::Reply,
                        number,
                        Facts {
                            reply: Some(reply),
                            attempts: 1,
                            ..Facts::default()
                        },
                    )
                })
                .collect();
            run.end(None, &events, None).await
        }
        Err(Stopped::Halt(halt)) => Err(halt),
        Err(Stopped::Later(after)) => {
            give_back(ctx, unit, after).await;
            Ok(())
        }
        Err(Stopped::Im(error)) => run.failed(&error).await,
    }
}

impl Run<'_> {
    async fn carry_out(&self) -> Result<Done, Stopped> {
        let client = &self.app.client;
        match &self.loaded.job.task {
            Task::MarkRead { user, peer } => {
                self.call(Command::SetMsgRead, || client.mark_read(user, peer)).await?;
                Ok(Done::Read)
            }
            Task::Unread { user, peers } => self.unread(user, peers).await,
            Task::History {
                from,
                to,
                since,
                until,
                limit,
            } => {
                let now = chrono::Utc::now().timestamp();
                let seconds = |time: Option<chrono::DateTime<chrono::Utc>>, default: i64| {
                    time.map_or(default, |time| time.timestamp()).max(0) as u64
                };
                let query = HistoryQuery {
                    operator: from.clone(),
                    peer: to.clone(),
                    min_time: seconds(*since, 0),
                    max_time: seconds(*until, now.saturating_add(600)),
                    max_count: MAX_PAGE,
                };
                self.history(query, limit.map_or(usize::MAX, |limit| limit as usize))
                    .await
            }
            _ => Err(Stopped::Later(Duration::from_mins(1))),
        }
    }

    async fn call<T, F, Fut>(&self, command: Command, make: F) -> Result<T, Stopped>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, ImError>>,
    {
        let Self { ctx, unit, app, .. } = self;
        if let Some(wait) = Context::gate_wait(app) {
            return Err(Stopped::Later(wait));
        }
        let errand = Errand {
            app,
            command,
            lane: unit.lane,
            group: unit.group.as_ref(),
            recipients: 1,
        };
        let Some(slot) = ctx.slot(errand).await else {
            return Err(Stopped::Later(Duration::ZERO));
        };
        if ctx.stopping.is_cancelled() {
            return Err(Stopped::Halt(Halt::Stopping));
        }
        let deadline = Instant::now() + LEASE / 4;
        ctx.call(errand, slot, deadline, make)
            .await
            .map_err(|failure| match failure {
                CallFailure::TooLate => Stopped::Later(Duration::ZERO),
                CallFailure::Im(error) => Stopped::Im(error),
            })
    }

    async fn unread(&self, user: &AccountId, peers: &[AccountId]) -> Result<Done, Stopped> {
        let client = &self.app.client;
        if peers.is_empty() {
            let reply = self.call(Command::GetUnreadNum, || client.unread(user, &[])).await?;
            return Ok(Done::Replies(vec![Reply::Unread {
                unread: reply.total.unwrap_or(0),
            }]));
        }
        let (mut counted, mut failed) = (Vec::new(), Vec::new());
        for some in unread_calls(peers) {
            let reply = self.call(Command::GetUnreadNum, || client.unread(user, some)).await?;
            counted.extend(reply.peers.into_iter().map(|count| PeerUnread {
                peer: count.peer,
                unread: count.count,
            }));
            failed.extend(reply.failed.into_iter().map(|failure| RecipientFailure {
                to: failure.to,
                code: failure.code.word(),
                message: lookup(failure.code).map_or_else(String::new, |info| info.meaning.to_owned()),
            }));
        }
        Ok(Done::Replies(vec![Reply::UnreadByPeer { peers: counted, failed }]))
    }

    async fn history(&self, query: HistoryQuery, limit: usize) -> Result<Done, Stopped> {
        let client = &self.app.client;
        let mut walk = HistoryWalk::new(query);
        let mut messages = Vec::new();
        let mut pages = 0_u32;
        while walk.will_call() && messages.len() < limit {
            let page = self
                .call(Command::GetRoamMsg, || async {
                    match walk.next_page(client).await {
                        Some(page) => page.map(Some),
                        None => Ok(None),
                    }
                })
                .await?;
            let Some(page) = page else { break };
            messages.extend(page);
            pages += 1;
            if pages.is_multiple_of(100) && !self.ctx.persist(|| self.ctx.store.keep_lease(self.unit, LEASE)).await? {
                return Err(Stopped::Later(LEASE));
            }
        }
        let all = walk.is_complete() && messages.len() <= limit;
        messages.truncate(limit);
        let values: Vec<serde_json::Value> = messages
            .iter()
            .filter_map(|message| serde_json::to_value(message).ok())
            .collect();
        let mut replies: Vec<Reply> = values
            .chunks(MESSAGES_PER_REPLY)
            .map(|some| Reply::History {
                messages: some.to_vec(),
                complete: false,
            })
            .collect();
        match replies.last_mut() {
            Some(Reply::History { complete, .. }) => *complete = all,
            _ => replies.push(Reply::History {
                messages: Vec::new(),
                complete: all,
            }),
        }
        Ok(Done::Replies(replies))
    }

    async fn failed(&self, error: &ImError) -> Result<(), Halt> {
        let Self { ctx, unit, app, .. } = self;
        let attempts = unit.attempts + 1;
        let (code, message, recipient) = match ctx.judge(app, error, attempts) {
            Judgement::Retry { after, counts } => {
                return ctx
                    .persist(|| ctx.store.postpone(unit, unit.command, after, counts))
                    .await;
            }
            Judgement::Doubt => {
                return ctx
                    .persist(|| ctx.store.postpone(unit, unit.command, Duration::from_secs(1), true))
                    .await;
            }
            Judgement::Fail {
                code,
                message,
                recipient,
            } => (code, message, recipient),
        };
        let failure = (code.clone(), message.clone());
        let facts = Facts {
            attempts,
            error: Some(failure.clone()),
            ..Facts::default()
        };
        let event = self.event(Outcome::Failed, 0, facts);
        let letter = (!recipient || needs_letter(&code, ctx.recipient_letters)).then(|| {
            ctx.metrics.dead_letter(unit.lane, &code);
            OutboxLetter {
                job: unit.job.clone(),
                code,
                message,
                attempts,
                generation: self.unit.generation,
            }
        });
        self.end(Some(&failure), &[event], letter.as_ref()).await
    }

    fn peer_facts(&self) -> Facts {
        match &self.loaded.job.task {
            Task::MarkRead { peer, .. } => Facts {
                to: Some(peer.clone()),
                attempts: 1,
                ..Facts::default()
            },
            _ => Facts::default(),
        }
    }

    fn event(&self, outcome: Outcome, number: usize, facts: Facts) -> OutboxEvent {
        let from = match &self.loaded.job.task {
            Task::MarkRead { user, .. } | Task::Unread { user, .. } => Some(user.clone()),
            Task::History { from, .. } => Some(from.clone()),
            _ => None,
        };
        let about = about(&self.loaded.job, from).replying(&self.loaded.properties);
        self.ctx.events.build(
            &about,
            &format!("operation/{}/{number}", self.unit.generation),
            outcome,
            facts,
        )
    }

    async fn end(
        &self,
        error: Option<&(String, String)>,
        events: &[OutboxEvent],
        letter: Option<&OutboxLetter>,
    ) -> Result<(), Halt> {
        let Self { ctx, unit, loaded, .. } = self;
        ctx.persist(|| ctx.store.close_operation(unit, error, events, letter))
            .await?;
        let outcome = match (&loaded.job.task, error) {
            (_, Some(_)) => Outcome::Failed,
            (Task::MarkRead { .. }, None) => Outcome::Read,
            _ => Outcome::Reply,
        };
        ctx.metrics.outcome(loaded.job.job_type(), outcome, 1);
        ctx.outbox.notify_one();
        Ok(())
    }
}
