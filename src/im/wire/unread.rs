//! `get_c2c_unread_msg_num`: how many messages an account has not read, in all or from up to 10 peers.

use serde::{Deserialize, Serialize};

use super::{ErrorEntry, Malformed, RecipientError, failures, parse};
use crate::domain::AccountId;

/// The most peers of one call (im-api: `Peer_Account` has at most 10).
pub const MAX_PEERS: usize = 10;

/// The request.
#[derive(Serialize)]
pub(in crate::im) struct Request<'a> {
    #[serde(rename = "To_Account")]
    pub(in crate::im) user: &'a AccountId,
    #[serde(rename = "Peer_Account", skip_serializing_if = "<[_]>::is_empty")]
    pub(in crate::im) peers: &'a [AccountId],
}

/// Counts of unread messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnreadReply {
    /// From everyone; answered when no peers were named.
    pub total: Option<u64>,
    /// From each named peer, in the service's order.
    pub peers: Vec<UnreadCount>,
    /// The peers that could not be counted (70107: no such account).
    pub failed: Vec<RecipientError>,
}

/// How many messages of one peer are unread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadCount {
    /// Whose messages.
    #[serde(rename = "Peer_Account")]
    pub peer: AccountId,
    /// How many.
    #[serde(rename = "C2CUnreadMsgNum")]
    pub count: u64,
}

impl UnreadReply {
    /// Adds the answer for further peers.
    pub fn extend(&mut self, other: Self) {
        self.total = other.total.or(self.total);
        self.peers.extend(other.peers);
        self.failed.extend(other.failed);
    }
}

#[derive(Deserialize)]
struct Reply {
    #[serde(rename = "AllC2CUnreadMsgNum", default)]
    total: Option<u64>,
    #[serde(rename = "C2CUnreadMsgNumList", default)]
    peers: Option<Vec<UnreadCount>>,
    #[serde(rename = "ErrorList", default)]
    failed: Option<Vec<ErrorEntry>>,
}

pub(in crate::im) fn reply(bytes: &[u8]) -> Result<UnreadReply, Malformed> {
    let reply: Reply = parse(bytes)?;
    Ok(UnreadReply {
        total: reply.total,
        peers: reply.peers.unwrap_or_default(),
        failed: failures(reply.failed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::ErrorCode, im::wire::to_bytes};

    fn account(name: &str) -> AccountId {
        AccountId::parse(name).unwrap()
    }

    #[test]
    fn both_documented_shapes_are_read() {
        let total = reply(br#"{"ActionStatus": "OK", "ErrorCode": 0, "AllC2CUnreadMsgNum": 16}"#).unwrap();
        assert_eq!(
            total,
            UnreadReply {
                total: Some(16),
                ..UnreadReply::default()
            }
        );
        let peers = reply(
            br#"{"ErrorCode": 0, "C2CUnreadMsgNumList": [{"Peer_Account": "a", "C2CUnreadMsgNum": 12}],
            "ErrorList": [{"Peer_Account": "b", "ErrorCode": 70107}]}"#,
        )
        .unwrap();
        assert_eq!(peers.total, None);
        assert_eq!(
            peers.peers,
            [UnreadCount {
                peer: account("a"),
                count: 12
            }]
        );
        assert_eq!(
            peers.failed,
            [RecipientError {
                to: account("b"),
                code: ErrorCode(70107)
            }]
        );
    }

    #[test]
    fn no_peers_are_left_out_of_the_request() {
        let user = account("u");
        assert_eq!(
            to_bytes(&Request {
                user: &user,
                peers: &[]
            }),
            r#"{"To_Account":"u"}"#
        );
        let peers = [account("a"), account("b")];
        let request = to_bytes(&Request {
            user: &user,
            peers: &peers,
        });
        assert_eq!(request, r#"{"To_Account":"u","Peer_Account":["a","b"]}"#);
    }
}
