//! The HTTP server: does the process live, can it work, what do its numbers say; the API and the dashboard, for who may look
//! and who may act.
//!
//! Answers only. Whether the worker is ready and how a revocation is carried out is asked through [`HealthSource`] and
//! [`Revoker`], which the composition root fills; statuses come from the store.

mod api;
mod assets;
mod audit;
mod auth;
mod body;
mod error;
mod find;
mod health;
mod letters;
mod overview;
mod pauses;
mod server;
mod session;
#[cfg(test)]
mod tests;

pub use api::{HttpState, RevokeError, Revoker};
pub use auth::Tokens;
pub use error::ApiError;
pub use health::{HealthSource, Readiness};
pub use letters::Letters;
pub use server::{Limits, Server};
