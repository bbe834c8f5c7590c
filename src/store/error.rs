//! What can go wrong with the database, and whether it is worth another try.

use std::io::ErrorKind;

/// An error of the store. The text says what was attempted; it never holds a message's text.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// `DATABASE_URL` isn't a Postgres URL.
    #[error("the database URL can't be parsed: expected postgres://user:password@host:port/database")]
    Url,
    /// A migration failed.
    #[error("apply the migrations")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("{attempted}")]
    Query {
        /// What was attempted.
        attempted: &'static str,
        /// Why it failed.
        #[source]
        source: sqlx::Error,
    },
    /// A row holds what this version can't read.
    #[error("{table}.{column} of job {job} holds {value:?}, which this version can't read")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The job.
        job: String,
        /// The value.
        value: String,
    },
}

impl StoreError {
    /// Wraps a statement's failure.
    pub(crate) fn query(attempted: &'static str, source: sqlx::Error) -> Self {
        Self::Query { attempted, source }
    }

    /// The SQLSTATE, where Postgres answered with one.
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            Self::Query {
                source: sqlx::Error::Database(error),
                ..
            } => error.code().map(std::borrow::Cow::into_owned),
            _ => None,
        }
    }

    /// Whether the same statement may succeed at once: deadlock, serialisation failure, lock time-out.
    pub fn is_retryable_now(&self) -> bool {
        matches!(self.sqlstate().as_deref(), Some("40P01" | "40001" | "55P03"))
    }

    /// Whether a table, a column or a function is missing: the migrations were never applied, or not all of them.
    pub fn lacks_migrations(&self) -> bool {
        matches!(self.sqlstate().as_deref(), Some("42P01" | "42703" | "42883"))
    }

    /// Why no connection with TLS could be made: a certificate that isn't trusted, or an authority's file that can't be read.
    /// Unlike a database that is away that won't pass by itself.
    pub fn distrust(&self) -> Option<String> {
        match self {
            Self::Query {
                source: sqlx::Error::Io(error),
                ..
            } if matches!(
                error.kind(),
                // What rustls refuses; `sslrootcert` and its like.
                ErrorKind::InvalidData | ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
            {
                Some(error.to_string())
            }
            Self::Query {
                source: sqlx::Error::Tls(error),
                ..
            } => Some(error.to_string()),
            _ => None,
        }
    }

    /// Whether the database is away, shutting down, read-only after a failover, or out of connections: wait and try again.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Query { source, .. } => match source {
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Protocol(_) => true,
                sqlx::Error::Database(error) => error.code().is_some_and(|code| {
                    // 08 connection, 53 resources, 57P operator intervention, 25006 read-only after a failover, XX server
                    code.starts_with("08")
                        || code.starts_with("53")
                        || code.starts_with("57P")
                        || code == "57014"
                        || code == "25006"
                }),
                _ => false,
            },
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_is_not_trusted_is_told_from_a_database_that_is_away() {
        let of = |kind| StoreError::query("connect", sqlx::Error::Io(std::io::Error::new(kind, "why")));
        assert_eq!(of(ErrorKind::InvalidData).distrust().as_deref(), Some("why"));
        assert_eq!(of(ErrorKind::NotFound).distrust().as_deref(), Some("why"));
        assert_eq!(of(ErrorKind::ConnectionRefused).distrust(), None);
        assert!(of(ErrorKind::InvalidData).is_unavailable() && of(ErrorKind::ConnectionRefused).is_unavailable());
        let unavailable = StoreError::query("connect", sqlx::Error::Tls("server does not support TLS".into()));
        assert_eq!(unavailable.distrust().as_deref(), Some("server does not support TLS"));
    }
}
