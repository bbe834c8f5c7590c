//! Where are RabbitMQ and Postgres, and may this test stop them?

use std::{path::PathBuf, process::Command};

/// The services that the environment names.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    /// `DATABASE_URL`, of an account that may create databases.
    pub(crate) database_url: String,
    /// `AMQP_URL`, of an account that may declare and delete.
    pub(crate) amqp_url: String,
}

impl Services {
    /// From the environment. Panics where a variable is missing: a test that silently passed without its services would
    /// be worse than none.
    pub(crate) fn from_env() -> Self {
        let required = |name: &str| {
            std::env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| {
                panic!(
                    "{name} isn't set: integration tests need a RabbitMQ and a Postgres. Run scripts/test.sh, which starts \
                     them, or: scripts/services.sh up; eval \"$(scripts/services.sh env)\""
                )
            })
        };
        Self {
            database_url: required("DATABASE_URL"),
            amqp_url: required("AMQP_URL"),
        }
    }

    /// Whether the services are private to this run, so that a test may kill them: one that is given by its URL is
    /// somebody else's. Such tests take every other test's services down with them, so they run in scripts/chaos.sh and
    /// not beside others.
    pub(crate) fn are_private() -> bool {
        std::env::var("IMD_PRIVATE_SERVICES").is_ok_and(|value| value == "1")
    }

    /// Runs `scripts/services.sh` with a verb, e.g. `status` or `restart-broker`; true if it succeeded.
    pub(crate) fn script(arguments: &[&str]) -> bool {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/services.sh");
        Command::new(script)
            .args(arguments)
            .output()
            .is_ok_and(|output| output.status.success())
    }
}
