//! Was it carried out? Asks the IM history about a call whose answer was lost, and leads the only way out of doubt.
//!
//! A message that the history shows to either party was sent: its key goes on record, whatever else the job's fate
//! would be. One that neither party sees in two looks, the second after no such call can still be on its way, was not:
//! it is sent again within 85 s (the service still drops a repeat) or after 180 s (it lists what it accepted by
//! then), never between: see `step`. Where the history can't tell, `on_unknown` decides.

use std::{sync::Arc, time::Duration};

use chrono::Utc;
use futures::{StreamExt as _, stream};

use super::{
    app::App,
    cache::LoadedJob,
    context::{Context, Halt},
    due::{LEASE, give_back, load},
    events::{Facts, all_failed, single_call},
    judge::{EXHAUSTED, OUTCOME_UNKNOWN, needs_letter, spread},
    look::Sight,
    part::part_call,
    single::about,
    step::{Absence, Step, after_absence},
};
use crate::{
    domain::{
        AccountId, Command, JobId, MessageState,
        event::Outcome,
        job::{OnUnknown, Task},
    },
    im::ENCODER_VERSION,
    store::{
        AttemptNote, Doubt, DoubtNext, DoubtVerdict, DoubtfulMember, Found, MemberFailure, OutboxLetter, WorkUnit,
    },
    telemetry::Operation,
};

/// The shortest roaming retention of any edition: beyond it an absence says nothing.
const RETENTION: Duration = Duration::from_hours(7 * 24);
/// Members of a batch call that are looked up side by side: the history's default limit of 200 calls a second is used up
/// even where one call in a hundred is never answered and takes its place for the whole time-out of 6 s.
const LOOKS_AT_ONCE: usize = 32;
/// How often a member of a batch is asked about in one look, if the service can't answer at once.
const TRIES: u32 = 5;

/// A doubt under way.
pub(super) struct Inquiry<'a> {
    pub(super) ctx: &'a Arc<Context>,
    pub(super) unit: &'a WorkUnit,
    pub(super) loaded: &'a LoadedJob,
    pub(super) app: &'a App,
    pub(super) doubt: Doubt,
    pub(super) batch: bool,
}

/// Looks once, and writes what follows.
pub(super) async fn run(ctx: &Arc<Context>, unit: &WorkUnit) -> Result<(), Halt> {
    let Some(loaded) = load(ctx, unit).await? else {
        return Ok(());
    };
    let Some(app) = ctx.apps.get(&unit.app) else {
        return Ok(());
    };
    let (batch, deliver_by) = match &loaded.job.task {
        Task::BatchSend { .. } => (true, Command::BatchSendMsg),
        Task::Import { .. } => (false, Command::ImportMsg),
        _ => (false, Command::SendMsg),
    };
    let Some(doubt) = ctx.persist(|| ctx.store.doubt(unit, batch)).await? else {
        // Nothing is in doubt (any more): delivering goes on, or finds that it has ended.
        ctx.persist(|| ctx.store.postpone(unit, deliver_by, Duration::ZERO, false))
            .await?;
        ctx.due.notify_one();
        return Ok(());
    };
    let inquiry = Inquiry {
        ctx,
        unit,
        loaded: &loaded,
        app,
        doubt,
        batch,
    };
    if deliver_by == Command::ImportMsg {
        // Five equal fields make an import idempotent: it is simply repeated.
        let verdict = DoubtVerdict {
            resend: vec![0],
            next: DoubtNext::Deliver {
                command: deliver_by,
                after: Duration::ZERO,
            },
            ..open_verdict()
        };
        return inquiry.settle(verdict).await;
    }
    inquiry.look().await
}

impl Inquiry<'_> {
    async fn look(&self) -> Result<(), Halt> {
        let Self {
            ctx, unit, app, doubt, ..
        } = self;
        let life_time = self.loaded.job.message().and_then(|message| message.life_time);
        if life_time == Some(0) {
            let reason = "an online-only message (life_time 0) is not in the history";
            return self.cannot_tell(&self.open(), reason).await;
        }
        if doubt.since_last > RETENTION {
            return self
                .cannot_tell(&self.open(), "the call is older than what the history keeps")
                .await;
        }
        if let Some(wait) = Context::gate_wait(app) {
            give_back(ctx, unit, wait).await;
            return Ok(());
        }
        let Some(sights) = self.sights().await? else {
            return Ok(());
        };
        self.decide(sights).await
    }

    /// Looks for every member; `None` if the lease was lost meanwhile.
    async fn sights(&self) -> Result<Option<Vec<(DoubtfulMember, Sight)>>, Halt> {
        let Self { ctx, unit, doubt, .. } = self;
        let mut sights = Vec::with_capacity(doubt.members.len());
        let mut looks = stream::iter(doubt.members.clone())
            .map(|member| async move { self.patient_sight(&member).await.map(|sight| (member, sight)) })
            .buffer_unordered(LOOKS_AT_ONCE);
        let mut renewal = tokio::time::interval_at(tokio::time::Instant::now() + LEASE / 3, LEASE / 3);
        loop {
            tokio::select! {
                sight = looks.next() => match sight {
                    Some(sight) => sights.push(sight?),
                    None => break,
                },
                _ = renewal.tick() => {
                    if !ctx.persist(|| ctx.store.keep_lease(unit, LEASE)).await? {
                        return Ok(None);
                    }
                }
            }
        }
        drop(looks);
        sights.sort_unstable_by_key(|(member, _)| member.member.idx);
        Ok(Some(sights))
    }

    /// Looks for one member, of a batch more than once where it can't be asked: of some hundreds one nearly always
    /// fails, and would make the others' answers worthless.
    async fn patient_sight(&self, member: &DoubtfulMember) -> Result<Sight, Halt> {
        let tries = if self.batch { TRIES } else { 1 };
        let mut sight = self.sight(member).await?;
        for _ in 1..tries {
            let Sight::Later(pause) = sight else { break };
            tokio::time::sleep(pause).await;
            sight = self.sight(member).await?;
        }
        Ok(sight)
    }

    /// Members whose outcome is open.
    fn open(&self) -> Vec<&DoubtfulMember> {
        self.doubt.members.iter().collect()
    }

    async fn decide(&self, sights: Vec<(DoubtfulMember, Sight)>) -> Result<(), Halt> {
        let Self { ctx, doubt, .. } = self;
        let (mut found, mut absent, mut blind, mut later) = (Vec::new(), Vec::new(), Vec::new(), None);
        let mut may_be_listed = false;
        let mut why_blind = String::new();
        for (member, sight) in &sights {
            match sight {
                Sight::Seen(seen) => found.push(seen.clone()),
                Sight::Absent => {
                    may_be_listed = true;
                    absent.push(member);
                }
                Sight::Nobody => absent.push(member),
                Sight::Blind(why) => {
                    why_blind.clone_from(why);
                    blind.push(member);
                }
                Sight::Later(after) => later = later.max(Some(*after)),
            }
        }
        let mut verdict = open_verdict();
        if !found.is_empty() {
            ctx.metrics.operation(Operation::ReconcileFound);
            ctx.metrics
                .outcome(self.loaded.job.job_type(), Outcome::Sent, found.len() as u64);
            verdict.events.push(self.found_event(&found));
            verdict.note = Some(self.note("found", "the history shows the message: it had been sent"));
        }
        // Of a shared call nobody here knows whom else it reached.
        let partial = doubt.shared || self.batch && (!found.is_empty() || doubt.members.len() < doubt.called);
        verdict.found = found;
        if let Some(after) = later {
            verdict.next = DoubtNext::Look {
                after: after + spread(after),
                absent: false,
            };
            return self.settle(verdict).await;
        }
        if !blind.is_empty() && absent.is_empty() {
            return self.cannot_tell_rest(verdict, &blind, &why_blind).await;
        }
        if absent.is_empty() {
            verdict.next = DoubtNext::End;
            return self.settle(verdict).await;
        }
        self.missing(verdict, &absent, partial, may_be_listed).await
    }

    /// Some, or all, are on neither side. `may_be_listed`: a message of one of them may have been accepted and not be
    /// listed yet, which of accounts that don't exist it can't.
    async fn missing(
        &self,
        mut verdict: DoubtVerdict,
        absent: &[&DoubtfulMember],
        partial: bool,
        may_be_listed: bool,
    ) -> Result<(), Halt> {
        let Self {
            ctx,
            unit,
            loaded,
            doubt,
            ..
        } = self;
        let (revoked, rest): (Vec<&DoubtfulMember>, Vec<&DoubtfulMember>) =
            absent.iter().partition(|member| member.revocation.is_some());
        let seen = Absence {
            looks: doubt.looks,
            since_first: doubt.since_pair,
            since_last: doubt.since_last,
            may_be_listed,
            repeatable: !partial && revoked.is_empty() && doubt.encoder == ENCODER_VERSION,
            revoked: !revoked.is_empty(),
            over: loaded.job.expires_at.is_some_and(|at| at <= Utc::now()),
            exhausted: unit.attempts >= ctx.retry.max_attempts,
        };
        let step = after_absence(&seen, &ctx.timing);
        if let Step::Look(after) = step {
            verdict.next = DoubtNext::Look { after, absent: true };
            return self.settle(verdict).await;
        }
        ctx.metrics.operation(Operation::ReconcileAbsent);
        if let Step::Wait(after) = step {
            verdict.next = DoubtNext::Look { after, absent: true };
            let settled = self.settle(verdict).await;
            if doubt.shared {
                settled?;
                return super::coalesce::repeat(ctx, unit, self.app, ctx.timing.repeat_until()).await;
            }
            return settled;
        }
        if step == Step::Expire {
            self.end_absent(
                &mut verdict,
                absent,
                MessageState::Expired,
                "expired",
                "its time was over",
            );
            verdict.next = DoubtNext::End;
            return self.settle(verdict).await;
        }
        if !revoked.is_empty() {
            verdict.cancelled_by = revoked.iter().find_map(|member| member.revocation.clone());
            self.end_absent(
                &mut verdict,
                &revoked,
                MessageState::Cancelled,
                "cancelled",
                "revoked before it was sent",
            );
            if rest.is_empty() {
                verdict.next = DoubtNext::End;
                return self.settle(verdict).await;
            }
        }
        if step == Step::GiveUp {
            let message = format!(
                "after {} attempts: the answers were lost, and the history shows no message",
                unit.attempts
            );
            self.end_absent(&mut verdict, &rest, MessageState::Failed, EXHAUSTED, &message);
            self.bury(&mut verdict, EXHAUSTED, &message);
            verdict.next = DoubtNext::End;
            return self.settle(verdict).await;
        }
        tracing::info!(job.id = %unit.job, part = unit.part, members = rest.len(),
                       "the history doesn't show a message whose answer was lost: it is sent again");
        verdict.note = Some(self.note(
            "absent",
            "neither side of the history shows the message: it is sent again",
        ));
        verdict.resend = rest.iter().map(|member| member.member.idx).collect();
        verdict.resend_is_first = !may_be_listed || doubt.since_last >= ctx.timing.listed();
        let command = if self.batch {
            Command::BatchSendMsg
        } else {
            Command::SendMsg
        };
        verdict.next = DoubtNext::Deliver {
            command,
            after: Duration::ZERO,
        };
        self.settle(verdict).await
    }

    async fn cannot_tell(&self, members: &[&DoubtfulMember], reason: &str) -> Result<(), Halt> {
        self.cannot_tell_rest(open_verdict(), members, reason).await
    }

    /// The history can't tell: `on_unknown` decides.
    async fn cannot_tell_rest(
        &self,
        mut verdict: DoubtVerdict,
        members: &[&DoubtfulMember],
        reason: &str,
    ) -> Result<(), Halt> {
        let Self {
            ctx,
            unit,
            loaded,
            doubt,
            ..
        } = self;
        ctx.metrics.operation(Operation::ReconcileUnknown);
        verdict.note = Some(self.note("cannot-tell", reason));
        let message = format!("the answer to the call was lost, and {reason}");
        match loaded.job.on_unknown {
            OnUnknown::Reconcile => {
                self.end_absent(&mut verdict, members, MessageState::Unknown, OUTCOME_UNKNOWN, &message);
                verdict.next = DoubtNext::End;
            }
            OnUnknown::Fail => {
                self.end_absent(&mut verdict, members, MessageState::Failed, OUTCOME_UNKNOWN, &message);
                self.bury(&mut verdict, OUTCOME_UNKNOWN, &message);
                verdict.next = DoubtNext::End;
            }
            OnUnknown::Resend if unit.attempts >= ctx.retry.max_attempts => {
                self.end_absent(&mut verdict, members, MessageState::Unknown, OUTCOME_UNKNOWN, &message);
                verdict.next = DoubtNext::End;
            }
            OnUnknown::Resend => {
                // Sooner than its claim lets it pass it would only come back.
                let dropped = doubt.encoder == ENCODER_VERSION && doubt.since_pair < ctx.timing.repeat_until();
                let from = if dropped {
                    ctx.timing.quiet()
                } else {
                    ctx.timing.quiet().max(ctx.timing.listed())
                };
                if doubt.since_last < from {
                    verdict.next = DoubtNext::Look {
                        after: from.saturating_sub(doubt.since_last),
                        absent: false,
                    };
                } else {
                    verdict.resend = members.iter().map(|member| member.member.idx).collect();
                    let command = if self.batch {
                        Command::BatchSendMsg
                    } else {
                        Command::SendMsg
                    };
                    verdict.next = DoubtNext::Deliver {
                        command,
                        after: Duration::ZERO,
                    };
                }
            }
        }
        self.settle(verdict).await
    }

    fn note(&self, code: &str, message: &str) -> AttemptNote {
        AttemptNote {
            attempt: self.doubt.attempts,
            command: Command::GetRoamMsg,
            code: code.to_owned(),
            class: "reconciled",
            message: message.to_owned(),
            url_random: None,
        }
    }

    /// Ends members, with their event.
    fn end_absent(
        &self,
        verdict: &mut DoubtVerdict,
        members: &[&DoubtfulMember],
        state: MessageState,
        code: &str,
        message: &str,
    ) {
        let quiet = matches!(state, MessageState::Cancelled | MessageState::Expired);
        verdict.ended.extend(members.iter().map(|member| MemberFailure {
            idx: member.member.idx,
            state,
            code: if quiet { String::new() } else { code.to_owned() },
            message: if quiet { String::new() } else { message.to_owned() },
        }));
        let Some(outcome) = super::single::end_outcome(state, Outcome::Sent) else {
            return;
        };
        let job_type = self.loaded.job.job_type();
        self.ctx.metrics.outcome(job_type, outcome, members.len() as u64);
        let error = (!quiet).then(|| (code.to_owned(), message.to_owned()));
        let revocation = (state == MessageState::Cancelled)
            .then(|| verdict.cancelled_by.as_deref().and_then(|id| JobId::parse(id).ok()))
            .flatten();
        let to = members.iter().map(|member| member.member.to.as_str());
        let facts = if self.batch {
            Facts {
                sent: Some(Vec::new()),
                failed: Some(all_failed(to, code, message)),
                attempts: self.doubt.attempts,
                error,
                revocation,
                ..Facts::default()
            }
        } else {
            Facts {
                to: members
                    .first()
                    .and_then(|member| AccountId::parse(&member.member.to).ok()),
                attempts: self.doubt.attempts,
                error,
                revocation,
                ..Facts::default()
            }
        };
        verdict
            .events
            .push(self.build(members.first().map_or(0, |member| member.member.idx), outcome, facts));
    }

    fn found_event(&self, found: &[Found]) -> crate::store::OutboxEvent {
        let first = found.first();
        let to_of = |idx: i32| {
            self.doubt
                .members
                .iter()
                .find(|member| member.member.idx == idx)
                .and_then(|member| AccountId::parse(&member.member.to).ok())
        };
        let facts = Facts {
            to: if self.batch {
                None
            } else {
                first.and_then(|found| to_of(found.idx))
            },
            sent: self
                .batch
                .then(|| found.iter().filter_map(|found| to_of(found.idx)).collect()),
            failed: self.batch.then(Vec::new),
            msg_key: first.map(|found| found.msg_key.clone()),
            msg_time: first.and_then(|found| found.msg_time),
            attempts: self.doubt.attempts,
            ..Facts::default()
        };
        self.build(first.map_or(0, |found| found.idx), Outcome::Sent, facts)
    }

    /// An event about members that begin with `first`: a call's members may be found in several looks.
    fn build(&self, first: i32, outcome: Outcome, facts: Facts) -> crate::store::OutboxEvent {
        let about =
            about(&self.loaded.job, AccountId::parse(&self.doubt.sender).ok()).replying(&self.loaded.properties);
        let call = if self.batch {
            format!("{}/{first}", part_call(self.unit.part, self.doubt.generation))
        } else {
            single_call(self.doubt.generation)
        };
        self.ctx.events.build(&about, &call, outcome, facts)
    }

    /// A failure of the job as a whole: a single's letter at once, a batch's when its last part has ended.
    fn bury(&self, verdict: &mut DoubtVerdict, code: &str, message: &str) {
        if !needs_letter(code, self.ctx.recipient_letters) {
            return;
        }
        if self.batch {
            verdict.job_error = Some((code.to_owned(), message.to_owned()));
            return;
        }
        self.ctx.metrics.dead_letter(self.unit.lane, code);
        verdict.letter = Some(OutboxLetter {
            job: self.unit.job.clone(),
            code: code.to_owned(),
            message: message.to_owned(),
            attempts: self.doubt.attempts,
            generation: self.doubt.generation,
        });
    }

    async fn settle(&self, verdict: DoubtVerdict) -> Result<(), Halt> {
        let Self { ctx, unit, doubt, .. } = self;
        super::fault::point("reconcile.verdict.before").await;
        ctx.persist(|| ctx.store.settle_doubt(unit, doubt, &verdict)).await?;
        super::fault::point("reconcile.verdict.after").await;
        ctx.outbox.notify_one();
        ctx.due.notify_one();
        Ok(())
    }
}

/// A verdict that decides nothing yet.
pub(super) const fn open_verdict() -> DoubtVerdict {
    DoubtVerdict {
        found: Vec::new(),
        ended: Vec::new(),
        cancelled_by: None,
        resend: Vec::new(),
        resend_is_first: false,
        next: DoubtNext::End,
        job_error: None,
        note: None,
        events: Vec::new(),
        letter: None,
    }
}
