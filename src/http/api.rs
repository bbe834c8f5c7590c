//! The routes, and what each answers.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, Query, Request, State, rejection::QueryRejection},
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    domain::{AppName, GroupName, JobId, job::RevokeTarget, status::MessageState},
    fleet,
    store::{After, MessagePage, Store},
    telemetry::Metrics,
};

use super::{
    ApiError, HealthSource, Letters, Tokens, assets, audit,
    auth::{Access, guard, same_site},
    body::{MAX_BODY, RawJson},
    find,
    health::{healthz, readyz},
    letters, overview, pauses, session,
};

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
    /// The configured apps.
    pub apps: Arc<[AppName]>,
    /// All workers.
    pub fleet: fleet::View,
    /// This worker among them.
    pub worker: uuid::Uuid,
    /// The dead queue.
    pub letters: Letters,
}

/// Every route.
pub(super) fn router(state: HttpState, patience: Duration) -> Router {
    let guarded = Router::new()
        .route("/api/jobs/{id}", get(job))
        .route("/api/jobs/{id}/explain", get(find::explain))
        .route("/api/groups/{group}", get(group))
        .route("/api/search", get(find::search))
        .route("/api/doubts", get(find::doubts))
        .route("/api/parked", get(find::parked))
        .route("/api/overview", get(overview::overview))
        .route("/api/rates", get(overview::rates))
        .route("/api/audit", get(audit::log))
        .route("/api/dead-letters", get(letters::list))
        .route("/api/dead-letters/run", get(letters::run))
        .route("/api/dead-letters/{action}", post(letters::act))
        .route("/api/revocations", post(revoke))
        .route("/api/{scope}/{name}/pause", post(pauses::pause))
        .route("/api/{scope}/{name}/resume", post(pauses::resume))
        .layer(middleware::from_fn_with_state(state.clone(), guard));
    let session = get(session::show).post(session::sign_in).delete(session::sign_out);
    let api = guarded
        .route("/api/session", session)
        .layer(middleware::from_fn_with_state(state.clone(), same_site));
    assets::routes(Router::new())
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .merge(api)
        .fallback(|| async { ApiError::NotFound("there is nothing at this path".into()) })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(move |request, next| {
            in_time(patience, request, next)
        }))
        .layer(middleware::map_response(assets::harden))
        .with_state(state)
}

/// A body that trickles in, or a query that hangs, ends here.
async fn in_time(patience: Duration, request: Request, next: Next) -> Result<Response, ApiError> {
    tokio::time::timeout(patience, next.run(request))
        .await
        .map_err(|_| ApiError::Timeout)
}

async fn metrics(State(state): State<HttpState>) -> Result<impl IntoResponse, ApiError> {
    state.metrics.set_ready(state.health.readiness().ready);
    for (dependency, ready) in state.health.dependencies() {
        state.metrics.set_dependency_ready(dependency, ready);
    }
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
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
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

/// `?app=&id=`: the app whose messages are revoked, and the revoke job's id where the caller chooses it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeQuery {
    app: Option<String>,
    id: Option<String>,
}

async fn revoke(
    State(state): State<HttpState>,
    Extension(access): Extension<Access>,
    query: Result<Query<RevokeQuery>, QueryRejection>,
    RawJson(body): RawJson,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
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
    let shown = target.to_string();
    let deed = {
        let (revoker, id) = (Arc::clone(&state.revoker), id.clone());
        async move {
            revoker.revoke(id, app, target).await.map_err(|error| match error {
                RevokeError::IdConflict(_) | RevokeError::UnknownApp(_) => ApiError::Invalid(error.to_string()),
                RevokeError::Unavailable => ApiError::Unavailable("the database"),
                RevokeError::Internal => ApiError::Internal,
            })
        }
    };
    let told = format!("taken as revocation {id}");
    access.act(&state.store, "revoke", &shown, deed, |()| told).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({"revocation": id}))).into_response())
}
