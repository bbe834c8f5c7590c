//! What an operator paused.

use chrono::{DateTime, Utc};

use super::{
    Store, StoreError,
    slices::{SLICE, slices},
    work::WorkUnit,
};
use crate::domain::{
    GroupName,
    pause::{PauseScope, Pauses},
};

impl Store {
    /// Pauses something, until then or until it is resumed. A second pause replaces the first's end.
    pub async fn pause(&self, scope: &PauseScope, until: Option<DateTime<Utc>>) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO pauses (kind, name, until) VALUES ($1, $2, $3)
             ON CONFLICT (kind, name) DO UPDATE SET until = EXCLUDED.until",
            scope.kind(),
            scope.name(),
            until,
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("pause", error))?;
        if let PauseScope::Group(group) = scope {
            // What an earlier pause put off ends with this one now.
            self.unpark(group).await?;
        }
        Ok(())
    }

    /// Resumes something; false: it wasn't paused.
    pub async fn resume(&self, scope: &PauseScope) -> Result<bool, StoreError> {
        // Waits for whoever parks a row under this pause: the row is then brought back below.
        let done = sqlx::query!(
            "DELETE FROM pauses WHERE kind = $1 AND name = $2",
            scope.kind(),
            scope.name()
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("resume", error))?;
        if let PauseScope::Group(group) = scope {
            self.unpark(group).await?;
        }
        Ok(done.rows_affected() == 1)
    }

    /// Everything that is paused at this moment.
    pub async fn pauses(&self) -> Result<Pauses, StoreError> {
        let rows = sqlx::query!("SELECT kind, name, until FROM pauses WHERE until IS NULL OR until > now()")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| StoreError::query("read what is paused", error))?;
        Ok(rows
            .into_iter()
            .filter_map(|row| Some((PauseScope::parse(&row.kind, &row.name)?, row.until)))
            .collect())
    }

    /// Puts a row of a paused group off until the pause ends. If it has ended meanwhile the row is due at once.
    pub async fn park(&self, unit: &WorkUnit, group: &GroupName) -> Result<(), StoreError> {
        sqlx::query!(
            "WITH pause AS (
                SELECT coalesce(until, now() + interval '100 years') AS until FROM pauses
                WHERE kind = 'group' AND name = $5 AND (until IS NULL OR until > now()) FOR SHARE
             )
             UPDATE work SET due_at = coalesce((SELECT until FROM pause), now()), parked = EXISTS (SELECT FROM pause),
                             lease = NULL, takeovers = 0
             WHERE job_id = $1 AND kind = $2 AND part = $3 AND lease = $4",
            unit.job.as_str(),
            unit.kind.number(),
            unit.part,
            unit.lease,
            group.as_str(),
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("park a row of work", error))?;
        Ok(())
    }

    async fn unpark(&self, group: &GroupName) -> Result<(), StoreError> {
        slices("bring parked work back", || async {
            sqlx::query!(
                "UPDATE work w SET due_at = now(), parked = false
                 FROM (SELECT job_id, kind, part FROM work WHERE parked AND lease IS NULL AND group_name = $1
                       ORDER BY job_id, kind, part LIMIT $2 FOR UPDATE) p
                 WHERE w.job_id = p.job_id AND w.kind = p.kind AND w.part = p.part",
                group.as_str(),
                SLICE,
            )
            .execute(&self.pool)
            .await
        })
        .await?;
        Ok(())
    }
}
