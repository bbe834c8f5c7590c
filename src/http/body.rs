//! A JSON body, read within the limits and refused by a sentence.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
};
use serde::de::DeserializeOwned;

use super::ApiError;

/// The longest body that is read: a revoke target with the most recipients, 100,000 of 32 bytes, quoted.
pub(super) const MAX_BODY: usize = 4 * 1024 * 1024;

/// A JSON body's bytes.
pub(super) struct RawJson(pub(super) Bytes);

/// A JSON body.
pub(super) struct JsonBody<T>(pub(super) T);

impl<S: Send + Sync> FromRequest<S> for RawJson {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            // A form of another site can't send this type without asking first.
            return Err(ApiError::Invalid("Content-Type must be application/json".into()));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::TooLarge { limit: MAX_BODY }
            } else {
                ApiError::Invalid("the body can't be read".into())
            }
        })?;
        Ok(Self(body))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let RawJson(body) = RawJson::from_request(request, state).await?;
        serde_json::from_slice(&body)
            .map(Self)
            // Its text names fields and places, never a value that was sent.
            .map_err(|error| ApiError::Invalid(format!("the body: {}", harmless(&error))))
    }
}

/// serde's message quotes unexpected values, which may be a token: only what names fields is passed on.
fn harmless(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("missing field") || text.starts_with("unknown field") || text.starts_with("unknown variant") {
        return text;
    }
    format!(
        "is not what is expected at line {}, column {}",
        error.line(),
        error.column()
    )
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}
