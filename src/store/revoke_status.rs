//! Where a revoke job stands. Its recipients are its targets: the messages that it covers and that reached someone, or
//! that it stopped. What never was sent for another reason is no target.

use sqlx::{Postgres, Transaction};

use super::{
    StoreError,
    status::{After, CLOSED, JobRow, MessagePage, MessageRow, message_status, unsigned},
};
use crate::domain::{
    event::ErrorInfo,
    status::{Counts, MessageState, MessageStatus, Progress},
};

type Status = (Counts, Progress, Vec<MessageStatus>);

/// A tombstone, as far as a status needs it.
struct Tombstone {
    target_job: Option<String>,
    to_accounts: Option<Vec<String>>,
    target_group: Option<String>,
    raw: Option<Raw>,
    fanned_out: bool,
}

/// A target by its key.
struct Raw {
    from: String,
    to: String,
    msg_key: String,
    state: i16,
    error: Option<String>,
}

pub(super) async fn revoke_status(
    tx: &mut Transaction<'static, Postgres>,
    job: &JobRow,
    page: &MessagePage,
) -> Result<Status, StoreError> {
    let Some(tombstone) = tombstone(tx, &job.id).await? else {
        // Its row is older than its tombstone only while neither is committed, and younger never. A tombstone that named an
        // account which was erased is gone, and its job closed.
        let progress = match job.state {
            _ if job.failed => Progress::Failed,
            CLOSED => Progress::Done,
            _ => Progress::Open,
        };
        return Ok((Counts::default(), progress, Vec::new()));
    };
    if let Some(raw) = &tombstone.raw {
        return raw_status(tx, job, raw, page).await;
    }
    let counts = counts(tx, &tombstone).await?;
    let progress = if tombstone.fanned_out {
        Progress::Done
    } else {
        Progress::Open
    };
    Ok((counts, progress, messages(tx, job, &tombstone, page).await?))
}

async fn tombstone(tx: &mut Transaction<'static, Postgres>, id: &str) -> Result<Option<Tombstone>, StoreError> {
    let row = sqlx::query!(
        "SELECT target_job, to_accounts, target_group, from_account, to_account, msg_key, fanned_out, raw_state, raw_error
         FROM revocations WHERE id = $1",
        id
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a revocation", error))?;
    Ok(row.map(|row| Tombstone {
        target_job: row.target_job,
        to_accounts: row.to_accounts,
        target_group: row.target_group,
        raw: match (row.from_account, row.to_account, row.msg_key) {
            (Some(from), Some(to), Some(msg_key)) => Some(Raw {
                from,
                to,
                msg_key,
                state: row.raw_state,
                error: row.raw_error,
            }),
            _ => None,
        },
        fanned_out: row.fanned_out,
    }))
}

/// The states of targets, by number: what the statements below compute.
const PENDING: i32 = 0;
const REVOKED: i32 = 1;
const CANCELLED: i32 = 2;

fn target_state(number: i32) -> MessageState {
    match number {
        PENDING => MessageState::Pending,
        REVOKED => MessageState::Revoked,
        CANCELLED => MessageState::Cancelled,
        _ => MessageState::Failed,
    }
}

fn target_number(state: MessageState) -> Option<i32> {
    (0..4).find(|number| target_state(*number) == state)
}

async fn counts(tx: &mut Transaction<'static, Postgres>, tombstone: &Tombstone) -> Result<Counts, StoreError> {
    let rows = sqlx::query!(
        r#"
        SELECT t.target AS "target!", count(*) AS "count!"
        FROM (
            SELECT CASE WHEN m.state = 7 THEN 1
                        WHEN m.state = 5 THEN 2
                        WHEN m.state = 3 AND m.revoke_state = 3 THEN 3
                        -- Sent, or about to be: covered, and its call not done.
                        WHEN m.state IN (0, 1, 2, 3) AND (m.revoke_id IS NOT NULL OR NOT $4) THEN 0
                   END AS target
            FROM jobs j JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at
            WHERE (j.id = $1 OR j.group_name = $2) AND j.type IN (0, 1, 3)
              AND ($3::text[] IS NULL OR m.to_account = ANY ($3))
        ) t
        WHERE t.target IS NOT NULL
        GROUP BY t.target
        "#,
        tombstone.target_job,
        tombstone.target_group,
        tombstone.to_accounts.as_deref(),
        tombstone.fanned_out,
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("count a revocation's targets", error))?;
    Ok(rows
        .into_iter()
        .map(|row| (target_state(row.target), unsigned(row.count)))
        .collect())
}

async fn messages(
    tx: &mut Transaction<'static, Postgres>,
    job: &JobRow,
    tombstone: &Tombstone,
    page: &MessagePage,
) -> Result<Vec<MessageStatus>, StoreError> {
    let state = page.state.map(target_number);
    if page.limit == 0 || state == Some(None) {
        return Ok(Vec::new());
    }
    let behind = page.after.as_ref().map(After::recipient);
    let skip = page.after.as_ref().map_or(0, After::count);
    let rows = sqlx::query!(
        r#"
        WITH targets AS (
            SELECT m.job_id, m.idx, m.to_account, m.msg_key, m.sent_at, m.attempts, m.revoke_error,
                   CASE WHEN m.state = 7 THEN 1
                        WHEN m.state = 5 THEN 2
                        WHEN m.state = 3 AND m.revoke_state = 3 THEN 3
                        WHEN m.state IN (0, 1, 2, 3) AND (m.revoke_id IS NOT NULL OR NOT $4) THEN 0
                   END AS target
            FROM jobs j JOIN messages m ON m.job_id = j.id AND m.created_at = j.created_at
            WHERE (j.id = $1 OR j.group_name = $2) AND j.type IN (0, 1, 3)
              AND ($3::text[] IS NULL OR m.to_account = ANY ($3))
        ), behind AS (
            SELECT job_id, idx FROM targets WHERE to_account = $6 AND target IS NOT NULL
            ORDER BY job_id DESC, idx DESC LIMIT 1
        )
        SELECT to_account, msg_key, sent_at, attempts, revoke_error, target AS "target!"
        FROM targets
        WHERE target IS NOT NULL AND ($5::int4 IS NULL OR target = $5)
          AND (NOT EXISTS (SELECT FROM behind) OR (job_id, idx) > (SELECT b.job_id, b.idx FROM behind b))
        ORDER BY job_id, idx OFFSET (SELECT CASE WHEN EXISTS (SELECT FROM behind) THEN 0 ELSE $7::int8 END) LIMIT $8
        "#,
        tombstone.target_job,
        tombstone.target_group,
        tombstone.to_accounts.as_deref(),
        tombstone.fanned_out,
        state.flatten(),
        behind,
        skip,
        i64::from(page.limit),
    )
    .fetch_all(&mut **tx)
    .await
    .map_err(|error| StoreError::query("read a revocation's targets", error))?;
    rows.into_iter()
        .map(|row| {
            message_status(
                &job.id,
                target_state(row.target),
                MessageRow {
                    to: row.to_account,
                    msg_key: row.msg_key,
                    sent_at: row.sent_at,
                    attempts: row.attempts,
                    error: row.revoke_error.map(revoke_error),
                },
            )
        })
        .collect()
}

/// A message by its key: the record that owns it says how far it is; without one the tombstone does.
async fn raw_status(
    tx: &mut Transaction<'static, Postgres>,
    job: &JobRow,
    raw: &Raw,
    page: &MessagePage,
) -> Result<Status, StoreError> {
    let owner = sqlx::query!(
        "SELECT state, sent_at, attempts, revoke_state, revoke_error FROM messages
         WHERE to_account = $1 AND from_account = $2 AND msg_key = $3 LIMIT 1",
        raw.to,
        raw.from,
        raw.msg_key,
    )
    .fetch_optional(&mut **tx)
    .await
    .map_err(|error| StoreError::query("look for the owner of a MsgKey", error))?;
    let (state, sent_at, attempts, error) = if let Some(owner) = owner {
        let state = match (owner.state, owner.revoke_state) {
            (7, _) => MessageState::Revoked,
            (3, 3) => MessageState::Failed,
            _ => MessageState::Pending,
        };
        (state, owner.sent_at, owner.attempts, owner.revoke_error)
    } else {
        let state = match raw.state {
            2 => MessageState::Revoked,
            3 => MessageState::Failed,
            _ => MessageState::Pending,
        };
        (state, None, 0, raw.error.clone())
    };
    let progress = if state == MessageState::Pending {
        Progress::Open
    } else {
        Progress::Done
    };
    let passed_over = page
        .after
        .as_ref()
        .is_some_and(|after| after.recipient() == raw.to || after.count() > 0);
    let wanted = page.limit > 0 && !passed_over && page.state.is_none_or(|wanted| wanted == state);
    let row = MessageRow {
        to: raw.to.clone(),
        msg_key: Some(raw.msg_key.clone()),
        sent_at,
        attempts,
        error: error.map(revoke_error),
    };
    let messages = if wanted {
        vec![message_status(&job.id, state, row)?]
    } else {
        Vec::new()
    };
    Ok((std::iter::once((state, 1)).collect(), progress, messages))
}

/// `im-20022: no such message` as code and message.
fn revoke_error(text: String) -> ErrorInfo {
    match text.split_once(": ") {
        Some((code, message)) if !code.contains(' ') => ErrorInfo {
            code: code.to_owned(),
            message: message.to_owned(),
        },
        _ => ErrorInfo {
            code: text,
            message: String::new(),
        },
    }
}
