//! Has this request been written? A request body that answers it, and that refuses to be written too late.
//!
//! The body is handed to the connection by the HTTP library's own task, so "was it written" and "give it up" are one
//! atomic step: either the body was taken, and the call is in doubt until it is answered, or it was given up, and no
//! one can take it any more. The deadline is checked at that step, after every wait for a connection.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

const WAITING: u8 = 0;
const TAKEN: u8 = 1;
const GIVEN_UP: u8 = 2;
const TOO_LATE: u8 = 3;

/// What became of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    /// It was handed to a connection.
    Yes,
    /// It never will be.
    No,
    /// It never will be, since the deadline had passed when a connection asked for it.
    TooLate,
}

/// The caller's end. Dropping it gives the request up, so that a cancelled call is never written afterwards.
pub(super) struct Guard(Arc<AtomicU8>);

/// The connection's end.
pub(super) struct GuardedBody {
    data: Option<Bytes>,
    deadline: Option<Instant>,
    /// The URL's `random`, which names the call in the log.
    random: u32,
    state: Arc<AtomicU8>,
}

/// Why the body refused to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request was given up before it was written")]
pub(super) struct NotWritten;

/// Wraps a request's body. It must not be empty: nobody asks an empty body for its bytes.
pub(super) fn guard(data: Bytes, deadline: Option<Instant>, random: u32) -> (Guard, GuardedBody) {
    debug_assert!(!data.is_empty(), "an empty body is written without being asked for");
    let state = Arc::new(AtomicU8::new(WAITING));
    (
        Guard(Arc::clone(&state)),
        GuardedBody {
            data: Some(data),
            deadline,
            random,
            state,
        },
    )
}

impl Guard {
    /// Gives the request up, if that is still possible, and says what became of it.
    pub(super) fn give_up(&self) -> Written {
        match self
            .0
            .compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire)
        {
            Ok(_) | Err(GIVEN_UP) => Written::No,
            Err(TOO_LATE) => Written::TooLate,
            Err(_) => Written::Yes,
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Body for GuardedBody {
    type Data = Bytes;
    type Error = NotWritten;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, NotWritten>>> {
        if self.data.is_none() {
            return Poll::Ready(None);
        }
        let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let next = if late { TOO_LATE } else { TAKEN };
        let taken = self
            .state
            .compare_exchange(WAITING, next, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        // Behind the last check: what a process that stops here writes when it goes on, only the service can refuse.
        crate::fault::strike("im.write");
        Poll::Ready(match self.data.take() {
            Some(data) if taken && !late => {
                // What the benchmark counts as the moment of sending.
                tracing::trace!(target: "im_dispatcher::wire", random = self.random, "a request is written");
                Some(Ok(Frame::data(data)))
            }
            _ => Some(Err(NotWritten)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn first_frame(body: &mut GuardedBody) -> Result<Bytes, NotWritten> {
        body.frame()
            .await
            .expect("one frame")
            .map(|frame| frame.into_data().unwrap())
    }

    #[tokio::test]
    async fn a_body_that_was_taken_can_no_longer_be_given_up() {
        let (guard, mut body) = guard("{}".into(), None, 7);
        assert_eq!(body.size_hint().exact(), Some(2));
        assert_eq!(first_frame(&mut body).await, Ok("{}".into()));
        assert!(body.is_end_stream());
        assert_eq!(guard.give_up(), Written::Yes);
    }

    #[tokio::test]
    async fn a_body_that_was_given_up_can_no_longer_be_taken() {
        let (guard, mut body) = guard("{}".into(), None, 7);
        assert_eq!(guard.give_up(), Written::No);
        assert_eq!(first_frame(&mut body).await, Err(NotWritten));
        assert_eq!(guard.give_up(), Written::No);
    }

    #[tokio::test]
    async fn a_cancelled_call_gives_its_body_up() {
        let (guard, mut body) = guard("{}".into(), None, 7);
        drop(guard);
        assert_eq!(first_frame(&mut body).await, Err(NotWritten));
    }

    #[tokio::test]
    async fn a_body_is_not_handed_over_after_its_deadline() {
        let (guard, mut body) = guard("{}".into(), Some(Instant::now()), 7);
        assert_eq!(first_frame(&mut body).await, Err(NotWritten));
        assert_eq!(guard.give_up(), Written::TooLate);
    }
}
