//! Integration tests: the built binary against a real RabbitMQ and a real Postgres, named by `AMQP_URL` and
//! `DATABASE_URL`, and against the simulator of the IM API. `scripts/test.sh` brings the services and runs them all.
//!
//! One binary, a module per behaviour. Each test has its own database and its own namespace, so they run side by side;
//! each waits on observed facts with a deadline, never for a time.

#[cfg(test)]
mod command_line;
#[cfg(test)]
mod database_tls;
#[cfg(test)]
mod documented;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod producing;
#[cfg(test)]
mod support;
#[cfg(test)]
mod worker;
