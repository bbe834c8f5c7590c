//! The routes, and what each answers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, FromRequest, Path, Query, Request, State},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use crate::{
    domain::{AppName, GroupName, JobId, job::RevokeTarget, pause::PauseScope, status::MessageState},
    store::{After, MessagePage, Store},
    telemetry::Metrics,
};

use super::{
    ApiError, HealthSource, Tokens,
    auth::guard,
    health::{healthz, readyz},
};

/// The longest body that is read: a revoke target with the most recipients, 100,000 of 32 bytes, quoted.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// The most messages of one page.
const MAX_PAGE: u32 = 10_000;

/// Carries revocations out.
#[async_trait]
pub trait Revoker: Send + Sync {
    /// Writes the tombstone and answers once it is committed.
    async fn revoke(&self, id: JobId, app: AppName, target: RevokeTarget) -> Result<(), RevokeError>;
}

/// Why a revocation was not taken.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The id names another job.
    #[error("the id {0} names another job already")]
    IdConflict(JobId),
    /// The app isn't configured.
    #[error("no app named {0} is configured")]
    UnknownApp(AppName),
    /// The database is away.
    #[error("the database is away")]
    Unavailable,
    /// Anything else; the cause is in the log.
    #[error("internal error")]
    Internal,
}

/// What the routes answer from.
#[derive(Clone)]
pub struct HttpState {
    /// Whether the worker is ready.
    pub health: Arc<dyn HealthSource>,
    /// The numbers.
    pub metrics: Arc<Metrics>,
    /// The records.
    pub store: Store,
    /// Takes revocations.
    pub revoker: Arc<dyn Revoker>,
    /// Who may look and act.
    pub tokens: Tokens,
    /// The namespace, shown in the overview.
    pub namespace: Arc<str>,
}

/// Every route.
pub(super) fn router(state: HttpState, patience: Duration) -> Router {
    let api = Router::new()
        .route("/api/jobs/{id}", get(job))
        .route("/api/groups/{group}", get(group))
        .route("/api/revocations", post(revoke))
        .route("/api/overview", get(overview))
        .route("/api/lanes/{lane}/pause", post(pause_lane))
        .route("/api/lanes/{lane}/resume", post(resume_lane))
        .layer(middleware::from_fn_with_state(state.clone(), guard));
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .merge(api)
        .fallback(|| async { ApiError::NotFound("there is nothing at this path".into()) })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(move |request, next| {
            in_time(patience, request, next)
        }))
        .with_state(state)
}

/// A body that trickles in, or a query that hangs, ends here.
async fn in_time(patience: Duration, request: Request, next: Next) -> Result<Response, ApiError> {
    tokio::time::timeout(patience, next.run(request))
        .await
        .map_err(|_| ApiError::Timeout)
}

async fn metrics(State(state): State<HttpState>) -> Result<impl IntoResponse, ApiError> {
    let text = state.metrics.encode().map_err(|_| ApiError::Internal)?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(CONTENT_TYPE, content_type)], text))
}

/// `?limit=&after=&state=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    limit: Option<u32>,
    after: Option<String>,
    state: Option<String>,
}

impl PageQuery {
    fn page(self) -> Result<MessagePage, ApiError> {
        let state = match self.state {
            None => None,
            Some(word) => Some(
                MessageState::parse(&word)
                    .ok_or_else(|| ApiError::Invalid(format!("state: {word:?} is no state of a message")))?,
            ),
        };
        let default = MessagePage::default();
        Ok(MessagePage {
            limit: self.limit.map_or(default.limit, |limit| limit.min(MAX_PAGE)),
            after: self.after.map(After::parse),
            state,
        })
    }
}

async fn job(
    State(state): State<HttpState>,
    Path(id): Path<String>,
    query: Result<Query<PageQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::Invalid(error.body_text()))?;
    let id = JobId::parse(&id).map_err(|error| ApiError::Invalid(format!("the job id {error}")))?;
    match state.store.job_status(&id, &query.page()?).await? {
        Some(status) => Ok(Json(status).into_response()),
        None => Err(ApiError::NotFound(format!("no job {id} is on record"))),
    }
}

async fn group(State(state): State<HttpState>, Path(group): Path<String>) -> Result<Response, ApiError> {
    let group = GroupName::parse(&group).map_err(|error| ApiError::Invalid(format!("the group {error}")))?;
    match state.store.group_status(&group).await? {
        Some(status) => Ok(Json(status).into_response()),
        None => Err(ApiError::NotFound(format!("no job of group {group} is on record"))),
    }
}

/// `?until=`: when a pause ends by itself, RFC 3339.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseQuery {
    until: Option<DateTime<Utc>>,
}

fn lane_of(name: &str) -> Result<PauseScope, ApiError> {
    PauseScope::parse("lane", name).ok_or_else(|| ApiError::NotFound(format!("there is no lane {name:?}")))
}

async fn pause_lane(
    State(state): State<HttpState>,
    Path(lane): Path<String>,
    query: Result<Query<PauseQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::Invalid(error.body_text()))?;
    let scope = lane_of(&lane)?;
    if query.until.is_some_and(|until| until <= Utc::now()) {
        return Err(ApiError::Invalid("until: is in the past".into()));
    }
    state.store.pause(&scope, query.until).await?;
    Ok(Json(json!({"lane": lane, "paused": true, "until": query.until})).into_response())
}

async fn resume_lane(State(state): State<HttpState>, Path(lane): Path<String>) -> Result<Response, ApiError> {
    state.store.resume(&lane_of(&lane)?).await?;
    Ok(Json(json!({"lane": lane, "paused": false})).into_response())
}

/// `?app=&id=`: the app whose messages are revoked, and the revoke job's id where the caller chooses it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeQuery {
    app: Option<String>,
    id: Option<String>,
}

async fn revoke(
    State(state): State<HttpState>,
    query: Result<Query<RevokeQuery>, axum::extract::rejection::QueryRejection>,
    request: Request,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::Invalid(error.body_text()))?;
    let is_json = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value
                .split(';')
                .next()
                .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
        });
    if !is_json {
        // A form of another site can't send this type without asking first.
        return Err(ApiError::Invalid("Content-Type must be application/json".into()));
    }
    let body = Bytes::from_request(request, &state).await.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::TooLarge { limit: MAX_BODY }
        } else {
            ApiError::Invalid("the body can't be read".into())
        }
    })?;
    let target = RevokeTarget::decode(&body).map_err(|error| ApiError::Invalid(error.sentence))?;
    let app = match query.app {
        Some(app) => AppName::parse(app).map_err(|error| ApiError::Invalid(format!("app {error}")))?,
        None => AppName::default_app(),
    };
    let id = match query.id {
        Some(id) => JobId::parse(id),
        None => JobId::parse(uuid::Uuid::new_v4().to_string()),
    }
    .map_err(|error| ApiError::Invalid(format!("id {error}")))?;
    state
        .revoker
        .revoke(id.clone(), app, target)
        .await
        .map_err(|error| match error {
            RevokeError::IdConflict(_) | RevokeError::UnknownApp(_) => ApiError::Invalid(error.to_string()),
            RevokeError::Unavailable => ApiError::Unavailable("the database"),
            RevokeError::Internal => ApiError::Internal,
        })?;
    Ok((StatusCode::ACCEPTED, Json(json!({"revocation": id}))).into_response())
}

async fn overview(State(state): State<HttpState>) -> Json<serde_json::Value> {
    let readiness = state.health.readiness();
    // While the database is away the rest is still worth showing.
    let backlog = state.store.backlog().await.ok().map(|backlog| {
        json!({"work": backlog.work, "past_due": backlog.past_due, "doubts": backlog.doubts, "outbox": backlog.outbox})
    });
    Json(json!({
        "namespace": &*state.namespace,
        "version": env!("CARGO_PKG_VERSION"),
        "time": Utc::now(),
        "ready": readiness.ready,
        "reasons": readiness.reasons,
        "notes": readiness.notes,
        "calls_in_flight": state.metrics.calls_in_flight(),
        "backlog": backlog,
    }))
}
