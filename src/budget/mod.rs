//! May this call go out now? At most what the service grants, nothing of it wasted, the urgent first.
//!
//! The IM service grants each app so many calls a second per command, and batches so many recipients a minute. A
//! [`Budget`] grants [`Slot`]s: the right to one call at one instant. In any sliding second of the instants at which slots are
//! used there are never more than the limit, and while work waits at least 99.5 % of it are used.
//!
//! - [`Budget`] and [`Slot`]: what callers use; locks, timers and tasks. One timer task per key, and only while somebody waits.
//! - `key_state`: the pure core, in which time is a parameter: who waits, who holds a slot, pauses, limits, forfeits.
//! - `lanes`: who is next. `source`: the seam to when there is a slot ([`SlotSource`]), behind which are
//!   - `window_pacer`, the exact log of one process (`window`): the default;
//!   - `governor_pacer`, governor alone: the mode `--no-fleet` ([`Pacer::Governor`]);
//!   - `fleet`: what the workers reserve ahead in a row that they share ([`Fleet`], through a [`SlotLedger`]).
//! - `throttle`: what a throttled answer does. `meter`: what was used lately.
//!
//! It knows no HTTP, no SQL and no AMQP, nor what a call is.
//!
//! ```
//! use im_dispatcher::{
//!     budget::{Budget, BudgetKey, BudgetOptions, CallOutcome, Limits, SlotRequest},
//!     domain::{Command, Lane, SdkAppId},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let limits = Limits { calls_per_second: 200, ..Limits::NONE };
//! let budget = Budget::new(BudgetOptions::default(), move |_| limits);
//! let key = BudgetKey { host: "https://example.org".into(), sdk_app_id: SdkAppId(1), command: Command::SendMsg };
//!
//! let mut slot = budget.slot(&key, SlotRequest::new(Lane::High)).await; // claim here, then
//! slot.wait_due().await;
//! assert!(slot.use_now().is_ok()); // the call is made now, or the slot is forfeited
//! budget.answered(&key, CallOutcome::Ok);
//! # }
//! ```
//!
//! Why the log and not governor by default: under backlog both pace evenly and waste nothing. But governor with the burst
//! of one that makes it exact gives a lone job no more than the next beat, can't take back a slot that a job did not need
//! or missed, and can't answer an idle second at once; with a larger burst its rate has to fall for the window to hold.

mod fleet;
mod governor_pacer;
mod handle;
mod key;
mod key_state;
mod lanes;
mod meter;
mod options;
#[cfg(test)]
mod simulation;
mod slot;
mod source;
#[cfg(test)]
mod tests;
mod throttle;
mod window;
mod window_pacer;

pub use fleet::{Fleet, LedgerAsk, LedgerError, LedgerReply, LedgerSlot, SlotLedger};
pub use handle::{Budget, KeySnapshot};
pub use options::{BudgetKey, BudgetOptions, Limits, OptionsError, Pacer, ThrottleOptions, WindowMode};
pub use slot::{CallOutcome, Forfeited, Slot, SlotRequest};
pub use source::{Ask, Booking, Past, SlotSource, SlotSources, Waker, Way};

/// Nanoseconds since the budget was made, on the monotonic clock.
pub type Nanos = u64;
