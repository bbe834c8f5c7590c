//! A database of the test's own.

use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions};
use url::Url;

use super::Services;

/// An empty database on the server of `DATABASE_URL`. Dropped with this value; kept, and its name printed, if the test
/// failed.
#[derive(Debug)]
pub(crate) struct TestDatabase {
    admin_url: String,
    name: String,
    url: String,
}

impl TestDatabase {
    /// Creates it.
    pub(crate) async fn create(services: &Services) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "im_test_{}_{}_{:04x}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed),
            rand::random::<u16>()
        );
        let mut url = Url::parse(&services.database_url).expect("DATABASE_URL is no URL");
        url.set_path(&name);
        execute(&services.database_url, format!("CREATE DATABASE {name}")).await;
        Self {
            admin_url: services.database_url.clone(),
            name,
            url: url.into(),
        }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A pool of its own, to look at the tables.
    pub(crate) async fn pool(&self) -> PgPool {
        PgPool::connect_with(
            self.url
                .parse::<PgConnectOptions>()
                .unwrap()
                .disable_statement_logging(),
        )
        .await
        .unwrap()
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the test failed, so its database is kept: {}", self.name);
            return;
        }
        // FORCE: a worker that was killed may still have sessions there.
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let url = self.admin_url.clone();
        super::process::on_another_thread(async move { execute(&url, statement).await });
    }
}

async fn execute(url: &str, statement: String) {
    let mut connection = PgConnection::connect(url).await.expect("connect to DATABASE_URL");
    sqlx::query(AssertSqlSafe(statement))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}
