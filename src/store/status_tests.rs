//! On a fresh database each: what `status` says of rows that the worker writes.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::{After, MessagePage, Store};
use crate::domain::{
    GroupName, JobId,
    status::{GroupStatus, JobState, JobStatus, MessageState},
};

fn id(text: &str) -> JobId {
    JobId::parse(text).unwrap()
}

/// A job's row: type by its number, state 0 writing, 1 ready, 2 closed.
async fn job(pool: &PgPool, name: &str, job_type: i16, group: Option<&str>, state: i16, total: i32) {
    sqlx::query(
        "INSERT INTO jobs (id, digest, type, app, group_name, lane, owner, state, total)
         VALUES ($1, '\\x00', $2, 'default', $3, 1, 1, $4, $5)",
    )
    .bind(name)
    .bind(job_type)
    .bind(group)
    .bind(state)
    .bind(total)
    .execute(pool)
    .await
    .unwrap();
}

/// A message's row in a state, with its place in the revocation.
async fn message(pool: &PgPool, job: &str, idx: i32, to: &str, state: i16, revoke: (Option<&str>, i16)) {
    sqlx::query(
        "INSERT INTO messages (created_at, job_id, idx, from_account, to_account, state, attempts, msg_key, sent_at,
                               error_code, error_message, revoke_id, revoke_state, revoke_error)
         SELECT created_at, id, $2, 'administrator', $3, $4, 1, CASE WHEN $4 IN (3, 7) THEN '1_2_' || $2 END,
                CASE WHEN $4 IN (3, 7) THEN now() END, CASE WHEN $4 = 4 THEN 'im-90012' END,
                CASE WHEN $4 = 4 THEN 'no such account' END, $5, $6, CASE WHEN $6 = 3 THEN 'im-20022' END
         FROM jobs WHERE id = $1",
    )
    .bind(job)
    .bind(idx)
    .bind(to)
    .bind(state)
    .bind(revoke.0)
    .bind(revoke.1)
    .execute(pool)
    .await
    .unwrap();
}

async fn tombstone(pool: &PgPool, name: &str, columns: &str, values: &str, fanned_out: bool) {
    job(pool, name, 2, None, 1, 0).await;
    let sql = format!(
        "INSERT INTO revocations (id, app, lane, fanned_out, {columns}) VALUES ('{name}', 'default', 0, {fanned_out}, {values})"
    );
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

async fn status(pool: &PgPool, name: &str) -> JobStatus {
    let store = Store::of_pool(pool.clone());
    store
        .job_status(&id(name), &MessagePage::default())
        .await
        .unwrap()
        .unwrap()
}

async fn group(pool: &PgPool, name: &str) -> Option<GroupStatus> {
    Store::of_pool(pool.clone())
        .group_status(&GroupName::parse(name).unwrap())
        .await
        .unwrap()
}

/// `total pending sent failed cancelled expired revoked unknown`.
fn row(status: &JobStatus) -> [u64; 8] {
    let r = &status.recipients;
    [
        r.total,
        r.pending,
        r.sent,
        r.failed,
        r.cancelled,
        r.expired,
        r.revoked,
        r.unknown,
    ]
}

#[sqlx::test]
async fn an_unknown_job_or_group_has_no_status(pool: PgPool) {
    tombstone(&pool, "r", "target_job", "'never-arrived'", false).await;
    let store = Store::of_pool(pool.clone());
    let page = MessagePage::default();
    assert!(store.job_status(&id("nobody"), &page).await.unwrap().is_none());
    assert!(store.job_status(&id("never-arrived"), &page).await.unwrap().is_none());
    assert!(group(&pool, "nobody").await.is_none());
}

#[sqlx::test]
async fn each_recipient_is_in_exactly_one_state_and_they_add_up(pool: PgPool) {
    job(&pool, "b", 1, Some("g"), 1, 10).await;
    for state in 0..10_i16 {
        message(&pool, "b", i32::from(state), &format!("u{state}"), state, (None, 0)).await;
    }
    let status = status(&pool, "b").await;
    assert_eq!(row(&status), [10, 3, 1, 1, 1, 1, 1, 1]);
    assert_eq!(status.recipients.suppressed, 1);
    assert_eq!(status.state, JobState::Pending);
    assert_eq!(status.messages.len(), 10);
    assert_eq!(status.messages[4].error.as_ref().unwrap().code, "im-90012");
    assert_eq!(status.messages[3].msg_key.as_ref().unwrap().as_str(), "1_2_3");
    assert_eq!(group(&pool, "g").await.unwrap().recipients, status.recipients);
}

#[sqlx::test]
async fn a_job_of_one_state_has_it_and_of_several_is_mixed(pool: PgPool) {
    job(&pool, "one", 0, None, 1, 1).await;
    message(&pool, "one", 0, "u", 3, (None, 0)).await;
    assert_eq!(status(&pool, "one").await.state, JobState::Sent);
    job(&pool, "two", 1, None, 2, 2).await;
    message(&pool, "two", 0, "u", 3, (None, 0)).await;
    message(&pool, "two", 1, "v", 4, (None, 0)).await;
    assert_eq!(status(&pool, "two").await.state, JobState::Mixed);
}

#[sqlx::test]
async fn recipients_that_are_not_written_yet_are_pending(pool: PgPool) {
    job(&pool, "b", 1, Some("g"), 0, 5_000).await;
    message(&pool, "b", 0, "u", 0, (None, 0)).await;
    let status = status(&pool, "b").await;
    assert_eq!(row(&status)[..2], [5_000, 5_000]);
    assert_eq!(status.state, JobState::Pending);
    let group = group(&pool, "g").await.unwrap();
    assert_eq!(
        (group.jobs, group.recipients.total, group.recipients.pending),
        (1, 5_000, 5_000)
    );
}

#[sqlx::test]
async fn a_group_sums_its_sending_jobs_only(pool: PgPool) {
    for (name, kind) in [("s", 0), ("b", 1), ("i", 3)] {
        job(&pool, name, kind, Some("g"), 1, 1).await;
        message(&pool, name, 0, "u", 3, (None, 0)).await;
    }
    job(&pool, "r", 2, Some("g"), 1, 0).await;
    job(&pool, "m", 4, Some("g"), 2, 0).await;
    let group = group(&pool, "g").await.unwrap();
    assert_eq!((group.jobs, group.recipients.total, group.recipients.sent), (3, 3, 3));
}

#[sqlx::test]
async fn a_job_without_recipients_is_pending_done_or_failed(pool: PgPool) {
    job(&pool, "open", 4, None, 1, 0).await;
    assert_eq!(status(&pool, "open").await.state, JobState::Pending);
    job(&pool, "done", 5, None, 2, 0).await;
    let done = status(&pool, "done").await;
    assert_eq!((done.state, row(&done)), (JobState::Done, [0; 8]));
    job(&pool, "bad", 6, None, 2, 0).await;
    sqlx::query("UPDATE jobs SET error_code = 'im-90001' WHERE id = 'bad'")
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(status(&pool, "bad").await.state, JobState::Failed);
}

#[sqlx::test]
async fn pages_follow_each_other_by_the_last_recipient_or_by_number(pool: PgPool) {
    job(&pool, "b", 1, None, 1, 7).await;
    for idx in 0..7 {
        message(
            &pool,
            "b",
            idx,
            &format!("{}", 100 + idx),
            if idx % 2 == 0 { 3 } else { 4 },
            (None, 0),
        )
        .await;
    }
    let store = Store::of_pool(pool);
    let page = async |limit: u32, after: Option<&str>, state: Option<MessageState>| -> Vec<String> {
        let page = MessagePage {
            limit,
            after: after.map(After::parse),
            state,
        };
        let status = store.job_status(&id("b"), &page).await.unwrap().unwrap();
        assert_eq!(status.recipients.total, 7, "the counts are those of the whole job");
        status.messages.iter().map(|message| message.to.to_string()).collect()
    };
    assert_eq!(page(3, None, None).await, ["100", "101", "102"]);
    assert_eq!(page(3, Some("102"), None).await, ["103", "104", "105"]);
    assert_eq!(page(3, Some("6"), None).await, ["106"]);
    assert_eq!(page(9, Some("nobody"), None).await, [""; 0]);
    assert_eq!(page(2, Some("100"), Some(MessageState::Sent)).await, ["102", "104"]);
    assert_eq!(page(9, Some("1"), Some(MessageState::Failed)).await, ["103", "105"]);
    assert_eq!(page(0, None, None).await, [""; 0]);
}

#[sqlx::test]
async fn a_revoke_jobs_recipients_are_its_targets(pool: PgPool) {
    job(&pool, "b", 1, None, 1, 7).await;
    let wanted = (Some("r"), 1);
    message(&pool, "b", 0, "waiting", 3, wanted).await;
    message(&pool, "b", 1, "revoked", 7, (Some("r"), 2)).await;
    message(&pool, "b", 2, "cancelled", 5, (Some("r"), 0)).await;
    message(&pool, "b", 3, "refused", 3, (Some("r"), 3)).await;
    message(&pool, "b", 4, "never-sent", 4, (None, 0)).await;
    message(&pool, "b", 5, "expired", 6, (None, 0)).await;
    message(&pool, "b", 6, "in-flight", 1, (Some("r"), 0)).await;
    tombstone(&pool, "r", "target_job", "'b'", true).await;
    let revocation = status(&pool, "r").await;
    assert_eq!(row(&revocation), [5, 2, 0, 1, 1, 0, 1, 0]);
    assert_eq!(revocation.state, JobState::Pending);
    let refused = revocation
        .messages
        .iter()
        .find(|message| message.to.as_str() == "refused")
        .unwrap();
    assert_eq!(refused.state, MessageState::Failed);
    assert_eq!(refused.error.as_ref().unwrap().code, "im-20022");
    // The job itself counts the one whose revocation failed as sent.
    assert_eq!(row(&status(&pool, "b").await), [7, 1, 2, 1, 1, 1, 1, 0]);
}

#[sqlx::test]
async fn a_second_revocation_of_the_same_targets_succeeds_too(pool: PgPool) {
    job(&pool, "b", 1, Some("g"), 2, 1).await;
    message(&pool, "b", 0, "u", 7, (Some("first"), 2)).await;
    tombstone(&pool, "second", "target_group", "'g'", true).await;
    let second = status(&pool, "second").await;
    assert_eq!((second.state, row(&second)[6]), (JobState::Revoked, 1));
}

#[sqlx::test]
async fn a_revocation_of_some_recipients_has_only_those_as_targets(pool: PgPool) {
    job(&pool, "b", 1, None, 2, 3).await;
    for (idx, to) in ["a", "b", "c"].into_iter().enumerate() {
        message(&pool, "b", idx as i32, to, 7, (Some("r"), 2)).await;
    }
    tombstone(&pool, "r", "target_job, to_accounts", "'b', '{a,c}'", true).await;
    let revocation = status(&pool, "r").await;
    assert_eq!(revocation.recipients.total, 2);
    assert_eq!(
        revocation.messages.iter().map(|m| m.to.as_str()).collect::<Vec<_>>(),
        ["a", "c"]
    );
}

#[sqlx::test]
async fn a_revocation_is_pending_until_its_fan_out_is_done(pool: PgPool) {
    tombstone(&pool, "r", "target_group", "'g'", false).await;
    assert_eq!(status(&pool, "r").await.state, JobState::Pending);
    job(&pool, "b", 1, Some("g"), 1, 1).await;
    message(&pool, "b", 0, "u", 3, (None, 0)).await;
    assert_eq!(row(&status(&pool, "r").await)[..2], [1, 1]);
    sqlx::query("UPDATE revocations SET fanned_out = true")
        .execute(&pool)
        .await
        .unwrap();
    // Nobody wants it revoked, so it is no target: sent after the tombstone was lifted, say.
    let nothing = status(&pool, "r").await;
    assert_eq!((nothing.state, nothing.recipients.total), (JobState::Done, 0));
}

#[sqlx::test]
async fn a_raw_revocation_has_one_target_by_its_own_state_or_its_owners(pool: PgPool) {
    let target = "'administrator', 'u', '9_9_9'";
    tombstone(&pool, "r", "from_account, to_account, msg_key", target, true).await;
    for (raw, state) in [
        (0, JobState::Pending),
        (1, JobState::Pending),
        (2, JobState::Revoked),
        (3, JobState::Failed),
    ] {
        sqlx::query("UPDATE revocations SET raw_state = $1")
            .bind(raw as i16)
            .execute(&pool)
            .await
            .unwrap();
        let revocation = status(&pool, "r").await;
        assert_eq!((revocation.state, revocation.recipients.total), (state, 1));
        assert_eq!(revocation.messages[0].msg_key.as_ref().unwrap().as_str(), "9_9_9");
    }
    job(&pool, "s", 0, None, 1, 1).await;
    message(&pool, "s", 0, "v", 7, (Some("r2"), 2)).await;
    tombstone(
        &pool,
        "r2",
        "from_account, to_account, msg_key",
        "'administrator', 'v', '1_2_0'",
        true,
    )
    .await;
    let revocation = status(&pool, "r2").await;
    assert_eq!(revocation.state, JobState::Revoked);
    let sent_at: Option<DateTime<Utc>> = revocation.messages[0].sent_at;
    assert!(sent_at.is_some());
}
