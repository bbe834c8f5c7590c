//! What the records say: the states of a recipient's message, and the numbers under which the database keeps them.

use super::job::{OnUnknown, Task};

/// The state of one recipient's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageState {
    /// Waits for a call.
    Pending,
    /// Claimed: a call is about to be written, or has been.
    Calling,
    /// A call may have been carried out: only reconciliation leads on.
    Doubt,
    /// The service has it; its MsgKey is on record.
    Sent,
    /// Surely not sent, and nothing will try again by itself.
    Failed,
    /// Revoked before it was sent.
    Cancelled,
    /// Its time was over before it was sent.
    Expired,
    /// Sent, and revoked.
    Revoked,
    /// Nobody can tell whether it was sent.
    Unknown,
    /// Held back by sending policy.
    Suppressed,
}

impl MessageState {
    /// Every state, in the order of the database's numbers.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Calling,
        Self::Doubt,
        Self::Sent,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
        Self::Revoked,
        Self::Unknown,
        Self::Suppressed,
    ];

    /// The database's number.
    pub const fn number(self) -> i16 {
        self as i16
    }

    /// The inverse of [`MessageState::number`].
    pub fn from_number(number: i16) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }

    /// The word of status objects; the three before an end state are all `pending` there.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending | Self::Calling | Self::Doubt => "pending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Suppressed => "suppressed",
        }
    }

    /// Whether nothing leads on from here but a revocation or an operator.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Calling | Self::Doubt)
    }
}

/// Who has a job: its delivery, or the table. A job goes from its queue to the table, never back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A delivery that isn't acknowledged yet.
    Queue,
    /// Rows of `work`.
    Table,
}

impl Owner {
    /// The database's number.
    pub const fn number(self) -> i16 {
        match self {
            Self::Queue => 0,
            Self::Table => 1,
        }
    }

    /// The inverse of [`Owner::number`].
    pub const fn from_number(number: i16) -> Self {
        if number == 0 { Self::Queue } else { Self::Table }
    }
}

/// The kinds of job by the database's number.
pub const JOB_TYPES: [&str; 7] = [
    "send",
    "batch_send",
    "revoke",
    "import",
    "mark_read",
    "unread",
    "history",
];

/// The database's number of a job's type.
pub const fn type_number(task: &Task) -> i16 {
    match task {
        Task::Send { .. } => 0,
        Task::BatchSend { .. } => 1,
        Task::Revoke(_) => 2,
        Task::Import { .. } => 3,
        Task::MarkRead { .. } => 4,
        Task::Unread { .. } => 5,
        Task::History { .. } => 6,
    }
}

/// The job type of a database's number.
pub fn type_name(number: i16) -> &'static str {
    usize::try_from(number)
        .ok()
        .and_then(|index| JOB_TYPES.get(index))
        .copied()
        .unwrap_or("unknown")
}

/// The database's number of an `on_unknown`.
pub const fn on_unknown_number(value: OnUnknown) -> i16 {
    match value {
        OnUnknown::Reconcile => 0,
        OnUnknown::Fail => 1,
        OnUnknown::Resend => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_numbers_are_pinned_and_invert() {
        for (number, state) in MessageState::ALL.into_iter().enumerate() {
            assert_eq!(state.number(), number as i16);
            assert_eq!(MessageState::from_number(number as i16), Some(state));
        }
        assert_eq!(MessageState::from_number(10), None);
        assert_eq!(MessageState::from_number(-1), None);
    }
}
