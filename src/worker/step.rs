//! What follows when neither side of the history shows a message whose answer was lost. Pure: times and facts in, a step
//! out, so that every order of events can be tried.

use std::time::Duration;

use super::context::Timing;

/// The first look may have come right after the call: the second isn't sooner than this after it.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// What is known of a call that neither side's history shows.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own, and all combinations occur"
)]
pub(super) struct Absence {
    /// Looks before this one that saw nothing either.
    pub(super) looks: u32,
    /// Since the first call with this pair that the service may have accepted.
    pub(super) since_first: Duration,
    /// Since the last.
    pub(super) since_last: Duration,
    /// A message may have been accepted and not be listed yet; of an account that doesn't exist it can't.
    pub(super) may_be_listed: bool,
    /// Its body would be the same byte for byte, to the same recipients.
    pub(super) repeatable: bool,
    /// A revocation covers some of it.
    pub(super) revoked: bool,
    /// The job's time is over.
    pub(super) over: bool,
    /// Its attempts are used up.
    pub(super) exhausted: bool,
}

/// What follows. Whoever a revocation covers is cancelled first, unless the step is to look again or to expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Another look, after the delay.
    Look(Duration),
    /// It would be sent again, and mustn't be by itself before the service has listed it: another look by then.
    Wait(Duration),
    /// Its time was over.
    Expire,
    /// Its attempts are used up.
    GiveUp,
    /// It is sent again.
    Resend,
}

/// Decides.
pub(super) fn after_absence(absence: &Absence, timing: &Timing) -> Step {
    let quiet = timing.quiet();
    if absence.looks == 0 || absence.since_last < quiet {
        // The second look comes when no call can still be on its way.
        return Step::Look(quiet.saturating_sub(absence.since_last).max(BETWEEN_LOOKS));
    }
    let listed = !absence.may_be_listed || absence.since_last >= timing.listed();
    let until_listed = timing
        .listed()
        .saturating_sub(absence.since_last)
        .max(Duration::from_secs(1));
    if !listed && (absence.over || absence.exhausted || absence.revoked) {
        // Unlike a repeat, which the service drops if the first was accepted, an end is final: what is listed only now
        // would be with its recipient, and on record as never sent.
        return Step::Look(until_listed);
    }
    if absence.over {
        return Step::Expire;
    }
    if absence.exhausted {
        return Step::GiveUp;
    }
    // Whoever is left of a call that reached others goes under a new pair: the old one could be dropped as a repeat and
    // answered OK.
    if (absence.repeatable && absence.since_first < timing.repeat_until()) || listed {
        Step::Resend
    } else {
        Step::Wait(until_listed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMING: Timing = Timing {
        total_timeout: Duration::from_secs(10),
        settle: Duration::from_secs(5),
        listed_after: Duration::from_mins(3),
        usersig_lifetime: Duration::from_secs(30),
    };

    fn absence() -> impl Strategy<Value = Absence> {
        (0..4_u32, 0..400_u64, 0..400_u64, any::<[bool; 5]>()).prop_map(|(looks, a, b, flags)| {
            let [may_be_listed, repeatable, revoked, over, exhausted] = flags;
            Absence {
                looks,
                since_first: Duration::from_secs(a.max(b)),
                since_last: Duration::from_secs(a.min(b)),
                may_be_listed,
                repeatable: repeatable && !revoked,
                revoked,
                over,
                exhausted,
            }
        })
    }

    proptest! {
        /// Before 85 s byte for byte, or when the service has surely listed what it accepted; never between, and never
        /// while a call may be on its way.
        #[test]
        fn a_message_is_sent_again_only_where_the_service_drops_a_double_or_has_listed_the_first(seen in absence()) {
            let step = after_absence(&seen, &TIMING);
            let listed = !seen.may_be_listed || seen.since_last >= TIMING.listed();
            if step == Step::Resend {
                prop_assert!(seen.looks > 0 && seen.since_last >= TIMING.quiet());
                prop_assert!(listed || (seen.repeatable && seen.since_first < Duration::from_secs(85)));
                prop_assert!(!seen.over && !seen.exhausted);
            }
            if matches!(step, Step::Expire | Step::GiveUp) {
                prop_assert!(listed && seen.looks > 0, "an end is final");
            }
            if let Step::Look(after) | Step::Wait(after) = step {
                prop_assert!(after > Duration::ZERO);
                // It never waits for longer than until the service has listed it.
                prop_assert!(seen.since_last + after <= TIMING.listed() + Duration::from_secs(2) || listed);
            }
        }
    }
}
