//! On a fresh database each: every key on record of a message that a revocation covers is revoked, whenever it came.

use std::time::Duration;

use chrono::Utc;
use sqlx::PgPool;
use uuid::Uuid;

use super::{
    ClaimVerdict, NewClaim, NewRevocation, OutboxEvent, Recorded, RevocableMessage, RevocationAdded, RevokeOutcome,
    Room, SentOutcome, Store, WorkKind, WorkUnit,
};
use crate::domain::{AccountId, AppName, Command, GroupName, JobId, Lane, MessageState, job::RevokeTarget};

fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

fn claim(job: &str, token: Uuid) -> NewClaim {
    NewClaim {
        id: id(job),
        digest: [0; 32],
        job_type: 0,
        app: AppName::default_app(),
        group: Some(GroupName::parse("campaign").unwrap()),
        lane: Lane::Normal,
        from: AccountId::parse("administrator").unwrap(),
        to: AccountId::parse("alice").unwrap(),
        send_at: None,
        expires_at: None,
        on_unknown: 0,
        seq: 1,
        random: 2,
        encoder: 1,
        token,
        expired: false,
        online_only: false,
    }
}

fn event(job: &JobId) -> OutboxEvent {
    OutboxEvent {
        job: job.clone(),
        event_id: format!("revoked/{job}"),
        routing_key: "send.revoked".to_owned(),
        body: b"{}".to_vec(),
        reply_to: None,
        correlation_id: None,
    }
}

/// A job of one message, with what a test does to it.
struct Case {
    store: Store,
    job: JobId,
    token: Uuid,
    created_at: chrono::DateTime<Utc>,
}

impl Case {
    /// Claimed: its call may be under way.
    async fn claimed(pool: PgPool) -> Self {
        let store = Store::of_pool(pool);
        let token = Uuid::new_v4();
        let verdicts = store.claim_new(false, &[claim("job", token)]).await.unwrap();
        let ClaimVerdict::Claimed { created_at } = verdicts[0] else {
            panic!("not claimed: {verdicts:?}");
        };
        Self {
            store,
            job: id("job"),
            token,
            created_at,
        }
    }

    /// The answer of a call that was made under a claim.
    async fn answered(&self, token: Uuid, key: &str) -> Recorded {
        let outcome = SentOutcome {
            id: self.job.clone(),
            created_at: self.created_at,
            app: AppName::default_app(),
            group: Some(GroupName::parse("campaign").unwrap()),
            token,
            msg_key: key.to_owned(),
            msg_time: Some(100),
        };
        self.store.record_sent(false, &[outcome]).await.unwrap().remove(0)
    }

    /// Puts the message into another state, as the ways of a whole worker do.
    async fn becomes(&self, state: MessageState) {
        sqlx::query("UPDATE messages SET state = $1, token = NULL WHERE job_id = 'job'")
            .bind(state.number())
            .execute(self.store.pool())
            .await
            .unwrap();
    }

    /// A revocation with its whole fan-out.
    async fn revoked_by(&self, revocation: &str, target: &RevokeTarget) {
        let (revocation, app) = (id(revocation), AppName::default_app());
        let tombstone = NewRevocation {
            id: &revocation,
            digest: [1; 32],
            app: &app,
            group: None,
            lane: Lane::High,
            target,
            reply_to: None,
            correlation_id: None,
        };
        assert_eq!(
            self.store.add_revocation(&tombstone).await.unwrap(),
            RevocationAdded::Added
        );
        let fan_out = self
            .take()
            .await
            .into_iter()
            .find(|unit| unit.kind == WorkKind::FanOut)
            .unwrap();
        while !self
            .store
            .fan_out(&fan_out, |cancelled| event(&cancelled.job))
            .await
            .unwrap()
        {}
    }

    async fn take(&self) -> Vec<WorkUnit> {
        let rooms = Lane::ALL.map(|lane| Room {
            command: Command::MsgWithdraw,
            app: AppName::default_app(),
            lane,
            rows: 10,
        });
        self.store.take_work(&rooms, Duration::from_mins(1)).await.unwrap()
    }

    /// Takes the revocation's row and reads what it needs.
    async fn in_hand(&self) -> Option<RevocableMessage> {
        self.store.revocable(&self.take().await).await.unwrap().pop()
    }

    /// The calls for what is in hand have been made, all of them with success.
    async fn withdrawn(&self, message: RevocableMessage) {
        let outcome = RevokeOutcome {
            event: event(&message.unit.job),
            unit: message.unit,
            withdrawn: message.keys,
            refused: Vec::new(),
            error: None,
        };
        self.store.record_revoked(&[outcome]).await.unwrap();
    }

    async fn state(&self) -> MessageState {
        let state: i16 = sqlx::query_scalar("SELECT state FROM messages WHERE job_id = 'job'")
            .fetch_one(self.store.pool())
            .await
            .unwrap();
        super::claims::message_state(state, &self.job).unwrap()
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.store.pool()).await.unwrap()
    }

    /// Further keys on record that nobody has withdrawn.
    async fn keys_left(&self) -> i64 {
        self.count("SELECT count(*) FROM message_keys WHERE revoked_at IS NULL")
            .await
    }

    async fn events(&self) -> i64 {
        self.count("SELECT count(*) FROM outbox").await
    }
}

fn by_job() -> RevokeTarget {
    RevokeTarget::Job {
        job: id("job"),
        to: None,
    }
}

#[sqlx::test]
async fn a_second_key_that_comes_after_its_message_was_revoked_is_revoked_too(pool: PgPool) {
    let case = Case::claimed(pool).await;
    case.answered(case.token, "first").await;
    case.revoked_by("r", &by_job()).await;
    let message = case.in_hand().await.unwrap();
    assert_eq!(message.keys, ["first"]);
    case.withdrawn(message).await;
    assert_eq!(case.state().await, MessageState::Revoked);
    assert!(case.in_hand().await.is_none());

    let late = case.answered(Uuid::new_v4(), "second").await;
    assert_eq!(
        late,
        Recorded::Superseded {
            state: MessageState::Revoked
        }
    );
    assert_eq!(case.keys_left().await, 1);
    let message = case.in_hand().await.unwrap();
    assert_eq!(
        (message.keys.as_slice(), message.state),
        (["second".to_owned()].as_slice(), MessageState::Revoked)
    );
    case.withdrawn(message).await;
    assert_eq!(case.keys_left().await, 0);
    assert!(case.in_hand().await.is_none());
    assert_eq!(case.events().await, 1, "it was told once that the message is revoked");
}

#[sqlx::test]
async fn a_key_that_comes_while_its_message_is_being_revoked_is_neither_marked_nor_forgotten(pool: PgPool) {
    let case = Case::claimed(pool).await;
    case.answered(case.token, "first").await;
    case.revoked_by("r", &by_job()).await;
    let message = case.in_hand().await.unwrap();
    case.answered(Uuid::new_v4(), "second").await;
    case.withdrawn(message).await;
    assert_eq!(case.state().await, MessageState::Revoked);
    assert_eq!(case.keys_left().await, 1, "nobody has withdrawn it");
    let message = case.in_hand().await.unwrap();
    assert_eq!(message.keys, ["second"]);
    case.withdrawn(message).await;
    assert_eq!(case.keys_left().await, 0);
}

#[sqlx::test]
async fn a_message_is_not_revoked_by_withdrawing_another_key_than_its_own(pool: PgPool) {
    let case = Case::claimed(pool).await;
    case.revoked_by("r", &by_job()).await;
    // A late answer of an older claim, while the present one's call is under way.
    case.answered(Uuid::new_v4(), "older").await;
    let message = case.in_hand().await.unwrap();
    assert_eq!(message.keys, ["older"]);
    case.answered(case.token, "own").await;
    case.withdrawn(message).await;
    assert_eq!((case.state().await, case.events().await), (MessageState::Sent, 0));
    let message = case.in_hand().await.unwrap();
    assert_eq!(message.keys, ["own"]);
    case.withdrawn(message).await;
    assert_eq!((case.state().await, case.events().await), (MessageState::Revoked, 1));
    assert!(case.in_hand().await.is_none());
}

#[sqlx::test]
async fn a_late_key_of_a_message_that_failed_is_revoked_with_its_group_before_or_after(pool: PgPool) {
    let campaign = RevokeTarget::Group(GroupName::parse("campaign").unwrap());
    for tombstone_first in [true, false] {
        let case = Case::claimed(pool.clone()).await;
        case.becomes(MessageState::Failed).await;
        if tombstone_first {
            case.revoked_by("r", &campaign).await;
            assert!(case.in_hand().await.is_none());
            case.answered(case.token, "late").await;
        } else {
            case.answered(case.token, "late").await;
            assert!(case.in_hand().await.is_none(), "nobody revokes it");
            case.revoked_by("r", &campaign).await;
        }
        let message = case.in_hand().await.unwrap();
        assert_eq!(message.keys, ["late"]);
        case.withdrawn(message).await;
        assert_eq!((case.keys_left().await, case.state().await), (0, MessageState::Failed));
        sqlx::query("TRUNCATE jobs, messages, message_keys, revocations, work, outbox")
            .execute(&pool)
            .await
            .unwrap();
    }
}

#[sqlx::test]
async fn a_key_that_the_service_refuses_to_withdraw_is_tried_once(pool: PgPool) {
    let case = Case::claimed(pool).await;
    case.answered(case.token, "own").await;
    case.answered(Uuid::new_v4(), "second").await;
    case.revoked_by("r", &by_job()).await;
    let message = case.in_hand().await.unwrap();
    assert_eq!(message.keys, ["own", "second"]);
    let outcome = RevokeOutcome {
        event: event(&message.unit.job),
        unit: message.unit,
        withdrawn: vec!["own".to_owned()],
        refused: vec!["second".to_owned()],
        error: Some("im-20022: no such message".to_owned()),
    };
    case.store.record_revoked(&[outcome]).await.unwrap();
    assert_eq!((case.state().await, case.keys_left().await), (MessageState::Sent, 1));
    assert!(case.in_hand().await.is_none());
}

/// Found by the chaos run: a claim that ended its job committed, its answer was lost, and when it was tried again it took
/// itself for a producer's repeat, of which nothing is told.
#[sqlx::test]
async fn a_claim_whose_answer_was_lost_says_again_what_it_ended(pool: PgPool) {
    let case = Case::claimed(pool).await;
    case.revoked_by("tombstone", &RevokeTarget::Group(GroupName::parse("campaign").unwrap()))
        .await;
    let (cancelled, expired) = (
        claim("covered", Uuid::new_v4()),
        NewClaim {
            group: None,
            expired: true,
            ..claim("too-late", Uuid::new_v4())
        },
    );
    let claims = [cancelled.clone(), expired.clone(), claim("job", case.token)];
    for answer in ["the first", "that of the same claim again"] {
        let verdicts = case.store.claim_new(false, &claims).await.unwrap();
        assert!(
            matches!(&verdicts[..], [
                ClaimVerdict::Cancelled { revocation },
                ClaimVerdict::Expired,
                ClaimVerdict::Claimed { created_at },
            ] if *revocation == id("tombstone") && *created_at == case.created_at),
            "{answer}: {verdicts:?}"
        );
    }
    // Another delivery's claim of the same id is no repeat of it.
    for other in [cancelled, expired] {
        let other = NewClaim {
            token: Uuid::new_v4(),
            ..other
        };
        let verdicts = case.store.claim_new(false, &[other]).await.unwrap();
        assert!(matches!(verdicts[..], [ClaimVerdict::Existing(_)]), "{verdicts:?}");
    }
}

/// Singles and a batch of 1,300 in one campaign, under names that could be taken for each other's: one fan-out marks all of
/// them, and what is recorded of some is recorded of exactly those.
#[sqlx::test]
async fn a_campaign_of_long_and_short_jobs_is_revoked_message_by_message(pool: PgPool) {
    let store = Store::of_pool(pool.clone());
    let singles = ["a", "a/1", "a/1/1", "Z", "é"].map(id);
    let claims: Vec<NewClaim> = singles.iter().map(|job| claim(job.as_str(), Uuid::new_v4())).collect();
    store.claim_new(false, &claims).await.unwrap();
    let (batch, app, group) = (
        id("a/12"),
        AppName::default_app(),
        GroupName::parse("campaign").unwrap(),
    );
    let to: Vec<AccountId> = (0..1_300).map(|n| AccountId::parse(format!("u{n}")).unwrap()).collect();
    let parcel = super::Parcel {
        body: b"{}".to_vec(),
        properties: Vec::new(),
        queue: "q".to_owned(),
    };
    let handover = super::Handover {
        digest: [2; 32],
        group: Some(&group),
        ..super::Handover::of_batch(&batch, &app, &to, &parcel)
    };
    store.hand_over(&handover).await.unwrap();
    // All but the last 50 of the batch are sent; all recipients of a call have one key.
    sqlx::query(
        "UPDATE messages SET state = 3, msg_key = CASE WHEN job_id = 'a/12' THEN 'shared' ELSE job_id || ':key' END
                 WHERE idx < 1250",
    )
    .execute(&pool)
    .await
    .unwrap();
    let case = Case {
        store,
        job: id("a"),
        token: Uuid::nil(),
        created_at: Utc::now(),
    };
    case.revoked_by("r", &RevokeTarget::Group(group.clone())).await;
    assert_eq!(
        case.count("SELECT count(*) FROM messages WHERE revoke_state = 1").await,
        5 + 1_250
    );
    assert_eq!(
        case.count("SELECT count(*) FROM messages WHERE state = 5 AND revoke_id = 'r'")
            .await,
        50
    );
    assert_eq!(case.count("SELECT count(*) FROM work WHERE kind = 1").await, 5 + 1_250);

    let rooms = Lane::ALL.map(|lane| Room {
        command: Command::MsgWithdraw,
        app: AppName::default_app(),
        lane,
        rows: 2_000,
    });
    let units = case.store.take_work(&rooms, Duration::from_mins(1)).await.unwrap();
    let messages = case.store.revocable(&units).await.unwrap();
    assert_eq!(messages.len(), 5 + 1_250);
    // Every second of the batch and two singles have been withdrawn, one single is refused, the others are under way.
    let outcomes: Vec<RevokeOutcome> = messages
        .into_iter()
        .filter(|message| match message.unit.job.as_str() {
            "a/12" => message.unit.part % 2 == 0,
            job => ["a", "a/1", "é"].contains(&job),
        })
        .map(|message| {
            let (withdrawn, refused, error) = if message.unit.job.as_str() == "a/1" {
                (Vec::new(), message.keys, Some("im-20022: no such message".to_owned()))
            } else {
                (message.keys, Vec::new(), None)
            };
            RevokeOutcome {
                event: event(&message.unit.job),
                unit: message.unit,
                withdrawn,
                refused,
                error,
            }
        })
        .collect();
    assert_eq!(outcomes.len(), 3 + 625);
    case.store.record_revoked(&outcomes).await.unwrap();
    let wrong = "SELECT count(*) FROM messages
                 CROSS JOIN LATERAL (SELECT CASE WHEN job_id = 'a/12' THEN idx % 2 = 0 ELSE job_id IN ('a', 'é') END AS gone) x
                 WHERE idx < 1250 AND (state <> CASE WHEN gone THEN 7 ELSE 3 END
                       OR revoke_state <> CASE WHEN gone THEN 2 WHEN job_id = 'a/1' THEN 3 ELSE 1 END
                       OR revoke_error IS DISTINCT FROM CASE WHEN job_id = 'a/1' THEN 'im-20022: no such message' END)";
    assert_eq!(case.count(wrong).await, 0);
    assert_eq!(case.count("SELECT count(*) FROM work WHERE kind = 1").await, 2 + 625);
    let told = "SELECT count(*) FROM outbox WHERE event_id LIKE 'revoked/%'";
    // 628 of calls, and one event of the 50 that were cancelled.
    assert_eq!(case.count(told).await, 3 + 625 + 1);
}
