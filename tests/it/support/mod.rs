//! What do the integration tests stand on? A world for each test (database, namespace, broker client), the processes
//! of the binary, links that can be cut, and waiting for facts. Knows the public contract only: what it sends and sees
//! is what any producer or operator could.

mod broker;
mod database;
mod net;
mod postgres;
mod process;
mod relay;
mod services;
mod wait;
mod worker;
mod world;

pub(crate) use broker::{Letter, TestBroker};
pub(crate) use database::TestDatabase;
pub(crate) use net::free_port;
pub(crate) use postgres::PrivatePostgres;
pub(crate) use process::{Process, binary};
pub(crate) use relay::Relay;
pub(crate) use services::Services;
pub(crate) use wait::eventually;
pub(crate) use worker::Worker;
pub(crate) use world::World;
