//! One look at the IM history: does either side show the message of a call whose answer was lost?

use std::time::Duration;

use chrono::Utc;

use super::{
    context::{CallFailure, Errand, Halt},
    due::LEASE,
    part::time_of,
    reconcile::Inquiry,
};
use crate::{
    domain::{AccountId, Command, ErrorClass},
    im::{HistoryMessage, HistoryQuery, HistoryWalk, ImError, MAX_PAGE, names_no_account},
    store::{DoubtfulMember, Found},
};

/// Around the call's time the history is asked this much wider: clocks differ.
const CLOCKS: Duration = Duration::from_mins(10);
/// What the history says of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sight {
    /// There it is.
    Seen(Found),
    /// On neither side, to the end.
    Absent,
    /// The account doesn't exist, so it has no message, now or listed later.
    Nobody,
    /// It can't tell, now and later.
    Blind(String),
    /// It couldn't be asked now.
    Later(Duration),
}

impl Inquiry<'_> {
    /// Looks for one member's message on both sides.
    pub(super) async fn sight(&self, member: &DoubtfulMember) -> Result<Sight, Halt> {
        let (Ok(from), Ok(to)) = (
            AccountId::parse(&self.doubt.sender),
            AccountId::parse(&member.member.to),
        ) else {
            return Ok(Sight::Blind("an account on record is not valid".to_owned()));
        };
        // A side that deleted or cleared the conversation no longer sees it; with SyncOtherMachine 2 only the
        // recipient does.
        let mut blind = None;
        let (mut absent, mut nobody) = (false, false);
        for (operator, peer) in [(&to, &from), (&from, &to)] {
            match self.side(member, operator, peer, &from, &to).await? {
                Ok(Some(found)) => return Ok(Sight::Seen(found)),
                Ok(None) => absent = true,
                Err(error) if error.code.is_some_and(names_no_account) => nobody = true,
                Err(error) => match error.class {
                    ErrorClass::Transient | ErrorClass::Ambiguous => return Ok(Sight::Later(Duration::from_secs(2))),
                    ErrorClass::Throttled => return Ok(Sight::Later(Duration::from_secs(1))),
                    ErrorClass::Auth => return Ok(Sight::Later(Duration::from_secs(20))),
                    _ => blind = Some(error.word()),
                },
            }
        }
        Ok(match blind {
            // The side that can be asked is the recipient's or the sender's; one of them must list the message.
            Some(word) if !absent => Sight::Blind(format!("the history refuses to tell ({word})")),
            None if nobody && !absent => Sight::Nobody,
            _ => Sight::Absent,
        })
    }

    /// Walks one side's history to the end, or to the message.
    async fn side(
        &self,
        member: &DoubtfulMember,
        operator: &AccountId,
        peer: &AccountId,
        from: &AccountId,
        to: &AccountId,
    ) -> Result<Result<Option<Found>, ImError>, Halt> {
        let Self {
            ctx, unit, app, doubt, ..
        } = self;
        let now = Utc::now().timestamp();
        let query = HistoryQuery {
            operator: operator.clone(),
            peer: peer.clone(),
            min_time: now
                .saturating_sub_unsigned((doubt.since_first + CLOCKS).as_secs())
                .max(0) as u64,
            max_time: now.saturating_add_unsigned(CLOCKS.as_secs()).max(0) as u64,
            max_count: MAX_PAGE,
        };
        let errand = Errand {
            app,
            command: Command::GetRoamMsg,
            lane: unit.lane,
            group: unit.group.as_ref(),
            recipients: 1,
        };
        let mut walk = HistoryWalk::new(query);
        while walk.will_call() {
            let Some(slot) = ctx.slot(errand).await else {
                return Ok(Err(stalled()));
            };
            // Each page has a slot of its own; the walk makes at most one call for it.
            let deadline = std::time::Instant::now() + LEASE / 2;
            let page = ctx
                .call(errand, slot, deadline, || async {
                    walk.next_page(&app.client).await.transpose()
                })
                .await;
            match page {
                Ok(Some(messages)) => {
                    if let Some(found) = self.own(member, &messages, from, to).await? {
                        return Ok(Ok(Some(found)));
                    }
                }
                Ok(None) => break,
                Err(CallFailure::TooLate) => return Ok(Err(stalled())),
                Err(CallFailure::Im(error)) => return Ok(Err(*error)),
            }
        }
        // A walk that couldn't go on says so now, without a call.
        Ok(match walk.next_page(&app.client).await {
            Some(Err(error)) => Err(error),
            _ => Ok(None),
        })
    }

    /// The message of this call among those of a page; one that another record owns is not.
    async fn own(
        &self,
        member: &DoubtfulMember,
        messages: &[HistoryMessage],
        from: &AccountId,
        to: &AccountId,
    ) -> Result<Option<Found>, Halt> {
        let pair = self.doubt.pair;
        let start = format!("{}_{}_", pair.seq, pair.random);
        for message in messages {
            let same_pair = (message.seq == Some(pair.seq) && message.random == Some(pair.random))
                || message.key.as_str().starts_with(&start);
            if !same_pair || message.from != *from || message.to != *to {
                continue;
            }
            let owned = self
                .ctx
                .persist(|| {
                    self.ctx.store.key_owned_elsewhere(
                        self.unit,
                        member.member.idx,
                        from.as_str(),
                        to.as_str(),
                        message.key.as_str(),
                    )
                })
                .await?;
            if !owned {
                return Ok(Some(Found {
                    idx: member.member.idx,
                    msg_key: message.key.to_string(),
                    msg_time: message.timestamp.or_else(|| time_of(message.key.as_str())),
                }));
            }
        }
        Ok(None)
    }
}

/// The history's budget gave no slot in time.
fn stalled() -> ImError {
    ImError::not_asked(Command::GetRoamMsg, "the budget of the history gave no slot in time")
}
