//! Every act is noted before it is done, and completed after it.

use axum::{
    Json,
    extract::{Query, State},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    ApiError, HttpState,
    auth::{Access, Via},
};
use crate::store::{NewAudit, Store, StoreError};

/// The most rows of one page.
const MAX_PAGE: u32 = 500;

/// An act that is under way.
pub(super) struct Entry {
    store: Store,
    id: i64,
}

impl Access {
    /// Notes that something is about to be done.
    pub(super) async fn begin(&self, store: &Store, action: &str, target: &str) -> Result<Entry, StoreError> {
        let audit = NewAudit {
            role: self.role.as_str(),
            actor: self.actor.as_deref(),
            via: match self.via {
                Via::Session => "session",
                Via::Bearer => "bearer",
                Via::Open => "open",
            },
            address: self.address.as_deref(),
            action,
            target,
        };
        let id = store.audit_begin(audit).await?;
        tracing::info!(action, target, by = self.actor, via = audit.via, "an act by HTTP");
        Ok(Entry {
            store: store.clone(),
            id,
        })
    }

    /// Does something, noted; `told` makes the sentence of its success. It goes on though who asked for it has gone.
    pub(super) async fn act<T: Send + 'static>(
        &self,
        store: &Store,
        action: &str,
        target: &str,
        deed: impl Future<Output = Result<T, ApiError>> + Send + 'static,
        told: impl FnOnce(&T) -> String + Send + 'static,
    ) -> Result<T, ApiError> {
        let entry = self.begin(store, action, target).await?;
        let going = tokio::spawn(async move {
            let result = deed.await;
            entry.end(result.as_ref().map(told).map_err(ToString::to_string)).await;
            result
        });
        going.await.map_err(|_| ApiError::Internal)?
    }
}

impl Entry {
    /// Notes how it ended. If that fails the row stays without a result: what was done was done.
    pub(super) async fn end(self, result: Result<String, String>) {
        let (done, detail) = match &result {
            Ok(detail) => (true, detail),
            Err(detail) => (false, detail),
        };
        if let Err(error) = self.store.audit_end(self.id, done, detail).await {
            tracing::warn!(%error, entry = self.id, "the audit log could not be completed");
        }
    }
}

/// `?before=&limit=`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogQuery {
    before: Option<i64>,
    limit: Option<u32>,
}

/// `GET /api/audit`: the newest first.
pub(super) async fn log(
    State(state): State<HttpState>,
    query: Result<Query<LogQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(100).min(MAX_PAGE);
    let entries = state.store.audit_log(query.before, limit).await?;
    Ok(Json(json!({"entries": entries})).into_response())
}
