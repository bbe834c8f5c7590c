//! Pausing and resuming a lane, a group or an app.

use axum::{
    Extension, Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::{ApiError, HttpState, auth::Access};
use crate::domain::pause::{PauseScope, pause_end};

/// `?until=`: when a pause ends by itself, RFC 3339.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PauseQuery {
    until: Option<DateTime<Utc>>,
}

/// The scope of `/api/{lanes|groups|apps}/{name}/…`, and its kind.
fn scope_of(state: &HttpState, scopes: &str, name: &str) -> Result<(&'static str, PauseScope), ApiError> {
    let kind = match scopes {
        "lanes" => "lane",
        "groups" => "group",
        "apps" => "app",
        _ => return Err(ApiError::NotFound("there is nothing at this path".into())),
    };
    let known = PauseScope::parse(kind, name).filter(|scope| match scope {
        PauseScope::App(app) => state.apps.contains(app),
        PauseScope::Lane(_) | PauseScope::Group(_) => true,
    });
    known
        .map(|scope| (kind, scope))
        .ok_or_else(|| ApiError::NotFound(format!("there is no {kind} {name:?}")))
}

/// `POST /api/{lanes|groups|apps}/{name}/pause`.
pub(super) async fn pause(
    State(state): State<HttpState>,
    Extension(access): Extension<Access>,
    Path((scopes, name)): Path<(String, String)>,
    query: Result<Query<PauseQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(PauseQuery { until }) = query?;
    let (kind, scope) = scope_of(&state, &scopes, &name)?;
    if until.is_some_and(|until| until <= Utc::now()) {
        return Err(ApiError::Invalid("until: is in the past".into()));
    }
    let target = scope.to_string();
    let deed = {
        let (store, scope) = (state.store.clone(), scope.clone());
        async move { Ok(store.pause(&scope, until).await?) }
    };
    access
        .act(&state.store, "pause", &target, deed, move |()| pause_end(until))
        .await?;
    state.fleet.refresh();
    Ok(Json(json!({kind: scope.name(), "paused": true, "until": until})).into_response())
}

/// `POST /api/{lanes|groups|apps}/{name}/resume`.
pub(super) async fn resume(
    State(state): State<HttpState>,
    Extension(access): Extension<Access>,
    Path((scopes, name)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    let (kind, scope) = scope_of(&state, &scopes, &name)?;
    let target = scope.to_string();
    let deed = {
        let (store, scope) = (state.store.clone(), scope.clone());
        async move { Ok(store.resume(&scope).await?) }
    };
    let told = |was: &bool| if *was { "resumed" } else { "it wasn't paused" }.to_owned();
    access.act(&state.store, "resume", &target, deed, told).await?;
    state.fleet.refresh();
    Ok(Json(json!({kind: scope.name(), "paused": false})).into_response())
}
