//! im-dispatcher: the outbound dispatcher for Tencent Cloud IM.
//!
//! Jobs come from RabbitMQ, go through a rate budget to the IM REST API, and every MsgKey ends in Postgres.
//!
//! Mostly this crate is a program. As a library it is of use to
//! - publish jobs from Rust, and hear their outcomes: [`producer`], with the types of [`domain`];
//! - test what uses the IM service, without the service: [`simulator`];
//! - call the IM REST API by itself: [`im`];
//! - look at the records: [`store`], and [`explain`], which turns them into a timeline.
//!
//! ```
//! use im_dispatcher::domain::job::{Job, JobType};
//!
//! let job = Job::decode(br#"{"type": "send", "id": "otp-4711", "to": "alice", "message": {"text": "hi"}}"#, None)?;
//! assert_eq!(job.job_type(), JobType::Send);
//!
//! // What is no job is refused with the field and the reason.
//! let refused = Job::decode(br#"{"type": "send", "id": "otp-4711", "message": {"text": "hi"}}"#, None).unwrap_err();
//! assert_eq!(refused.to_string(), "to: is missing");
//! # Ok::<(), im_dispatcher::domain::job::DecodeError>(())
//! ```
//!
//! The names, the job format and the commands are the public contract (`docs/contract.md`); the modules below may change with any
//! version before 1.0.

pub mod app;
pub mod broker;
pub mod budget;
pub mod cli;
pub mod config;
pub mod domain;
pub mod explain;
mod fault;
pub mod fleet;
pub mod http;
pub mod im;
pub mod producer;
pub mod simulator;
pub mod store;
pub mod telemetry;
pub mod verify;
pub mod worker;
