//! On a fresh database each: what reconciliation released is repeated only while a repeat can't be a second message.

use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use super::{
    CallPair, Caller, CapRule, DoubtNext, DoubtVerdict, HandedOver, Handover, OutboxEvent, Parcel, RepeatRule, Room,
    SingleClaim, Store, WorkUnit,
};
use crate::domain::{AccountId, AppName, Command, JobId, Lane};

const RULE: RepeatRule = RepeatRule {
    dropped_for: Duration::from_secs(85),
    listed_after: Duration::from_mins(3),
};

/// What a claim gave.
#[derive(Debug, PartialEq, Eq)]
enum Claimed {
    Call(CallPair),
    Doubtful,
}

/// A job whose call is claimed, lost, looked for and released.
struct Job {
    store: Store,
    batch: bool,
}

impl Job {
    fn command(&self) -> Command {
        if self.batch {
            Command::BatchSendMsg
        } else {
            Command::SendMsg
        }
    }

    async fn handed_over(pool: &PgPool, batch: bool) -> Self {
        let this = Self {
            store: Store::of_pool(pool.clone()),
            batch,
        };
        let to = ["a", "b"].map(|to| AccountId::parse(to).unwrap());
        let parcel = Parcel {
            body: Vec::new(),
            properties: Vec::new(),
            queue: "q".to_owned(),
        };
        let (id, app) = (JobId::parse("job").unwrap(), AppName::default_app());
        let to = if batch { &to[..] } else { &to[..1] };
        let handover = Handover {
            job_type: i16::from(batch),
            command: this.command(),
            ..Handover::of_batch(&id, &app, to, &parcel)
        };
        assert_eq!(this.store.hand_over(&handover).await.unwrap(), HandedOver::Done);
        this
    }

    async fn take(&self) -> WorkUnit {
        let room = Room {
            command: self.command(),
            app: AppName::default_app(),
            lane: Lane::Bulk,
            rows: 1,
        };
        let units = self.store.take_work(&[room], Duration::from_mins(1)).await.unwrap();
        units.into_iter().next().unwrap()
    }

    /// Claims; a new pair would have another MsgRandom each time.
    async fn claim(&self, unit: &WorkUnit, encoder: i16) -> Claimed {
        let event = || OutboxEvent {
            job: JobId::parse("job").unwrap(),
            event_id: "event".to_owned(),
            routing_key: "send.suppressed".to_owned(),
            body: Vec::new(),
            reply_to: None,
            correlation_id: None,
        };
        let uncapped = CapRule {
            scopes: &[],
            event: &|_| event(),
        };
        let token = Uuid::new_v4();
        let new_pair = CallPair {
            seq: 1,
            random: token.as_fields().0,
        };
        if self.batch {
            let caller = Caller {
                token,
                sender: "administrator",
                encoder,
            };
            let claim = self
                .store
                .claim_part(unit, caller, RULE, uncapped, |_| new_pair, |_| event())
                .await
                .unwrap();
            assert!(!claim.lost);
            assert_eq!(claim.doubtful, claim.call.is_none());
            claim.call.map_or(Claimed::Doubtful, |call| Claimed::Call(call.pair))
        } else {
            let claim = self
                .store
                .claim_single(unit, token, encoder, RULE, uncapped, |_, _| new_pair, |_, _| event())
                .await
                .unwrap();
            match claim {
                SingleClaim::Call { pair, .. } => Claimed::Call(pair),
                SingleClaim::Doubtful => Claimed::Doubtful,
                other => panic!("{other:?}"),
            }
        }
    }

    /// A first call, lost, not seen and released; its pair, and the row for the next.
    async fn released(&self, surely_not_accepted: bool) -> (CallPair, WorkUnit) {
        let unit = self.take().await;
        let Claimed::Call(pair) = self.claim(&unit, 1).await else {
            panic!("nothing was called before")
        };
        let doubt = self.store.doubt(&unit, self.batch).await.unwrap().unwrap();
        let verdict = DoubtVerdict {
            found: Vec::new(),
            ended: Vec::new(),
            cancelled_by: None,
            resend: doubt.members.iter().map(|member| member.member.idx).collect(),
            resend_is_first: surely_not_accepted,
            next: DoubtNext::Deliver {
                command: self.command(),
                after: Duration::ZERO,
            },
            job_error: None,
            note: None,
            events: Vec::new(),
            letter: None,
        };
        assert!(self.store.settle_doubt(&unit, &doubt, &verdict).await.unwrap());
        (pair, self.take().await)
    }

    /// Moves the calls into the past.
    async fn wait(&self, seconds: f64) {
        for table in ["messages", "calls"] {
            let sql = format!(
                "UPDATE {table} SET first_call_at = first_call_at - make_interval(secs => $1),
                                    last_call_at = last_call_at - make_interval(secs => $1),
                                    pair_since = pair_since - make_interval(secs => $1)"
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(seconds)
                .execute(self.store.pool())
                .await
                .unwrap();
        }
    }

    /// What is in doubt: the pair and how many members.
    async fn doubt(&self, unit: &WorkUnit) -> Option<(CallPair, usize)> {
        let doubt = self.store.doubt(unit, self.batch).await.unwrap()?;
        Some((doubt.pair, doubt.members.len()))
    }
}

#[sqlx::test]
async fn a_single_that_waited_beyond_the_services_memory_goes_back_into_doubt(pool: PgPool) {
    let job = Job::handed_over(&pool, false).await;
    let (pair, unit) = job.released(false).await;
    job.wait(100.0).await;
    assert_eq!(job.claim(&unit, 1).await, Claimed::Doubtful);
    assert_eq!(job.doubt(&unit).await, Some((pair, 1)));
}

#[sqlx::test]
async fn a_part_that_waited_beyond_the_services_memory_goes_back_into_doubt(pool: PgPool) {
    let job = Job::handed_over(&pool, true).await;
    let (pair, unit) = job.released(false).await;
    job.wait(100.0).await;
    assert_eq!(job.claim(&unit, 1).await, Claimed::Doubtful);
    assert_eq!(job.doubt(&unit).await, Some((pair, 2)));
    // The next verdict releases it: it was in doubt under the token and the call that it had.
    let calls: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM messages m JOIN calls c USING (call_id) WHERE m.token = c.token AND m.state = 2",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(calls, 2);
}

#[sqlx::test]
async fn an_early_repeat_keeps_its_pair(pool: PgPool) {
    for batch in [false, true] {
        let job = Job::handed_over(&pool, batch).await;
        let (pair, unit) = job.released(false).await;
        job.wait(30.0).await;
        assert_eq!(job.claim(&unit, 1).await, Claimed::Call(pair), "batch: {batch}");
        clear(&pool).await;
    }
}

#[sqlx::test]
async fn an_early_repeat_whose_body_may_differ_goes_back_into_doubt(pool: PgPool) {
    for batch in [false, true] {
        let job = Job::handed_over(&pool, batch).await;
        let (_, unit) = job.released(false).await;
        job.wait(30.0).await;
        assert_eq!(job.claim(&unit, 2).await, Claimed::Doubtful, "batch: {batch}");
        clear(&pool).await;
    }
}

#[sqlx::test]
async fn what_was_surely_not_accepted_is_called_at_any_time(pool: PgPool) {
    for batch in [false, true] {
        let job = Job::handed_over(&pool, batch).await;
        let (pair, unit) = job.released(true).await;
        job.wait(100.0).await;
        assert_eq!(job.claim(&unit, 1).await, Claimed::Call(pair), "batch: {batch}");
        clear(&pool).await;
    }
}

#[sqlx::test]
async fn what_the_history_had_the_time_to_list_is_called(pool: PgPool) {
    for batch in [false, true] {
        let job = Job::handed_over(&pool, batch).await;
        let (pair, unit) = job.released(false).await;
        job.wait(200.0).await;
        assert_eq!(job.claim(&unit, 1).await, Claimed::Call(pair), "batch: {batch}");
        clear(&pool).await;
    }
}

async fn clear(pool: &PgPool) {
    for statement in [
        "DELETE FROM work",
        "DELETE FROM messages",
        "DELETE FROM calls",
        "DELETE FROM jobs",
    ] {
        sqlx::query(statement).execute(pool).await.unwrap();
    }
}
