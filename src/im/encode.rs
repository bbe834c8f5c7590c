//! Which bytes does a call send? Pure functions: the same arguments give the same bytes, in this version for ever.
//!
//! The service tells a repeat from a second message by sender, pair and content, so a repeat must be the same bytes.
//! Whoever changes what these functions write for any argument raises [`ENCODER_VERSION`]: a call that was begun under
//! another version then counts as one that the service doesn't recognise.

use bytes::Bytes;

use super::wire::{import, message::MsgBody, send, to_bytes};
use crate::domain::{AccountId, message::Message};

/// The version of the encoding, stored with each call.
pub const ENCODER_VERSION: i16 = 1;

/// MsgSeq and MsgRandom of a call: chosen once, stored before the first HTTP request, the same in each repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// MsgSeq. Always sent: where it is absent the service draws a new one per request and recognises no repeat.
    pub seq: u32,
    /// MsgRandom.
    pub random: u32,
}

/// The body of a sendmsg call. Without a sender the service uses the administrator.
///
/// The message's own `seq` and `random` are not looked at: whoever chose the pair has.
pub fn encode_send(sender: Option<&AccountId>, to: &AccountId, message: &Message, pair: Pair) -> Bytes {
    to_bytes(&send::Request::new(sender, to, message, pair))
}

/// The body of a batchsendmsg call to 1 to 500 recipients, in their given order. Repeats among them are the caller's
/// to remove. Callbacks can't be forbidden in a batch, so `forbid_callbacks` is not sent.
pub fn encode_batch(sender: Option<&AccountId>, to: &[AccountId], message: &Message, pair: Pair) -> Bytes {
    to_bytes(&send::Request::new(sender, to, message, pair).without_callback_control())
}

/// The body of an importmsg call: `timestamp` in Unix seconds; `sync_from_old_system` is 5 (on older services 1) for a
/// message that counts as unread, 2 for history. Of the message, import knows the body and the custom data only.
pub fn encode_import(
    from: &AccountId,
    to: &AccountId,
    message: &Message,
    pair: Pair,
    timestamp: u64,
    sync_from_old_system: u8,
) -> Bytes {
    to_bytes(&import::Request::new(
        from,
        to,
        message,
        pair,
        timestamp,
        sync_from_old_system,
    ))
}

/// The bytes of `MsgBody` as serialised: what the service's limit of 12 KB counts.
pub fn msg_body_len(message: &Message) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // What could not be serialised would be too long for every limit.
    serde_json::to_writer(&mut counter, &MsgBody(message)).map_or(usize::MAX, |()| counter.0)
}
