//! The client over real HTTP on loopback: what it writes, what it reads, and what it says when it can't.

mod doubt;
mod operations;
mod secrets;
mod server;
mod tls;

use std::time::Duration;

use bytes::Bytes;

use super::{ClientOptions, ImClient, Pair, encode_send, options::tests::app};
use crate::domain::{AccountId, message::Message};

fn account(name: &str) -> AccountId {
    AccountId::parse(name).unwrap()
}

fn client_with(base_url: &str, options: ClientOptions) -> ImClient {
    ImClient::new(app(base_url), options).unwrap()
}

fn client(base_url: &str) -> ImClient {
    client_with(base_url, ClientOptions::default())
}

/// A client that soon gives up, for servers that never answer.
fn impatient(base_url: &str) -> ImClient {
    let total_timeout = Duration::from_millis(200);
    client_with(
        base_url,
        ClientOptions {
            total_timeout,
            ..ClientOptions::default()
        },
    )
}

/// A sendmsg body with this MsgSeq.
fn body(seq: u32) -> Bytes {
    let message = Message {
        text: Some("marked-text".into()),
        ..Message::default()
    };
    encode_send(None, &account("b"), &message, Pair { seq, random: 1 })
}
