//! The client over real HTTP on loopback: what it writes, what it reads, and what it says when it can't.

mod codes;
mod doubt;
mod encoding;
mod operations;
mod secrets;
mod server;
mod tls;

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

/// A sendmsg body with this MsgSeq.
fn body(seq: u32) -> Bytes {
    let message = Message {
        text: Some("marked-text".into()),
        ..Message::default()
    };
    encode_send(None, &account("b"), &message, Pair { seq, random: 1 })
}
