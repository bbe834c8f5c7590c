//! The broker layer against a real RabbitMQ (`AMQP_URL`): each test in a namespace of its own.
#![expect(clippy::unwrap_used, reason = "a test that can't go on panics")]

mod consuming;
mod dead_letters;
mod fixture;
mod private_broker;
#[path = "../support/private_broker.rs"]
mod private_broker_process;
mod publishing;
mod recovery;
#[path = "../support/relay.rs"]
mod relay;
mod tls;
mod topology;
