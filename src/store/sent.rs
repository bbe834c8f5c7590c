//! Accepted calls of deliveries' jobs, recorded many in one statement: the common outcome; and keys whose claim had been
//! replaced, kept whatever the token says.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Store, StoreError,
    claims::{message_state, parse_id},
    outcomes::Recorded,
    revoked::FurtherKeys,
};
use crate::domain::{AppName, GroupName, JobId, MessageState};

/// A call that the service accepted.
#[derive(Debug, Clone)]
pub struct SentOutcome {
    /// The job.
    pub id: JobId,
    /// The partition key of its message.
    pub created_at: DateTime<Utc>,
    /// Its app.
    pub app: AppName,
    /// Its group, for the tombstones.
    pub group: Option<GroupName>,
    /// The claim under which the call was made.
    pub token: Uuid,
    /// The service's key.
    pub msg_key: String,
    /// The service's time, Unix seconds.
    pub msg_time: Option<i64>,
}

/// An answer that came when its claim wasn't the current one any more.
pub(super) struct LateKey<'a> {
    pub(super) id: &'a JobId,
    pub(super) created_at: DateTime<Utc>,
    pub(super) app: &'a AppName,
    pub(super) group: Option<&'a GroupName>,
    pub(super) token: Uuid,
    pub(super) msg_key: &'a str,
    pub(super) msg_time: Option<i64>,
}

impl Store {
    /// Records accepted calls of deliveries' jobs, many in one statement; the answers come in the order of the calls.
    pub async fn record_sent(&self, high: bool, outcomes: &[SentOutcome]) -> Result<Vec<Recorded>, StoreError> {
        let mut order: Vec<usize> = (0..outcomes.len()).collect();
        order.sort_unstable_by(|&a, &b| outcomes[a].id.cmp(&outcomes[b].id));
        let sorted: Vec<&SentOutcome> = order.iter().map(|&at| &outcomes[at]).collect();
        let ids: Vec<&str> = sorted.iter().map(|o| o.id.as_str()).collect();
        let created = || sorted.iter().map(|o| o.created_at);
        let (first, last) = (created().min(), created().max());
        let apps: Vec<&str> = sorted.iter().map(|o| o.app.as_str()).collect();
        let groups: Vec<Option<&str>> = sorted.iter().map(|o| o.group.as_ref().map(GroupName::as_str)).collect();
        let tokens: Vec<Uuid> = sorted.iter().map(|o| o.token).collect();
        let keys: Vec<&str> = sorted.iter().map(|o| o.msg_key.as_str()).collect();
        let times: Vec<Option<i64>> = sorted.iter().map(|o| o.msg_time).collect();
        // Found by their keys alone, each row's input by binary search in the sorted ids: joined with the input, an UPDATE
        // of a partitioned table may be planned as a scan of the whole week, once for each statement.
        let rows = sqlx::query!(
            r#"
            WITH done AS (
                UPDATE messages m
                SET state = 3, sent_at = clock_timestamp(), error_code = NULL, error_message = NULL,
                    (msg_key, msg_time, revoke_id, revoke_state) = (
                        SELECT ($6::text[])[i.at], ($7::int8[])[i.at], r.id, CASE WHEN r.id IS NULL THEN 0 ELSE 1 END
                        FROM (SELECT width_bucket(m.job_id COLLATE "C", $1) AS at OFFSET 0) i
                        CROSS JOIN LATERAL (
                            SELECT coalesce(m.revoke_id, (
                                SELECT t.id FROM revocations t
                                WHERE t.target_job = m.job_id
                                  AND (t.to_accounts IS NULL OR m.to_account = ANY (t.to_accounts))
                                UNION ALL
                                SELECT g.id FROM revocations g
                                WHERE g.target_group = ($4::text[])[i.at] AND g.lifted_at IS NULL AND g.expires_at > now()
                                LIMIT 1
                            )) AS id OFFSET 0
                        ) r
                    )
                WHERE m.job_id = ANY ($1::text[]) AND m.created_at BETWEEN $8 AND $2 AND m.idx = 0
                  AND m.token = ($5::uuid[])[width_bucket(m.job_id COLLATE "C", $1)] AND m.state IN (1, 2)
                RETURNING m.job_id, m.created_at, m.revoke_id
            ), revoke AS (
                INSERT INTO work (kind, job_id, part, created_at, lane, app, command, due_at)
                SELECT 1, job_id, 0, created_at, 0, ($3::text[])[width_bucket(job_id COLLATE "C", $1)], 4, now()
                FROM done WHERE revoke_id IS NOT NULL
                ON CONFLICT DO NOTHING
            )
            SELECT job_id AS "job_id!", revoke_id FROM done
            "#,
            &ids as &[&str],
            last,
            &apps as &[&str],
            &groups as &[Option<&str>],
            &tokens,
            &keys as &[&str],
            &times as &[Option<i64>],
            first,
        )
        .fetch_all(self.hot(high))
        .await
        .map_err(|error| StoreError::query("record sent messages", error))?;
        let mut done = HashMap::with_capacity(rows.len());
        for row in rows {
            let revocation = row.revoke_id.as_deref().map(parse_id).transpose()?;
            done.insert(row.job_id, revocation);
        }
        let mut recorded = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            recorded.push(match done.remove(outcome.id.as_str()) {
                Some(revocation) => Recorded::Applied { revocation },
                None => {
                    self.keep_late_key(&LateKey {
                        id: &outcome.id,
                        created_at: outcome.created_at,
                        app: &outcome.app,
                        group: outcome.group.as_ref(),
                        token: outcome.token,
                        msg_key: &outcome.msg_key,
                        msg_time: outcome.msg_time,
                    })
                    .await?
                }
            });
        }
        Ok(recorded)
    }

    /// An answer whose claim isn't the current one any more, or whose record was committed by an earlier try: keeps
    /// the key whatever the token says. One more key of a message that a tombstone covers is revoked, too.
    pub(super) async fn keep_late_key(&self, late: &LateKey<'_>) -> Result<Recorded, StoreError> {
        let keys = FurtherKeys {
            job: late.id,
            created_at: late.created_at,
            indexes: &[0],
            group: late.group,
            app: late.app,
        };
        let mut tx = self
            .pool
            .begin()
            .await
            .map_err(|error| StoreError::query("begin a late MsgKey", error))?;
        keys.lock(&mut tx).await?;
        let row = sqlx::query!(
            "SELECT state, token, msg_key, revoke_id FROM messages WHERE job_id = $1 AND created_at = $2 AND idx = 0",
            late.id.as_str(),
            late.created_at,
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(|error| StoreError::query("read a message that another claim holds", error))?;
        let Some(row) = row else {
            return Err(StoreError::Inconsistent {
                table: "messages",
                column: "job_id",
                job: late.id.to_string(),
                value: "no row for a call that was made".to_owned(),
            });
        };
        let state = message_state(row.state, late.id)?;
        if row.msg_key.as_deref() == Some(late.msg_key) {
            let revocation = row.revoke_id.as_deref().map(parse_id).transpose()?;
            let applied = row.token == Some(late.token) && matches!(state, MessageState::Sent | MessageState::Revoked);
            return Ok(if applied {
                Recorded::Applied { revocation }
            } else {
                Recorded::Superseded { state }
            });
        }
        sqlx::query!(
            "INSERT INTO message_keys (job_id, idx, msg_key, msg_time, source) VALUES ($1, 0, $2, $3, 0)
             ON CONFLICT DO NOTHING",
            late.id.as_str(),
            late.msg_key,
            late.msg_time,
        )
        .execute(&mut *tx)
        .await
        .map_err(|error| StoreError::query("keep a late MsgKey", error))?;
        keys.want_revoked(&mut tx).await?;
        tx.commit()
            .await
            .map_err(|error| StoreError::query("commit a late MsgKey", error))?;
        Ok(Recorded::Superseded { state })
    }
}
