//! The control API, `/_sim/…`, for loopback only: what was accepted, and how the service behaves from now on.
//!
//! | request | body or query | does |
//! |---|---|---|
//! | `GET /_sim/report` | | the figures (see [`Report`](super::Report)) |
//! | `GET /_sim/messages` | `to`, `from`, `limit` (default 1,000) | messages, oldest first |
//! | `GET /_sim/deliveries` | | how often each body reached each recipient |
//! | `GET /_sim/calls` | `command`, `limit` (default 1,000) | the last calls |
//! | `GET /_sim/faults` | | the rules in force |
//! | `POST /_sim/faults` | `{"clear": bool, "add": ["sendmsg:never=0.01"]}` | changes them |
//! | `POST /_sim/limits` | `{"sdk_app_id", "calls_per_second": 200 or {"sendmsg": 200}, "recipients_per_minute", "app_calls_per_second"}` | what is given is set |
//! | `POST /_sim/accounts` | see [`AccountRules`] | replaces the rules |
//! | `POST /_sim/settings` | `{"dedup": "120s", "roam_lag": "0s", "latency": "30ms" or {"sendmsg": "30ms"}}` | what is given is set |
//! | `POST /_sim/apps` | `{"sdk_app_id", "admin", "secret"}` | adds an app or replaces its credentials |
//! | `POST /_sim/clock` | `{"advance": "120s"}` | puts the clock forward |
//! | `POST /_sim/clear` | `{"sdk_app_id", "owner", "peer"}` | deletes a conversation on its owner's side |
//! | `POST /_sim/reset` | | forgets messages, calls and counts |

use std::{borrow::Cow, collections::HashMap, time::Duration};

use http::{Method, StatusCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    core::{Core, micros},
    fault_rule::FaultRule,
    ledger::Arrival,
    options::{AccountRules, AppOptions},
};
use crate::domain::{Command, SdkAppId};

/// The path before what is asked for.
pub(super) const PREFIX: &str = "/_sim/";

/// How many messages or calls are listed if nobody says.
const DEFAULT_LIMIT: usize = 1_000;

/// One value for all commands, or some commands' own, by name.
#[derive(Deserialize)]
#[serde(untagged)]
enum PerCommand<T> {
    All(T),
    Each(HashMap<String, T>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultsRequest {
    #[serde(default)]
    clear: bool,
    #[serde(default)]
    add: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsRequest {
    sdk_app_id: Option<SdkAppId>,
    calls_per_second: Option<PerCommand<u32>>,
    recipients_per_minute: Option<u32>,
    app_calls_per_second: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsRequest {
    #[serde(default, with = "humantime_serde::option")]
    dedup: Option<Duration>,
    #[serde(default, with = "humantime_serde::option")]
    roam_lag: Option<Duration>,
    latency: Option<PerCommand<humantime_serde::Serde<Duration>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AppRequest {
    sdk_app_id: SdkAppId,
    admin: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClockRequest {
    #[serde(with = "humantime_serde")]
    advance: Duration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClearRequest {
    sdk_app_id: SdkAppId,
    owner: String,
    peer: String,
}

/// What a request comes to: JSON, or a status with a sentence.
type Outcome = Result<String, (StatusCode, String)>;

/// Answers a request of the control API with a status and JSON.
pub(super) fn handle(core: &Core, method: &Method, path: &str, query: &str, body: &[u8]) -> (StatusCode, String) {
    let query: HashMap<Cow<'_, str>, Cow<'_, str>> = url::form_urlencoded::parse(query.as_bytes()).collect();
    let outcome = match (method, path) {
        (&Method::GET, "report") => json(&core.report()),
        (&Method::GET, "messages") => messages(core, &query),
        (&Method::GET, "deliveries") => json(&core.deliveries()),
        (&Method::GET, "calls") => calls(core, &query),
        (&Method::GET, "faults") => json(&core.faults.report()),
        (&Method::POST, "faults") => parse(body).and_then(|request| set_faults(core, &request)),
        (&Method::POST, "limits") => parse(body).and_then(|request| set_limits(core, &request)),
        (&Method::POST, "accounts") => parse(body).map(|rules: AccountRules| {
            core.settings.rules.store(rules.into());
            done()
        }),
        (&Method::POST, "settings") => parse(body).and_then(|request| set_settings(core, &request)),
        (&Method::POST, "apps") => parse(body).map(|app: AppRequest| {
            core.add_app(AppOptions {
                sdk_app_id: app.sdk_app_id,
                admins: vec![app.admin],
                secret: app.secret.into(),
            });
            done()
        }),
        (&Method::POST, "clock") => parse(body).map(|request: ClockRequest| {
            core.clock.advance(request.advance);
            done()
        }),
        (&Method::POST, "clear") => parse(body).map(|request: ClearRequest| {
            core.clear_side(request.sdk_app_id, &request.owner, &request.peer);
            done()
        }),
        (&Method::POST, "reset") => {
            core.reset();
            Ok(done())
        }
        _ => Err((StatusCode::NOT_FOUND, format!("no {method} {PREFIX}{path}"))),
    };
    match outcome {
        Ok(text) => (StatusCode::OK, text),
        Err((status, error)) => (status, serde_json::json!({ "error": error }).to_string()),
    }
}

fn json(value: &impl Serialize) -> Outcome {
    serde_json::to_string(value).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn done() -> String {
    "{}".to_owned()
}

fn bad(sentence: impl Into<String>) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, sentence.into())
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, (StatusCode, String)> {
    serde_json::from_slice(body).map_err(|error| bad(error.to_string()))
}

fn limit(query: &HashMap<Cow<'_, str>, Cow<'_, str>>) -> Result<usize, (StatusCode, String)> {
    query.get("limit").map_or(Ok(DEFAULT_LIMIT), |text| {
        text.parse().map_err(|_| bad("limit is no count"))
    })
}

fn command(name: &str) -> Result<Command, (StatusCode, String)> {
    let found = Command::ALL.into_iter().find(|command| command.as_str() == name);
    found.ok_or_else(|| bad(format!("unknown command {name:?}")))
}

fn messages(core: &Core, query: &HashMap<Cow<'_, str>, Cow<'_, str>>) -> Outcome {
    let wanted = |name: &str, value: &str| query.get(name).is_none_or(|wanted| wanted == value);
    let mut messages = core.messages(|from, to| wanted("from", from) && wanted("to", to));
    messages.truncate(limit(query)?);
    json(&messages)
}

fn calls(core: &Core, query: &HashMap<Cow<'_, str>, Cow<'_, str>>) -> Outcome {
    let only = query.get("command").map(|name| command(name)).transpose()?;
    let limit = limit(query)?;
    let mut calls: Vec<Arrival> = Command::ALL
        .into_iter()
        .filter(|command| only.is_none_or(|only| only == *command))
        .flat_map(|command| core.arrivals(command, limit))
        .collect();
    calls.sort_by_key(|call| call.at);
    json(&&calls[calls.len().saturating_sub(limit)..])
}

fn set_faults(core: &Core, request: &FaultsRequest) -> Outcome {
    let rules: Vec<FaultRule> = request
        .add
        .iter()
        .map(|rule| rule.parse().map_err(|error| bad(format!("{rule}: {error}"))))
        .collect::<Result<_, _>>()?;
    if request.clear {
        core.faults.remove(|_| true);
    }
    for rule in rules {
        core.faults.add(rule, core.clock.now());
    }
    Ok(done())
}

fn set_limits(core: &Core, request: &LimitsRequest) -> Outcome {
    let known = core.limits(request.sdk_app_id).ok_or_else(|| bad("no such app"))?;
    let mut limits = known;
    match &request.calls_per_second {
        Some(PerCommand::All(calls)) => limits.calls_per_second = [*calls; 7],
        Some(PerCommand::Each(each)) => {
            for (name, calls) in each {
                limits.calls_per_second[command(name)?.index()] = *calls;
            }
        }
        None => {}
    }
    limits.recipients_per_minute = request.recipients_per_minute.unwrap_or(limits.recipients_per_minute);
    limits.app_calls_per_second = request.app_calls_per_second.unwrap_or(limits.app_calls_per_second);
    core.set_limits(request.sdk_app_id, limits);
    json(&limits)
}

fn set_settings(core: &Core, request: &SettingsRequest) -> Outcome {
    match &request.latency {
        Some(PerCommand::All(latency)) => {
            for command in Command::ALL {
                core.settings.set_latency(command, micros(**latency));
            }
        }
        Some(PerCommand::Each(each)) => {
            for (name, latency) in each {
                core.settings.set_latency(command(name)?, micros(**latency));
            }
        }
        None => {}
    }
    if let Some(dedup) = request.dedup {
        core.settings.set_dedup(micros(dedup));
    }
    if let Some(roam_lag) = request.roam_lag {
        core.settings.set_roam_lag(micros(roam_lag));
    }
    Ok(done())
}
