//! What a worker takes of its settings without a new start, on SIGHUP: limits, send windows, caps, secrets.

use std::sync::Arc;

use tokio::signal::unix::Signal;
use tokio_util::sync::CancellationToken;

use super::{SharedLimits, limits_of};
use crate::{
    broker::Broker,
    budget::Budget,
    config::Settings,
    domain::{Lane, policy::LanePolicy},
    http::Tokens,
    im::ImClient,
    store::Store,
    worker::{LanePolicies, announce_windows},
};

/// Who has what can be changed.
pub(super) struct Reloads {
    pub(super) limits: SharedLimits,
    pub(super) budget: Budget,
    pub(super) policies: LanePolicies,
    pub(super) store: Store,
    pub(super) stopping: CancellationToken,
    pub(super) secrets: Secrets,
}

impl Reloads {
    /// Announces the windows, then reads the settings anew at each signal. Ends with the process.
    pub(super) async fn follow(self, mut hangups: Signal, reload: impl Fn() -> anyhow::Result<Settings> + Send) {
        announce_windows(&self.store, &self.policies.load_full(), [false; 3], &self.stopping).await;
        while hangups.recv().await.is_some() {
            if let Some(settings) = reload_limits(&reload, &self.limits, &self.budget) {
                reload_policies(&settings, &self.policies, &self.store, &self.stopping).await;
                self.secrets.take(&settings);
            }
        }
    }
}

/// The lanes' sending policies, by [`Lane::index`].
pub(super) fn policies_of(settings: &Settings) -> [LanePolicy; 3] {
    Lane::ALL.map(|lane| settings.lane(lane).policy.clone())
}

/// Takes the lanes' windows and caps of the settings, and wakes what waits for a window that isn't in force any more.
async fn reload_policies(settings: &Settings, policies: &LanePolicies, store: &Store, stopping: &CancellationToken) {
    let new = policies_of(settings);
    let old = policies.swap(Arc::new(new.clone()));
    let changed = Lane::ALL.map(|lane| {
        let lane = lane.index();
        old[lane].send_window != new[lane].send_window
    });
    announce_windows(store, &new, changed, stopping).await;
}

/// Who holds a secret that can be changed without a new start.
pub(super) struct Secrets {
    clients: Vec<ImClient>,
    stores: [Store; 2],
    broker: Broker,
    tokens: Tokens,
}

impl Secrets {
    pub(super) fn of(clients: &[ImClient], stores: [&Store; 2], broker: &Broker, tokens: &Tokens) -> Self {
        Self {
            clients: clients.to_vec(),
            stores: stores.map(Store::clone),
            broker: broker.clone(),
            tokens: tokens.clone(),
        }
    }

    /// Gives each the secret of the settings as they are now. What can't be taken stays as it was, and is named.
    fn take(&self, settings: &Settings) {
        let refused = |name: &str, error: &dyn std::fmt::Display| {
            tracing::error!(%error, "SIGHUP: {name} stays as it was");
        };
        for client in &self.clients {
            let Some(app) = settings.apps.get(&client.app().name) else {
                continue;
            };
            if let Err(error) = client.set_secret(app.secret.clone()) {
                refused(&format!("the secret of app {}", client.app().name), &error);
            }
        }
        match settings.require_database() {
            Ok(url) => {
                for store in &self.stores {
                    if let Err(error) = store.set_url(url) {
                        refused("database_url", &error);
                    }
                }
            }
            Err(error) => refused("database_url", &error),
        }
        if let Err(error) = self.broker.set_url(&settings.amqp_url) {
            refused("amqp_url", &error);
        }
        match settings.require_http() {
            Ok(http) => self.tokens.set(http.admin_token.as_ref(), http.readonly_token.as_ref()),
            Err(error) => refused("http.admin_token", &error),
        }
    }
}

/// Takes the limits of the settings as they are now, and answers the settings; wrong ones change nothing.
fn reload_limits(
    reload: &impl Fn() -> anyhow::Result<Settings>,
    limits: &SharedLimits,
    budget: &Budget,
) -> Option<Settings> {
    let checked = || {
        let settings = reload()?;
        // A wrong limit is found out here: what only some commands need is checked when it is asked for.
        settings.require_apps()?;
        Ok::<_, anyhow::Error>(settings)
    };
    match checked() {
        Ok(settings) => {
            let new = limits_of(&settings);
            let mut limits = limits.lock();
            let changed = new
                .iter()
                .filter(|(key, value)| limits.get(*key) != Some(*value))
                .count();
            // An app that is gone from the settings is still served until the worker starts anew.
            limits.extend(new);
            drop(limits);
            budget.reload();
            tracing::info!(
                changed,
                "SIGHUP: limits, send windows, caps and secrets are those of the settings; all else needs a new start"
            );
            Some(settings)
        }
        Err(error) => {
            tracing::error!(
                error = format!("{error:#}"),
                "SIGHUP: the settings are wrong; limits, send windows, caps and secrets stay"
            );
            None
        }
    }
}
