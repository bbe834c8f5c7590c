//! The private RabbitMQ and Postgres, which this run may kill: by `scripts/services.sh`, never by a name or a port.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool, postgres::PgConnectOptions};

use crate::cluster::Cluster;

/// The services of this run.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    /// The cluster, if RabbitMQ is one.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// An account that may create databases.
    pub(crate) database_url: String,
    /// An account that may declare; of a cluster each node's URL, with commas between.
    pub(crate) amqp_url: String,
}

impl Services {
    /// From the environment, and only if they are private: one that is given by its URL is somebody else's.
    pub(crate) fn private() -> anyhow::Result<Self> {
        ensure!(
            std::env::var("IMD_PRIVATE_SERVICES").is_ok_and(|value| value == "1"),
            "the services aren't private to this run: start it by scripts/chaos.sh"
        );
        Ok(Self {
            cluster: None,
            database_url: std::env::var("DATABASE_URL").context("DATABASE_URL")?,
            amqp_url: std::env::var("AMQP_URL").context("AMQP_URL")?,
        })
    }

    /// Makes one cluster of the RabbitMQ nodes.
    pub(crate) async fn form_cluster(&mut self) -> anyhow::Result<()> {
        self.cluster = Some(Arc::new(Cluster::form().await?));
        Ok(())
    }

    /// Creates a database and gives its URL.
    pub(crate) async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        let mut connection = PgConnection::connect(&self.database_url).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await?;
        connection.close().await?;
        let mut url = url::Url::parse(&self.database_url)?;
        url.set_path(name);
        Ok(url.into())
    }

    /// A pool to look at the records.
    pub(crate) async fn pool(&self, database: &str) -> anyhow::Result<PgPool> {
        let options: PgConnectOptions = database.parse()?;
        Ok(PgPool::connect_with(options.disable_statement_logging()).await?)
    }

    /// SIGKILL to the broker, and its start on the same data.
    pub(crate) async fn kill_broker(&self) -> anyhow::Result<()> {
        script(&["restart-broker"], None).await?;
        Ok(())
    }

    /// Postgres ends as by a power cut, and starts again.
    pub(crate) async fn crash_postgres(&self) -> anyhow::Result<()> {
        script(&["restart-postgres", "immediate"], None).await?;
        Ok(())
    }

    /// Lets the broker write the names of its new queues to disk.
    pub(crate) async fn sync_queues(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.sync_queues().await;
        } else {
            // Not there in other versions, which need it not: the failure is no one's.
            drop(script(&["rabbitmqctl", "eval", "dets:sync(ra_directory_reverse)."], None).await);
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Runs `services.sh`, about a RabbitMQ node where one is named, and gives what it prints.
pub(crate) async fn script(arguments: &[&str], node: Option<&str>) -> anyhow::Result<String> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/services.sh");
    // The given URLs would be taken for somebody else's services.
    let output = tokio::process::Command::new(script)
        .args(arguments)
        .env_remove("DATABASE_URL")
        .env_remove("AMQP_URL")
        .envs(node.map(|node| ("IMD_NODE", node)))
        .stdin(Stdio::null())
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "services.sh {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
