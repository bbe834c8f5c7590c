//! Rows of `work` that wait for their send window.

use chrono::{DateTime, Utc};

use super::{Store, StoreError, parts::range, work::WorkUnit};
use crate::domain::{GroupName, Lane};

/// Rows that are woken in one statement.
const SLICE: i64 = 5_000;

/// When a row that waits for its window is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The opening itself.
    pub at: DateTime<Utc>,
    /// How long from now the row is due: by then the window opens, or the job's time is over.
    pub after: std::time::Duration,
}

impl Store {
    /// Lets a row wait for its window. False: nothing of it waits for a call (any more), so the window doesn't matter: all
    /// of it is revoked, which the claim finds out, it is in doubt, or the row isn't this lease's.
    pub async fn wait_for_window(&self, unit: &WorkUnit, opening: Opening) -> Result<bool, StoreError> {
        let (first, last) = range(unit.part);
        let done = sqlx::query!(
            "UPDATE work SET due_at = now() + make_interval(secs => $7), opens_at = $8, lease = NULL, takeovers = 0
             WHERE job_id = $1 AND kind = 0 AND part = $2 AND lease = $3
               AND EXISTS (SELECT FROM messages m WHERE m.job_id = $1 AND m.created_at = $4 AND m.idx BETWEEN $5 AND $6
                                                    AND m.state = 0 AND m.revoke_id IS NULL)
               AND NOT EXISTS (SELECT FROM revocations t WHERE t.target_job = $1 AND t.to_accounts IS NULL)
               AND NOT EXISTS (SELECT FROM revocations g
                               WHERE g.target_group = $9 AND g.lifted_at IS NULL AND g.expires_at > now())",
            unit.job.as_str(),
            unit.part,
            unit.lease,
            unit.created_at,
            first,
            last,
            opening.after.as_secs_f64(),
            opening.at,
            unit.group.as_ref().map(GroupName::as_str),
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("let a row wait for its send window", error))?;
        Ok(done.rows_affected() == 1)
    }

    /// Records a lane's window as a worker has it; true: it had been another, or none.
    pub async fn announce_window(&self, lane: Lane, window: &str) -> Result<bool, StoreError> {
        let done = sqlx::query!(
            "INSERT INTO lane_windows (lane, send_window) VALUES ($1, $2)
             ON CONFLICT (lane) DO UPDATE SET send_window = excluded.send_window
             WHERE lane_windows.send_window <> excluded.send_window",
            lane.index() as i16,
            window,
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("record a lane's send window", error))?;
        Ok(done.rows_affected() == 1)
    }

    /// Makes everything due that waits for a window in this lane: whoever takes it looks at the clock anew.
    pub async fn wake_waiting_for_window(&self, lane: Lane) -> Result<u64, StoreError> {
        let mut woken = 0;
        loop {
            let done = sqlx::query!(
                "UPDATE work SET due_at = now(), opens_at = NULL WHERE (job_id, kind, part) IN (
                     SELECT job_id, kind, part FROM work WHERE lane = $1 AND opens_at IS NOT NULL
                     LIMIT $2 FOR UPDATE SKIP LOCKED)",
                lane.index() as i16,
                SLICE,
            )
            .execute(&self.pool)
            .await
            .map_err(|error| StoreError::query("wake what waits for a send window", error))?;
            woken += done.rows_affected();
            if done.rows_affected() == 0 {
                return Ok(woken);
            }
        }
    }
}
