//! `admin_set_msg_read`: sets what a peer has sent to a user as read, up to now. The reply is the base alone.
//!
//! `MsgReadTime` is left out: its type differs between the documentation and the SDKs, and its default, now, is meant.

use serde::Serialize;

use crate::domain::AccountId;

/// The request.
#[derive(Serialize)]
pub(in crate::im) struct Request<'a> {
    /// Who reads.
    #[serde(rename = "Report_Account")]
    pub(in crate::im) user: &'a AccountId,
    /// Whose messages.
    #[serde(rename = "Peer_Account")]
    pub(in crate::im) peer: &'a AccountId,
}
