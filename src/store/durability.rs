//! How durable the database's commits are, and what time it has: what `check` says of it.

use chrono::{DateTime, Utc};

use super::{Store, StoreError};

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durability {
    /// `PostgreSQL 15.4 …`, shortened to name and version.
    pub version: String,
    /// Whether a commit waits for a replica. Without one a failover can lose the last commits.
    pub synchronous_replicas: bool,
    /// Its clock, which says when a claim ends and what is due.
    pub now: DateTime<Utc>,
}

impl Store {
    /// Asks the server for its version, its clock, and whether commits wait for a replica.
    pub async fn durability(&self) -> Result<Durability, StoreError> {
        let row = sqlx::query!(
            r#"SELECT current_setting('server_version') AS "version!",
                      current_setting('synchronous_standby_names') AS "standbys!",
                      clock_timestamp() AS "now!""#
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("ask the database for its version", error))?;
        Ok(Durability {
            version: format!("PostgreSQL {}", row.version.split(' ').next().unwrap_or_default()),
            synchronous_replicas: !row.standbys.is_empty(),
            now: row.now,
        })
    }
}
