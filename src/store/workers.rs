//! Who is there: a row for each worker process, which it writes anew every second.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Store, StoreError};

/// Rows that nobody wrote for so long are removed by whoever comes next: ten minutes, so that a worker that died is
/// seen to have died.
const FORGOTTEN_AFTER: &str = "10 minutes";

/// What stays the same of a worker process.
#[derive(Debug, Clone)]
pub struct WorkerIdentity {
    /// Made at its start.
    pub id: Uuid,
    /// The host's name.
    pub host: String,
    /// The process there.
    pub pid: u32,
    /// Where its HTTP server listens.
    pub http: Option<String>,
}

/// A worker's row.
#[derive(Debug, Clone)]
pub struct WorkerRow {
    /// The process.
    pub identity: WorkerIdentity,
    /// Its version.
    pub version: String,
    /// Since when.
    pub started_at: DateTime<Utc>,
    /// When it wrote last.
    pub seen_at: DateTime<Utc>,
    /// The database's clock.
    pub now: DateTime<Utc>,
    /// What it said, as JSON.
    pub report: String,
}

impl Store {
    /// Writes a worker's row.
    pub async fn beat(&self, worker: &WorkerIdentity, report: &str) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO workers (id, host, pid, version, http, report) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp(), report = EXCLUDED.report",
            worker.id,
            worker.host,
            worker.pid as i32,
            env!("CARGO_PKG_VERSION"),
            worker.http,
            report,
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("write a worker's row", error))?;
        Ok(())
    }

    /// Removes the rows of workers that are gone for long, and of those that this one surely replaces: they had its
    /// address.
    pub async fn bury_workers(&self, successor: &WorkerIdentity) -> Result<(), StoreError> {
        sqlx::query!(
            "DELETE FROM workers
             WHERE id <> $1 AND (seen_at < clock_timestamp() - $4::text::interval OR (host = $2 AND http = $3))",
            successor.id,
            successor.host,
            successor.http,
            FORGOTTEN_AFTER,
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("remove the rows of workers that are gone", error))?;
        Ok(())
    }

    /// A worker ends: it isn't missed.
    pub async fn forget_worker(&self, id: Uuid) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM workers WHERE id = $1", id)
            .execute(&self.pool)
            .await
            .map_err(|error| StoreError::query("remove a worker's row", error))?;
        Ok(())
    }

    /// Every worker that wrote within the last ten minutes, by host and start.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT id, host, pid, version, http, started_at, seen_at, report, clock_timestamp() AS "now!"
               FROM workers WHERE seen_at > clock_timestamp() - $1::text::interval ORDER BY host, started_at LIMIT 1000"#,
            FORGOTTEN_AFTER,
        )
        .fetch_all(&self.pool)
        .await
        .map_err(|error| StoreError::query("read the workers", error))?;
        let workers = rows.into_iter().map(|row| WorkerRow {
            identity: WorkerIdentity {
                id: row.id,
                host: row.host,
                pid: row.pid.max(0) as u32,
                http: row.http,
            },
            version: row.version,
            started_at: row.started_at,
            seen_at: row.seen_at,
            now: row.now,
            report: row.report,
        });
        Ok(workers.collect())
    }
}
