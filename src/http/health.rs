//! Liveness and readiness.

use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use serde_json::json;

use super::HttpState;

/// Whether the worker can take a job at all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Topology, consumers, Postgres and migrations are there, and the worker isn't draining.
    pub ready: bool,
    /// Why not: one sentence each.
    pub reasons: Vec<String>,
    /// What is worth knowing and stops nothing: a paused app, an open circuit, a throttle.
    pub notes: Vec<String>,
}

/// Who knows whether the worker is ready. Asked at every probe, so it answers from memory.
pub trait HealthSource: Send + Sync {
    /// The state now.
    fn readiness(&self) -> Readiness;

    /// The services that the worker needs, by name, and whether each is there; for the metrics.
    fn dependencies(&self) -> Vec<(&'static str, bool)>;
}

/// `GET /healthz`: the process lives and its runtime turns.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// `GET /readyz`.
pub(super) async fn readyz(State(state): State<HttpState>) -> impl IntoResponse {
    let readiness = state.health.readiness();
    if readiness.ready {
        (StatusCode::OK, Json(json!({"ready": true, "notes": readiness.notes})))
    } else {
        let body = json!({"ready": false, "reasons": readiness.reasons});
        (StatusCode::SERVICE_UNAVAILABLE, Json(body))
    }
}
