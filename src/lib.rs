//! im-dispatcher: the outbound dispatcher for Tencent Cloud IM.
//!
//! Jobs come from RabbitMQ, go through a rate budget to the IM REST API, and every MsgKey ends in Postgres.

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
