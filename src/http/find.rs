//! Which job is it, and why is it where it is?

use std::time::Instant;

use axum::{
    Json,
    extract::{Path, Query, State, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{ApiError, HttpState};
use crate::{
    domain::{AccountId, GroupName, JobId, status::MessageState},
    explain::{explain as explanation, knows_recipient, meaning},
    store::{MessagePage, StoreError},
};

/// Failed recipients of a batch that an explanation has.
const FAILURES: u32 = 10;
/// Rows of a page, unless told otherwise and at most.
const PAGE: u32 = 50;
const MAX_PAGE: u32 = 500;

/// `?q=&by=&before=&after=&limit=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SearchQuery {
    q: String,
    by: Option<By>,
    before: Option<DateTime<Utc>>,
    after: Option<String>,
    limit: Option<u32>,
}

/// By what a job is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Id,
    Recipient,
    Group,
}

/// `GET /api/search`: jobs by id (also its beginning), by recipient, by group; without `by` all three.
pub(super) async fn search(
    State(state): State<HttpState>,
    query: Result<Query<SearchQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let text = query.q.trim();
    if text.is_empty() || text.contains('\0') {
        return Err(ApiError::Invalid("q: what to look for is missing".into()));
    }
    let limit = query.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE);
    let wanted = |by| query.by.is_none_or(|only| only == by);
    let began = Instant::now();
    let by_id = async {
        match JobId::parse(text) {
            Ok(id) if wanted(By::Id) => state.store.find_by_id(id.as_str(), limit).await,
            _ => Ok(Vec::new()),
        }
    };
    let by_recipient = async {
        match AccountId::parse(text) {
            Ok(to) if wanted(By::Recipient) => state.store.find_by_recipient(&to, query.before, limit).await,
            _ => Ok(Vec::new()),
        }
    };
    let by_group = async {
        match GroupName::parse(text) {
            Ok(group) if wanted(By::Group) => {
                let jobs = state.store.find_by_group(&group, query.after.as_deref(), limit).await?;
                Ok::<_, StoreError>((jobs, state.store.find_groups(group.as_str()).await?))
            }
            _ => Ok((Vec::new(), Vec::new())),
        }
    };
    let (by_id, by_recipient, by_group) = tokio::join!(by_id, by_recipient, by_group);
    let (by_group, groups) = by_group?;
    Ok(Json(json!({
        "q": text,
        "limit": limit,
        "by_id": by_id?,
        "by_recipient": by_recipient?,
        "by_group": by_group,
        "groups": groups,
        "took_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    }))
    .into_response())
}

/// `?to=`: of a batch, its message to this recipient.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    to: Option<String>,
}

/// `GET /api/jobs/{id}/explain`: the object of `explain --json`.
pub(super) async fn explain(
    State(state): State<HttpState>,
    Path(id): Path<String>,
    query: Result<Query<ExplainQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let id = JobId::parse(&id).map_err(|error| ApiError::Invalid(format!("the job id {error}")))?;
    let to = query
        .to
        .map(AccountId::parse)
        .transpose()
        .map_err(|error| ApiError::Invalid(format!("to: {error}")))?;
    let unknown = || {
        ApiError::NotFound(format!(
            "no job {id} is on record; one that still waits in its queue isn't yet"
        ))
    };
    let facts = state.store.job_facts(&id, to.as_ref()).await?.ok_or_else(unknown)?;
    if let Some(to) = to.as_ref().filter(|to| !knows_recipient(&facts, to)) {
        return Err(ApiError::NotFound(format!("job {id} has no recipient {to}")));
    }
    let page = MessagePage {
        limit: if facts.message.is_some() { 0 } else { FAILURES },
        after: None,
        state: Some(MessageState::Failed),
    };
    let status = state.store.job_status(&id, &page).await?.ok_or_else(unknown)?;
    Ok(Json(explanation(&facts, status)).into_response())
}

/// `?limit=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitQuery {
    limit: Option<u32>,
}

impl LimitQuery {
    fn limit(&self) -> u32 {
        self.limit.unwrap_or(PAGE).clamp(1, MAX_PAGE)
    }
}

/// `GET /api/doubts`: calls whose outcome isn't known yet, the oldest first.
pub(super) async fn doubts(
    State(state): State<HttpState>,
    query: Result<Query<LimitQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let doubts = state.store.doubtful(query.limit()).await?;
    let doubts: Vec<Value> = doubts
        .into_iter()
        .map(|doubt| {
            let known = doubt.code.as_deref().and_then(meaning);
            let mut shown = serde_json::to_value(&doubt).unwrap_or_default();
            shown["meaning"] = json!(known.map(|known| known.meaning));
            shown["advice"] = json!(known.map(|known| known.advice));
            shown
        })
        .collect();
    Ok(Json(json!({"doubts": doubts})).into_response())
}

/// `GET /api/parked`: what waits for its time, what is due first first.
pub(super) async fn parked(
    State(state): State<HttpState>,
    query: Result<Query<LimitQuery>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    Ok(Json(json!({"parked": state.store.parked(query.limit()).await?})).into_response())
}
