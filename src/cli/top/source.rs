//! Where `top` looks: a worker's overview, by HTTP.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use crate::{cli::output::usage, config::Settings};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A worker's API.
pub(super) struct Source {
    client: Client,
    overview: Url,
    token: Option<SecretString>,
}

impl Source {
    /// The worker of the settings, or the one that is named.
    pub(super) fn new(settings: &Settings, url: Option<&str>) -> anyhow::Result<Self> {
        let http = settings.require_http()?;
        let base = match (url, http.addr) {
            (Some(url), _) => url.to_owned(),
            (None, Some(mut addr)) => {
                // A worker that listens everywhere is asked here.
                if addr.ip().is_unspecified() {
                    addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                format!("http://{addr}")
            }
            (None, None) => return Err(usage("http.addr is empty: name a worker by --url http://host:port").into()),
        };
        let bad = |error: url::ParseError| usage(format!("--url takes http://host:port: {error}"));
        let overview = Url::parse(&base)
            .and_then(|base| base.join("/api/overview"))
            .map_err(bad)?;
        if !matches!(overview.scheme(), "http" | "https") {
            return Err(usage("--url takes http://host:port").into());
        }
        let token = http.readonly_token.as_ref().or(http.admin_token.as_ref()).cloned();
        let client = Client::builder().no_proxy().timeout(PATIENCE).build();
        Ok(Self {
            client: client.context("set up the HTTP client")?,
            overview,
            token,
        })
    }

    /// The address, for people.
    pub(super) fn url(&self) -> &str {
        self.overview.as_str()
    }

    /// Asks once.
    pub(super) async fn look(&self) -> anyhow::Result<Value> {
        let mut request = self.client.get(self.overview.clone());
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let answer = request
            .send()
            .await
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("no worker answers at {}", self.overview))?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => anyhow::bail!(
                "the worker at {} wants a token: set IM_DISPATCHER_READONLY_TOKEN or IM_DISPATCHER_ADMIN_TOKEN",
                self.overview
            ),
            status => anyhow::bail!("{} answers with HTTP status {status}", self.overview),
        }
        answer
            .json()
            .await
            .map_err(reqwest::Error::without_url)
            .with_context(|| format!("what {} answers is no overview", self.overview))
    }
}
