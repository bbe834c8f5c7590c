//! Which job is it? Looks jobs up by id, by recipient and by group. Each way goes through an index that the records have
//! anyway, and reads no more rows than it shows: a million of them make no difference.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Store, StoreError, status::message_state};
use crate::domain::{AccountId, GroupName, Lane, status::MessageState};

/// Ids that are looked at for those that begin with a text: most of what sorts behind it does.
const NEIGHBOURS: i64 = 200;
/// Groups that are proposed.
const MOST_GROUPS: i64 = 20;

/// A job that was found.
#[derive(Debug, Clone, Serialize)]
pub struct FoundJob {
    /// Its id.
    pub job: String,
    /// Its type.
    #[serde(rename = "type")]
    pub job_type: String,
    /// Its app.
    pub app: String,
    /// Its group.
    pub group: Option<String>,
    /// Its lane.
    pub lane: &'static str,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
    /// Distinct recipients.
    pub recipients: i64,
    /// Where it has one recipient, or was found by one: who.
    pub to: Option<String>,
    /// The state of that recipient's message; `None` where there are several.
    pub state: Option<MessageState>,
    /// The word of its failure.
    pub error: Option<String>,
}

/// A row of the queries below.
struct Row {
    id: String,
    r#type: i16,
    app: String,
    group_name: Option<String>,
    lane: i16,
    created_at: DateTime<Utc>,
    total: i32,
    to_account: Option<String>,
    message_state: Option<i16>,
    error: Option<String>,
}

impl Row {
    fn found(self) -> Result<FoundJob, StoreError> {
        let state = self
            .message_state
            .map(|number| message_state(number, &self.id))
            .transpose()?;
        Ok(FoundJob {
            job_type: crate::domain::record::type_name(self.r#type).to_owned(),
            app: self.app,
            group: self.group_name,
            lane: Lane::from_index(self.lane).as_str(),
            created_at: self.created_at,
            recipients: self.total.into(),
            to: self.to_account,
            state,
            error: self.error,
            job: self.id,
        })
    }
}

fn all(rows: Vec<Row>) -> Result<Vec<FoundJob>, StoreError> {
    rows.into_iter().map(Row::found).collect()
}

impl Store {
    /// The job of an id, and those whose ids begin with it, up to `limit`.
    pub async fn find_by_id(&self, id: &str, limit: u32) -> Result<Vec<FoundJob>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"
            SELECT j.id, j.type AS "type!", j.app, j.group_name, j.lane, j.created_at, j.total,
                   m.to_account AS "to_account?", m.state AS "message_state?", coalesce(m.error_code, j.error_code) AS error
            FROM (SELECT * FROM jobs WHERE id >= $1 ORDER BY id LIMIT $2) j
            LEFT JOIN LATERAL (SELECT to_account, state, error_code FROM messages
                               WHERE job_id = j.id AND created_at = j.created_at AND j.total = 1 LIMIT 1) m ON true
            WHERE starts_with(j.id, $1) ORDER BY j.id LIMIT $3
            "#,
            id,
            NEIGHBOURS.max(i64::from(limit)),
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("find jobs by id", error))?;
        all(rows)
    }

    /// Jobs with a message to a recipient, the newest first; `before` is the time of the last one of the page before.
    pub async fn find_by_recipient(
        &self,
        to: &AccountId,
        before: Option<DateTime<Utc>>,
        limit: u32,
    ) -> Result<Vec<FoundJob>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"
            SELECT j.id, j.type AS "type!", j.app, j.group_name, j.lane, j.created_at, j.total,
                   m.to_account AS "to_account?", m.state AS "message_state?", coalesce(m.error_code, j.error_code) AS error
            FROM (SELECT job_id, created_at, to_account, state, error_code FROM messages
                  WHERE to_account = $1 AND created_at < coalesce($2::timestamptz, 'infinity')
                  ORDER BY created_at DESC LIMIT $3) m
            JOIN jobs j ON j.id = m.job_id AND j.created_at = m.created_at
            ORDER BY m.created_at DESC
            "#,
            to.as_str(),
            before,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("find jobs by recipient", error))?;
        all(rows)
    }

    /// Jobs of a group by id; `after` is the last id of the page before.
    pub async fn find_by_group(
        &self,
        group: &GroupName,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<FoundJob>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"
            SELECT j.id, j.type AS "type!", j.app, j.group_name, j.lane, j.created_at, j.total,
                   m.to_account AS "to_account?", m.state AS "message_state?", coalesce(m.error_code, j.error_code) AS error
            FROM (SELECT * FROM jobs WHERE group_name = $1 AND ($2::text IS NULL OR id > $2) ORDER BY id LIMIT $3) j
            LEFT JOIN LATERAL (SELECT to_account, state, error_code FROM messages
                               WHERE job_id = j.id AND created_at = j.created_at AND j.total = 1 LIMIT 1) m ON true
            ORDER BY j.id
            "#,
            group.as_str(),
            after,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("find jobs by group", error))?;
        all(rows)
    }

    /// Names of groups that begin with a text: each is one step in the index, whatever its size.
    pub async fn find_groups(&self, begin: &str) -> Result<Vec<String>, StoreError> {
        let names = sqlx::query_scalar!(
            r#"
            WITH RECURSIVE g AS (
                SELECT (SELECT group_name FROM jobs WHERE group_name >= $1 ORDER BY group_name LIMIT 1) AS name, 1 AS n
                UNION ALL
                SELECT (SELECT group_name FROM jobs WHERE group_name > g.name ORDER BY group_name LIMIT 1), n + 1
                FROM g WHERE g.name IS NOT NULL AND n < $2
            )
            SELECT name AS "name!" FROM g WHERE name IS NOT NULL AND starts_with(name, $1)
            "#,
            begin,
            MOST_GROUPS as i32,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("find groups", error))?;
        Ok(names)
    }
}
