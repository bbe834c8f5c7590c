//! An app as the worker knows it: its client, its gate, and the keys of its budgets.

use std::{sync::Arc, time::Duration};

use super::gate::Gate;
use crate::{
    budget::BudgetKey,
    domain::{AccountId, AppName, Command},
    im::ImClient,
};

/// A configured app.
pub(super) struct App {
    /// Its name.
    pub(super) name: AppName,
    /// Its client.
    pub(super) client: ImClient,
    /// Whether it may be called now.
    pub(super) gate: Gate,
    keys: [BudgetKey; 7],
}

impl App {
    /// An app with an open gate.
    pub(super) fn new(client: ImClient, total_timeout: Duration) -> Self {
        let host: Arc<str> = client.app().host().into();
        let sdk_app_id = client.app().sdk_app_id;
        Self {
            name: client.app().name.clone(),
            gate: Gate::new(total_timeout + Duration::from_secs(5)),
            keys: Command::ALL.map(|command| BudgetKey {
                host: Arc::clone(&host),
                sdk_app_id,
                command,
            }),
            client,
        }
    }

    /// The key of a command's budget.
    pub(super) fn key(&self, command: Command) -> &BudgetKey {
        &self.keys[command.index()]
    }

    /// The account that the IM API uses as the sender where a job names none.
    pub(super) fn admin(&self) -> &AccountId {
        &self.client.app().admin
    }
}
