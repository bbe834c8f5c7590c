//! The commands of the IM REST API: each has its own frequency limit, so a budget is kept per command.

use std::fmt;

/// A command of the IM service, `/v4/openim/<name>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Command {
    /// One message to one recipient.
    SendMsg,
    /// One message to up to 500 recipients.
    BatchSendMsg,
    /// A message imported with its own time.
    ImportMsg,
    /// A page of a conversation's history.
    GetRoamMsg,
    /// Revokes one message at one recipient.
    MsgWithdraw,
    /// Sets a conversation's messages to read.
    SetMsgRead,
    /// Counts unread messages.
    GetUnreadNum,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 7] = [
        Self::SendMsg,
        Self::BatchSendMsg,
        Self::ImportMsg,
        Self::GetRoamMsg,
        Self::MsgWithdraw,
        Self::SetMsgRead,
        Self::GetUnreadNum,
    ];

    /// The last segment of the URL path; also the label in metrics and the name in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SendMsg => "sendmsg",
            Self::BatchSendMsg => "batchsendmsg",
            Self::ImportMsg => "importmsg",
            Self::GetRoamMsg => "admin_getroammsg",
            Self::MsgWithdraw => "admin_msgwithdraw",
            Self::SetMsgRead => "admin_set_msg_read",
            Self::GetUnreadNum => "get_c2c_unread_msg_num",
        }
    }

    /// A small stable number for arrays and for the database.
    pub const fn index(self) -> usize {
        match self {
            Self::SendMsg => 0,
            Self::BatchSendMsg => 1,
            Self::ImportMsg => 2,
            Self::GetRoamMsg => 3,
            Self::MsgWithdraw => 4,
            Self::SetMsgRead => 5,
            Self::GetUnreadNum => 6,
        }
    }

    /// The inverse of [`Command::index`].
    pub fn from_index(index: i16) -> Option<Self> {
        Self::ALL.get(usize::try_from(index).ok()?).copied()
    }

    /// Whether a call that may have been carried out, or not, must be looked up before it is repeated:
    /// the two that make a message appear. Everything else is idempotent (import by its five equal fields,
    /// revoke by 20023) or only reads.
    pub const fn leaves_doubt(self) -> bool {
        matches!(self, Self::SendMsg | Self::BatchSendMsg)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
