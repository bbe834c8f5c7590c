//! How the API says no: a status and `{"error": {"code", "message"}}`.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::store::StoreError;

/// An error of the API.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// No token, or a wrong one.
    #[error("a bearer token is required: Authorization: Bearer …")]
    Unauthorized,
    /// Somebody tried to sign in with a token that isn't ours.
    #[error("the token is wrong")]
    WrongToken,
    /// Something else has to end first.
    #[error("{0}")]
    Conflict(&'static str),
    /// Too many requests of that kind.
    #[error("{0}")]
    TooMany(&'static str),
    /// The token may only look, or the request comes from another site.
    #[error("{0}")]
    Forbidden(&'static str),
    /// Nothing of that name.
    #[error("{0}")]
    NotFound(String),
    /// The request is wrong; the sentence names the field.
    #[error("{0}")]
    Invalid(String),
    /// The body is longer than is read.
    #[error("the body is longer than {limit} bytes")]
    TooLarge {
        /// What is read.
        limit: usize,
    },
    /// The request took too long to arrive or to answer.
    #[error("the request was not complete in time")]
    Timeout,
    /// The database, or what else the answer needs, is away.
    #[error("{0} is not available; try again")]
    Unavailable(&'static str),
    /// A fault of ours; its cause is in the log.
    #[error("internal error; its cause is in the log")]
    Internal,
}

impl ApiError {
    const fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stable word.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::WrongToken => "wrong-token",
            Self::Conflict(_) => "conflict",
            Self::TooMany(_) => "too-many",
            Self::Forbidden(_) => "forbidden",
            Self::NotFound(_) => "not-found",
            Self::Invalid(_) => "invalid",
            Self::TooLarge { .. } => "too-large",
            Self::Timeout => "timeout",
            Self::Unavailable(_) => "unavailable",
            Self::Internal => "internal",
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.is_unavailable() {
            return Self::Unavailable("the database");
        }
        tracing::error!(error = &error as &dyn std::error::Error, "a query of the API failed");
        Self::Internal
    }
}

impl From<axum::extract::rejection::QueryRejection> for ApiError {
    fn from(rejection: axum::extract::rejection::QueryRejection) -> Self {
        Self::Invalid(rejection.body_text())
    }
}

impl From<crate::broker::BrokerError> for ApiError {
    fn from(error: crate::broker::BrokerError) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "RabbitMQ could not be asked");
        Self::Unavailable("RabbitMQ")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(json!({"error": {"code": self.code(), "message": self.to_string()}}));
        let mut response = (self.status(), body).into_response();
        if matches!(self, Self::Unauthorized) {
            response.headers_mut().insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"im-dispatcher\""),
            );
        }
        response
    }
}
