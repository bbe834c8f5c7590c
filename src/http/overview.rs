//! Everything that changes from second to second.

use axum::{
    Extension, Json,
    extract::{Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use chrono::Utc;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, HttpState, auth::Access};
use crate::{explain::meaning, fleet::Overview};

/// `GET /api/overview`: this worker, then the fleet.
pub(super) async fn overview(State(state): State<HttpState>, Extension(access): Extension<Access>) -> Json<Value> {
    let readiness = state.health.readiness();
    let Overview {
        workers,
        budgets,
        errors,
        heads,
        depths,
        age_seconds,
    } = state.fleet.overview();
    let backlog = match depths.backlog {
        Some(backlog) => Some(backlog),
        // Nobody has looked yet. While the database is away the rest is still worth showing.
        None => state.store.backlog().await.ok().map(Into::into),
    };
    let errors: Vec<Value> = errors
        .into_iter()
        .map(|error| {
            let known = meaning(&error.code);
            json!({
                "command": error.command, "code": error.code, "count": error.count, "recent": error.recent,
                "meaning": known.map(|known| known.meaning), "advice": known.map(|known| known.advice),
            })
        })
        .collect();
    let lanes: Vec<Value> = depths
        .lanes
        .iter()
        .map(|lane| {
            let mut shown = serde_json::to_value(lane).unwrap_or_default();
            shown["head_published_at"] = json!(heads.get(lane.lane));
            shown
        })
        .collect();
    Json(json!({
        "namespace": &*state.namespace,
        "version": env!("CARGO_PKG_VERSION"),
        "time": Utc::now(),
        "ready": readiness.ready,
        "reasons": readiness.reasons,
        "notes": readiness.notes,
        "calls_in_flight": state.metrics.calls_in_flight(),
        "backlog": backlog,
        "role": access.role.as_str(),
        "worker": state.worker,
        "apps": &*state.apps,
        "workers": workers,
        "workers_age_seconds": age_seconds,
        "budgets": budgets,
        "errors": errors,
        "lanes": lanes,
        "depths_at": depths.at,
        "broker": depths.broker,
        "database": depths.database,
        "dead_letters": depths.dead_letters,
        "parked": depths.parked,
        "held_by_pauses": depths.held_by_pauses,
        "pauses": depths.pauses,
    }))
}

/// `?after=`: the last second that the caller has.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RatesQuery {
    after: Option<i64>,
}

/// `GET /api/rates`: what was done in each of the last seconds, ten minutes at most.
pub(super) async fn rates(
    State(state): State<HttpState>,
    query: Result<Query<RatesQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    Ok(Json(state.fleet.rates(query.after.unwrap_or(0))).into_response())
}
