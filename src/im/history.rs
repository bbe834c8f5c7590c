//! How is a whole conversation read, page by page, without ever looping for ever? ("Pull" of the IM API.)
//!
//! The walk knows the guards and no HTTP, so that who pays for each page from a budget can ask between two pages;
//! [`super::ImClient::history`] is the same walk as a stream.

use std::collections::HashSet;

use futures::{
    Stream,
    stream::{self, StreamExt},
};

use super::{
    ImClient, ImError, ImErrorKind,
    wire::history::{HistoryCursor, HistoryMessage, HistoryPage, HistoryQuery},
};
use crate::domain::{Command, MsgKey};

/// The most pages of one walk. At 20 messages a page it is 200,000 messages between two accounts, far beyond what
/// the service keeps; the bound is for a service that never says that it is done.
pub const MAX_PAGES: u32 = 10_000;

/// A walk through a conversation's history, from the newest page to the oldest.
///
/// It ends when the service says that it is complete. It ends with an error of kind [`ImErrorKind::BadReply`] when the
/// service names no way on, comes back to a place where it was before, or has more than [`MAX_PAGES`] pages: what was
/// read until then is right, but it isn't all. A page that can't be fetched leaves the walk where it was.
#[derive(Debug)]
pub struct HistoryWalk {
    query: HistoryQuery,
    state: State,
    pages: u32,
    keys: HashSet<MsgKey>,
    visited: HashSet<HistoryCursor>,
}

#[derive(Debug)]
enum State {
    /// The next page begins here; `None` is the newest.
    At(Option<HistoryCursor>),
    /// It can't go on, which the caller has yet to hear.
    Stuck(&'static str),
    Done {
        complete: bool,
    },
}

impl HistoryWalk {
    /// Begins at the newest message of the query.
    pub fn new(query: HistoryQuery) -> Self {
        Self {
            query,
            state: State::At(None),
            pages: 0,
            keys: HashSet::new(),
            visited: HashSet::new(),
        }
    }

    /// Whether the next [`HistoryWalk::next_page`] makes an HTTP call.
    pub const fn will_call(&self) -> bool {
        matches!(self.state, State::At(_))
    }

    /// Whether the walk has come to the end of the history, so that a message that wasn't seen isn't there.
    pub const fn is_complete(&self) -> bool {
        matches!(self.state, State::Done { complete: true })
    }

    /// The messages of the next page that no page before had, in the service's order: at most one HTTP call.
    /// `None` once the walk has ended.
    pub async fn next_page(&mut self, client: &ImClient) -> Option<Result<Vec<HistoryMessage>, ImError>> {
        match &self.state {
            State::At(cursor) => Some(match client.history_page(&self.query, cursor.as_ref()).await {
                Ok(page) => Ok(self.take(page)),
                Err(error) => Err(error),
            }),
            State::Stuck(why) => {
                let error = ImError::without_code(Command::GetRoamMsg, ImErrorKind::BadReply, true, *why);
                self.state = State::Done { complete: false };
                Some(Err(error))
            }
            State::Done { .. } => None,
        }
    }

    fn take(&mut self, page: HistoryPage) -> Vec<HistoryMessage> {
        self.pages += 1;
        self.state = match page.next {
            _ if page.complete => State::Done { complete: true },
            None => State::Stuck("the service says that there is more but not where"),
            Some(next) if !self.visited.insert(next.clone()) => State::Stuck("the service's pages go in a circle"),
            Some(_) if self.pages >= MAX_PAGES => State::Stuck("the history has more pages than are read"),
            Some(next) => State::At(Some(next)),
        };
        let is_new = |message: &HistoryMessage| self.keys.insert(message.key.clone());
        page.messages.into_iter().filter(is_new).collect()
    }
}

/// The walk as a stream: each message once, then, should the history not be complete, an error; an error is the last
/// item.
pub(super) fn stream(client: ImClient, query: HistoryQuery) -> impl Stream<Item = Result<HistoryMessage, ImError>> {
    let walk = Some((client, HistoryWalk::new(query)));
    stream::unfold(walk, |walk| async move {
        let (client, mut walk) = walk?;
        match walk.next_page(&client).await? {
            Ok(messages) => Some((messages.into_iter().map(Ok).collect(), Some((client, walk)))),
            Err(error) => Some((vec![Err(error)], None)),
        }
    })
    .flat_map(stream::iter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::im::wire::history::tests::{message, query};

    fn page(keys: &[&str], complete: bool, next: Option<(u64, &str)>) -> HistoryPage {
        HistoryPage {
            messages: keys
                .iter()
                .map(|key| message(&format!(r#""MsgKey": "{key}""#)))
                .collect(),
            complete,
            next: next.map(|(last_msg_time, key)| HistoryCursor {
                last_msg_time,
                last_msg_key: key.to_owned(),
            }),
        }
    }

    fn keys(messages: &[HistoryMessage]) -> Vec<&str> {
        messages.iter().map(|message| message.key.as_str()).collect()
    }

    #[test]
    fn repeats_at_the_seam_of_two_pages_are_dropped() {
        let mut walk = HistoryWalk::new(query());
        assert_eq!(keys(&walk.take(page(&["c", "d"], false, Some((7, "c"))))), ["c", "d"]);
        assert!(walk.will_call());
        assert_eq!(keys(&walk.take(page(&["a", "b", "c"], true, None))), ["a", "b"]);
        assert!(walk.is_complete() && !walk.will_call());
    }

    #[test]
    fn a_service_without_end_does_not_make_a_walk_without_end() {
        let mut circle = HistoryWalk::new(query());
        circle.take(page(&["a"], false, Some((7, "a"))));
        circle.take(page(&["b"], false, Some((7, "b"))));
        assert!(circle.will_call());
        circle.take(page(&["c"], false, Some((7, "a"))));
        assert!(!circle.will_call() && !circle.is_complete());

        let mut nowhere = HistoryWalk::new(query());
        nowhere.take(page(&[], false, None));
        assert!(!nowhere.will_call() && !nowhere.is_complete());

        let mut endless = HistoryWalk::new(query());
        let mut pages = 0;
        while endless.will_call() {
            pages += 1;
            endless.take(page(&["a"], false, Some((7, &format!("k{pages}")))));
        }
        assert_eq!(pages, MAX_PAGES);
        assert!(!endless.is_complete());
    }
}
