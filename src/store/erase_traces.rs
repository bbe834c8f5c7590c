//! Erasing one account's data: what names it beside its jobs. Counts of caps, revocations, the audit log.

use super::{
    EraseScope, Store, StoreError,
    claims::parse_id,
    slices::{SLICE, slices},
    status::unsigned,
};
use crate::domain::{AccountId, AppName, JobId, erasure::without_mentions};

/// What names the account beside its jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TracesOfAccount {
    /// Counts against caps.
    pub cap_uses: u64,
    /// Revocations that name it.
    pub revocations: u64,
    /// Entries of the audit log that name it.
    pub audit: u64,
}

impl Store {
    /// Counts what could be erased. What belongs to a message that is still there is counted with it, although it goes only
    /// when the message does.
    pub async fn traces_of_account(&self, scope: EraseScope<'_>) -> Result<TracesOfAccount, StoreError> {
        let counts = sqlx::query!(
            r#"
            SELECT (SELECT count(*) FROM cap_uses u WHERE u.account = $1 AND ($2::text IS NULL OR u.app = $2)) AS "caps!",
                   (SELECT count(*) FROM revocations r
                    WHERE ($1 = ANY (r.to_accounts) OR r.from_account = $1 OR r.to_account = $1)
                      AND ($2::text IS NULL OR r.app = $2)) AS "revocations!"
            "#,
            scope.account.as_str(),
            scope.app.map(AppName::as_str),
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("count what names an account", error))?;
        Ok(TracesOfAccount {
            cap_uses: unsigned(counts.caps),
            revocations: unsigned(counts.revocations),
            audit: self.audit_of_account(scope.account).await?.len() as u64,
        })
    }

    /// Revocations that name the account and are still needed.
    pub async fn live_revocations_of(&self, scope: EraseScope<'_>) -> Result<Vec<JobId>, StoreError> {
        let ids = sqlx::query_scalar!(
            r#"
            SELECT r.id FROM revocations r
            WHERE ($1 = ANY (r.to_accounts) OR r.from_account = $1 OR r.to_account = $1) AND ($2::text IS NULL OR r.app = $2)
              AND (NOT r.fanned_out OR r.raw_state = 1 OR EXISTS (SELECT FROM work w WHERE w.job_id = r.id)
                   OR EXISTS (SELECT FROM outbox o WHERE o.job_id = r.id)
                   OR (r.target_job IS NOT NULL AND NOT EXISTS (SELECT FROM jobs j WHERE j.id = r.target_job AND j.state <> 0)))
            ORDER BY r.id
            "#,
            scope.account.as_str(),
            scope.app.map(AppName::as_str),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("look for revocations that name an account", error))?;
        ids.iter().map(|id| parse_id(id)).collect()
    }

    /// Erases all of it, after the account's jobs. What belongs to a message that is still on record stays.
    pub async fn erase_traces(&self, scope: EraseScope<'_>) -> Result<TracesOfAccount, StoreError> {
        Ok(TracesOfAccount {
            cap_uses: self.erase_cap_uses(scope).await?,
            revocations: self.erase_raw_revocations(scope).await? + self.erase_revoked_recipients(scope).await?,
            audit: self.erase_from_audit(scope.account).await?,
        })
    }

    async fn erase_cap_uses(&self, scope: EraseScope<'_>) -> Result<u64, StoreError> {
        slices("erase counts of caps", || async {
            sqlx::query!(
                "DELETE FROM cap_uses WHERE (app, scope, account, job_id, idx) IN (
                     SELECT u.app, u.scope, u.account, u.job_id, u.idx FROM cap_uses u
                     WHERE u.account = $1 AND ($2::text IS NULL OR u.app = $2)
                       AND NOT EXISTS (SELECT FROM messages m
                                       WHERE m.job_id = u.job_id AND m.idx = u.idx AND m.created_at = u.created_at)
                     LIMIT $3)",
                scope.account.as_str(),
                scope.app.map(AppName::as_str),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await
    }

    /// Revocations by key that are done: the row goes, the revoke job's stays and is closed.
    async fn erase_raw_revocations(&self, scope: EraseScope<'_>) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            r#"
            WITH gone AS (
                DELETE FROM revocations r
                WHERE (r.from_account = $1 OR r.to_account = $1) AND ($2::text IS NULL OR r.app = $2)
                  AND r.fanned_out AND r.raw_state <> 1
                  AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = r.id)
                  AND NOT EXISTS (SELECT FROM outbox o WHERE o.job_id = r.id)
                  -- Marked by it, and not revoked yet.
                  AND NOT EXISTS (SELECT FROM messages m WHERE m.revoke_id = r.id AND m.revoke_state = 1)
                RETURNING r.id
            )
            UPDATE jobs SET state = 2 WHERE id IN (SELECT id FROM gone)
            "#,
            scope.account.as_str(),
            scope.app.map(AppName::as_str),
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("erase revocations by key", error))?;
        Ok(done.rows_affected())
    }

    /// Revocations of some recipients of a job on record, whose message to the account is gone: the others stay named. An
    /// empty list covers nobody, which none at all wouldn't.
    async fn erase_revoked_recipients(&self, scope: EraseScope<'_>) -> Result<u64, StoreError> {
        let done = sqlx::query!(
            r#"
            UPDATE revocations r SET to_accounts = array_remove(r.to_accounts, $1)
            WHERE $1 = ANY (r.to_accounts) AND ($2::text IS NULL OR r.app = $2) AND r.fanned_out
              AND NOT EXISTS (SELECT FROM work w WHERE w.job_id = r.id)
              AND NOT EXISTS (SELECT FROM outbox o WHERE o.job_id = r.id)
              AND EXISTS (SELECT FROM jobs j WHERE j.id = r.target_job AND j.state <> 0
                            AND NOT EXISTS (SELECT FROM messages m
                                            WHERE m.job_id = j.id AND m.created_at = j.created_at AND m.to_account = $1))
            "#,
            scope.account.as_str(),
            scope.app.map(AppName::as_str),
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("erase recipients of revocations", error))?;
        Ok(done.rows_affected())
    }

    /// The entries of the audit log that name the account, as they are to be: number, target, detail.
    async fn audit_of_account(&self, account: &AccountId) -> Result<Vec<(i64, String, Option<String>)>, StoreError> {
        let rows = sqlx::query!(
            "SELECT id, target, detail FROM audit
             WHERE strpos(target, $1) > 0 OR strpos(detail, $1) > 0 OR right(target, 1) = '…' OR right(detail, 1) = '…'
             ORDER BY id",
            account.as_str(),
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("look for an account in the audit log", error))?;
        let named = rows.into_iter().filter_map(|row| {
            let target = without_mentions(&row.target, account);
            let detail = row
                .detail
                .as_deref()
                .and_then(|detail| without_mentions(detail, account));
            (target.is_some() || detail.is_some())
                .then(|| (row.id, target.unwrap_or(row.target), detail.or(row.detail)))
        });
        Ok(named.collect())
    }

    async fn erase_from_audit(&self, account: &AccountId) -> Result<u64, StoreError> {
        let entries = self.audit_of_account(account).await?;
        for (id, target, detail) in &entries {
            sqlx::query!(
                "UPDATE audit SET target = $2, detail = $3 WHERE id = $1",
                id,
                target,
                detail.as_deref(),
            )
            .execute(&self.pool)
            .await
            .map_err(|error| StoreError::query("erase an account from the audit log", error))?;
        }
        Ok(entries.len() as u64)
    }
}
