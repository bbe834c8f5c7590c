//! Many rows, some at a time: each slice is a statement and a transaction of its own, so that nothing is locked for long.

use sqlx::postgres::PgQueryResult;

use super::StoreError;

/// Rows of one slice.
pub(super) const SLICE: i64 = 5_000;

/// Slice after slice, until one isn't full. Answers how many rows it was; `what` names it in an error.
///
/// A closure that makes a future, not an `AsyncFn`, whose futures the compiler doesn't know to be `Send`.
pub(super) async fn slices<F>(what: &'static str, slice: impl Fn() -> F) -> Result<u64, StoreError>
where
    F: Future<Output = Result<PgQueryResult, sqlx::Error>>,
{
    let mut rows = 0;
    loop {
        let done = slice()
            .await
            .map_err(|error| StoreError::query(what, error))?
            .rows_affected();
        rows += done;
        if done < SLICE as u64 {
            return Ok(rows);
        }
    }
}
