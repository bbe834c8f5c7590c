//! What was done through the API, by whom: one row for each act, written before it and completed after it.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::{Store, StoreError};

/// The longest target or detail that is kept, in characters: a revocation may name 100,000 recipients.
const LONGEST: usize = 500;

/// Who acts, and on what.
#[derive(Debug, Clone, Copy)]
pub struct NewAudit<'a> {
    /// The role.
    pub role: &'a str,
    /// The name that was given; believed, not checked.
    pub actor: Option<&'a str>,
    /// `session`, `bearer` or `open`.
    pub via: &'a str,
    /// The other end of the connection.
    pub address: Option<&'a str>,
    /// What is done, in a word.
    pub action: &'a str,
    /// To what.
    pub target: &'a str,
}

/// A row of the audit log.
#[derive(Debug, Clone, Serialize)]
pub struct AuditRow {
    /// Ascending.
    pub id: i64,
    /// When it was begun.
    pub at: DateTime<Utc>,
    /// The role.
    pub role: String,
    /// The name that was given.
    pub actor: Option<String>,
    /// `session`, `bearer` or `open`.
    pub via: String,
    /// The other end of the connection.
    pub address: Option<String>,
    /// What was done, in a word.
    pub action: String,
    /// To what.
    pub target: String,
    /// `done` or `failed`; `None`: its end is not on record.
    pub result: Option<String>,
    /// How it ended, in a sentence.
    pub detail: Option<String>,
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

impl Store {
    /// Notes that something is about to be done. What can't be noted must not be done.
    pub async fn audit_begin(&self, audit: NewAudit<'_>) -> Result<i64, StoreError> {
        let row = sqlx::query!(
            "INSERT INTO audit (role, actor, via, address, action, target) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
            audit.role,
            audit.actor,
            audit.via,
            audit.address,
            audit.action,
            shortened(audit.target),
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("write the audit log", error))?;
        Ok(row.id)
    }

    /// Notes how it ended.
    pub async fn audit_end(&self, id: i64, done: bool, detail: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "UPDATE audit SET result = $2, detail = $3 WHERE id = $1",
            id,
            if done { "done" } else { "failed" },
            shortened(detail),
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("complete the audit log", error))?;
        Ok(())
    }

    /// A page of the log, the newest first; `before` is the last id of the page before.
    pub async fn audit_log(&self, before: Option<i64>, limit: u32) -> Result<Vec<AuditRow>, StoreError> {
        sqlx::query_as!(
            AuditRow,
            "SELECT id, at, role, actor, via, address, action, target, result, detail FROM audit
             WHERE id < coalesce($1, 9223372036854775807) ORDER BY id DESC LIMIT $2",
            before,
            i64::from(limit),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("read the audit log", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_targets_are_cut_between_characters() {
        assert_eq!(shortened("group spring"), "group spring");
        let long = shortened(&"é".repeat(LONGEST + 1));
        assert_eq!(long.chars().count(), LONGEST + 1);
        assert!(long.ends_with('…'));
    }
}
