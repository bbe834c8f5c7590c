//! Which worker processes are at work, so that a start knows whether one ended otherwise than in good order.

use uuid::Uuid;

use super::{Store, StoreError};

/// A worker process.
#[derive(Debug, Clone)]
pub struct WorkerRun {
    /// Its name for ever.
    pub id: Uuid,
    /// Its host.
    pub host: String,
    /// Its number there.
    pub pid: u32,
}

impl Store {
    /// Puts a start on record. True: a run before it ended uncleanly, and nobody has started since: one of this host that
    /// `lives` doesn't know any more, or one that hasn't been seen for a minute.
    pub async fn begin_run(&self, run: &WorkerRun, lives: impl Fn(u32) -> bool) -> Result<bool, StoreError> {
        let here = sqlx::query!("SELECT id, pid FROM worker_runs WHERE host = $1", run.host)
            .fetch_all(&self.pool)
            .await
            .map_err(|error| StoreError::query("read this host's workers", error))?;
        let dead: Vec<Uuid> = here
            .into_iter()
            .filter(|other| !u32::try_from(other.pid).is_ok_and(|pid| pid != run.pid && lives(pid)))
            .map(|other| other.id)
            .collect();
        let gone = sqlx::query_scalar!(
            r#"
            WITH gone AS (
                DELETE FROM worker_runs WHERE id = ANY ($1) OR seen_at < now() - interval '1 minute' RETURNING id
            ), own AS (
                INSERT INTO worker_runs (id, host, pid) VALUES ($2, $3, $4) ON CONFLICT (id) DO NOTHING
            )
            SELECT count(*) AS "gone!" FROM gone
            "#,
            &dead,
            run.id,
            run.host,
            run.pid as i32,
        )
        .fetch_one(&self.pool)
        .await
        .map_err(|error| StoreError::query("put a worker's start on record", error))?;
        Ok(gone > 0)
    }

    /// Says that a run goes on; also where another start took it for dead, since it was frozen.
    pub async fn keep_run(&self, run: &WorkerRun) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO worker_runs (id, host, pid) VALUES ($1, $2, $3)
             ON CONFLICT (id) DO UPDATE SET seen_at = clock_timestamp()",
            run.id,
            run.host,
            run.pid as i32,
        )
        .execute(&self.pool)
        .await
        .map_err(|error| StoreError::query("say that a worker goes on", error))?;
        Ok(())
    }

    /// Ends a run in good order.
    pub async fn end_run(&self, run: &WorkerRun) -> Result<(), StoreError> {
        sqlx::query!("DELETE FROM worker_runs WHERE id = $1", run.id)
            .execute(&self.pool)
            .await
            .map_err(|error| StoreError::query("end a worker's run", error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sqlx::PgPool;

    use super::*;

    fn run(host: &str, pid: u32) -> WorkerRun {
        WorkerRun {
            id: Uuid::new_v4(),
            host: host.to_owned(),
            pid,
        }
    }

    #[sqlx::test]
    async fn only_a_run_that_neither_ended_nor_lives_makes_the_next_start_a_careful_one(pool: PgPool) {
        let store = Store::of_pool(pool);
        let (first, second, elsewhere) = (run("a", 1), run("a", 2), run("b", 1));
        assert!(!store.begin_run(&first, |_| true).await.unwrap());
        assert!(
            !store.begin_run(&second, |pid| pid == 1).await.unwrap(),
            "the first lives"
        );
        assert!(
            !store.begin_run(&elsewhere, |_| false).await.unwrap(),
            "of another host it can't tell"
        );
        store.end_run(&second).await.unwrap();
        assert!(
            !store.begin_run(&run("a", 3), |pid| pid == 1).await.unwrap(),
            "it ended in good order"
        );
        assert!(
            store.begin_run(&run("a", 4), |pid| pid == 3).await.unwrap(),
            "the first is dead"
        );
        assert!(
            !store.begin_run(&run("a", 5), |pid| pid > 2).await.unwrap(),
            "that was told once"
        );
        assert!(
            store.begin_run(&run("a", 5), |pid| pid > 2).await.unwrap(),
            "a container's pid comes again"
        );
    }

    #[sqlx::test]
    async fn a_run_that_has_been_silent_for_a_minute_is_gone_wherever_it_ran_and_may_come_back(pool: PgPool) {
        let store = Store::of_pool(pool.clone());
        let (silent, other) = (run("a", 1), run("b", 1));
        store.begin_run(&silent, |_| true).await.unwrap();
        sqlx::query("UPDATE worker_runs SET seen_at = now() - interval '61 seconds'")
            .execute(&pool)
            .await
            .unwrap();
        assert!(store.begin_run(&other, |_| true).await.unwrap());
        store.keep_run(&silent).await.unwrap();
        store.keep_run(&other).await.unwrap();
        let runs: i64 = sqlx::query_scalar("SELECT count(*) FROM worker_runs")
            .fetch_one(&pool)
            .await
            .unwrap();
        assert_eq!(runs, 2);
    }
}
