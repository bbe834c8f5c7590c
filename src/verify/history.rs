//! Asks the IM history about a conversation, within a pace of its own.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use super::judge::{Sight, is_own, is_shown};
use crate::{
    domain::{AccountId, ErrorClass},
    im::{HistoryMessage, HistoryQuery, HistoryWalk, ImClient, ImError, MAX_PAGE},
    store::ScopeRecord,
};

/// Around the calls' times the history is asked this much wider: clocks differ.
const CLOCKS: i64 = 600;
/// Tries of a page while the service is ill.
const TRIES: u32 = 5;
/// Tries of a page while the service asks for less; the workers have the right of way.
const PATIENT_TRIES: u32 = 60;

/// A client of one app's history, with its pace.
#[derive(Debug)]
pub struct HistoryAsker {
    client: ImClient,
    pace: Option<DefaultDirectRateLimiter>,
    calls: AtomicU64,
}

/// Why one side could not be read to the end.
enum Blocked {
    /// It isn't shown to that side.
    Refused,
    /// It could not be asked.
    Failed(String),
}

impl HistoryAsker {
    /// Asks through `client`, at most `rate` times a second, one call at a time; `None`: as fast as it answers.
    pub fn new(client: ImClient, rate: Option<NonZeroU32>) -> Self {
        let pace = rate.map(|rate| RateLimiter::direct(Quota::per_second(rate).allow_burst(NonZeroU32::MIN)));
        Self {
            client,
            pace,
            calls: AtomicU64::new(0),
        }
    }

    /// Calls made.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Looks at the conversation of records that share sender and recipient: at the recipient's side, and at the
    /// sender's where that doesn't show everything (a side that cleared the conversation sees nothing of it).
    ///
    /// # Errors
    /// Where the service refuses the app's credentials: nothing can be asked then.
    pub(super) async fn look(&self, records: &[&ScopeRecord]) -> Result<Sight, ImError> {
        let Some(first) = records.first() else {
            return Ok(Sight::Seen(Vec::new()));
        };
        let (Ok(from), Ok(to)) = (AccountId::parse(&first.from), AccountId::parse(&first.to)) else {
            return Ok(Sight::Unasked("an account on record is not valid".to_owned()));
        };
        let begins = records.iter().map(|record| {
            record
                .msg_time
                .map_or(record.first_call, |at| at.min(record.first_call))
        });
        let ends = records
            .iter()
            .map(|record| record.msg_time.map_or(record.last_call, |at| at.max(record.last_call)));
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let window = (
            seconds(begins.min().unwrap_or(0).saturating_sub(CLOCKS)),
            seconds(ends.max().unwrap_or(0).saturating_add(CLOCKS)),
        );
        let mut messages = Vec::new();
        let mut read = false;
        for (operator, peer) in [(&to, &from), (&from, &to)] {
            match self.side(operator, peer, window, records, &mut messages).await? {
                Ok(()) => read = true,
                Err(Blocked::Refused) => {}
                Err(Blocked::Failed(why)) => return Ok(Sight::Unasked(why)),
            }
            if read && records.iter().all(|record| is_shown(record, &messages)) {
                return Ok(Sight::Seen(messages));
            }
        }
        Ok(if read { Sight::Seen(messages) } else { Sight::Refused })
    }

    /// Reads one side to the end, and keeps what belongs to a record and no side before has shown.
    async fn side(
        &self,
        operator: &AccountId,
        peer: &AccountId,
        (min_time, max_time): (u64, u64),
        records: &[&ScopeRecord],
        messages: &mut Vec<HistoryMessage>,
    ) -> Result<Result<(), Blocked>, ImError> {
        let mut walk = HistoryWalk::new(HistoryQuery {
            operator: operator.clone(),
            peer: peer.clone(),
            min_time,
            max_time,
            max_count: MAX_PAGE,
        });
        let mut tries = 0;
        loop {
            if walk.will_call() {
                if let Some(pace) = &self.pace {
                    pace.until_ready().await;
                }
                self.calls.fetch_add(1, Ordering::Relaxed);
            }
            let error = match walk.next_page(&self.client).await {
                None => return Ok(Ok(())),
                Some(Ok(page)) => {
                    tries = 0;
                    for message in page {
                        let known = messages.iter().any(|seen| seen.key == message.key);
                        if !known && records.iter().any(|record| is_own(record, &message)) {
                            messages.push(message);
                        }
                    }
                    continue;
                }
                Some(Err(error)) => error,
            };
            tries += 1;
            let pause = match error.class {
                ErrorClass::Auth => return Err(error),
                ErrorClass::Throttled if tries < PATIENT_TRIES => Duration::from_secs(1),
                ErrorClass::Transient | ErrorClass::Ambiguous if tries < TRIES && walk.will_call() => {
                    Duration::from_millis(200) * 2_u32.pow(tries)
                }
                ErrorClass::Transient | ErrorClass::Ambiguous | ErrorClass::Throttled => {
                    return Ok(Err(Blocked::Failed(format!("{}: {}", error.word(), error.text))));
                }
                _ => return Ok(Err(Blocked::Refused)),
            };
            tokio::time::sleep(pause).await;
        }
    }
}
