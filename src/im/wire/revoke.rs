//! `admin_msgwithdraw`: revokes one message at one recipient. The reply is the base alone.

use serde::Serialize;

use crate::domain::{AccountId, MsgKey};

/// The request.
#[derive(Serialize)]
pub(in crate::im) struct Request<'a> {
    /// The sender that the message really had: the administrator if the send named none.
    #[serde(rename = "From_Account")]
    pub(in crate::im) from: &'a AccountId,
    #[serde(rename = "To_Account")]
    pub(in crate::im) to: &'a AccountId,
    #[serde(rename = "MsgKey")]
    pub(in crate::im) key: &'a MsgKey,
}
