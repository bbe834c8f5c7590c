//! The HTTP server: does the process live, can it work, what do its numbers say; a job's or group's status; revocations.
//!
//! Answers only. Whether the worker is ready and how a revocation is carried out is asked through [`HealthSource`] and
//! [`Revoker`], which the composition root fills; statuses come from the store.

mod api;
mod auth;
mod error;
mod health;
mod server;
#[cfg(test)]
mod tests;

pub use api::{HttpState, RevokeError, Revoker};
pub use auth::Tokens;
pub use error::ApiError;
pub use health::{HealthSource, Readiness};
pub use server::Server;
