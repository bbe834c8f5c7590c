//! When is a failed attempt made again, if at all? A pure rule: the class of the error, the attempts so far and a random
//! number come in, a delay or a refusal comes out. It must not know clocks, queues or commands.
//!
//! The delays come from `backoff::ExponentialBackoff`. Its own randomness is not used (it draws from the thread's
//! generator, which no test can hold), nor is its clock: only its current interval is read.
//!
//! ```
//! use std::time::Duration;
//! use im_dispatcher::domain::{ErrorClass, retry::{Next, RetryPolicy}};
//!
//! let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
//! // The first attempt failed for the moment, the third did, and the last that is allowed did.
//! assert_eq!(policy.next(ErrorClass::Transient, 1, 0.5), Next::RetryIn(Duration::from_secs(1)));
//! assert_eq!(policy.next(ErrorClass::Transient, 3, 0.5), Next::RetryIn(Duration::from_secs(4)));
//! assert_eq!(policy.next(ErrorClass::Transient, policy.max_attempts, 0.5), Next::GiveUp);
//! ```

use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff as _};

use super::ErrorClass;

/// What follows a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Try again, not before this time has passed.
    RetryIn(Duration),
    /// Never try again.
    GiveUp,
}

/// How failed attempts are repeated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    /// The delay after the first failed attempt. Default 1 s: an attempt right away would mostly meet the same fault,
    /// since the service's own time limit is 3 s.
    pub initial_delay: Duration,
    /// What each delay is multiplied with for the next. Default 2.
    pub multiplier: f64,
    /// The longest delay before jitter. Default 10 minutes.
    pub max_delay: Duration,
    /// The most attempts that are counted, the first included. Default 8: the delays add up to 127 s, which outlasts a
    /// restart of the service and the 120 s of its de-duplication.
    pub max_attempts: u32,
    /// How far a delay may differ from its base, as a share of it, so that jobs that failed together don't return
    /// together. Default 0.2: ±20 %.
    pub jitter: f64,
    /// The delay after a throttled attempt, before jitter: the budget slows down by itself, so the job only steps aside.
    /// Default 1 s, the window of the service's limit.
    pub throttled_delay: Duration,
    /// The delay after an attempt that met bad credentials or permissions, before jitter. Such a fault hits every job
    /// of the app alike and is mended by a person. Default 30 s.
    pub auth_delay: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial_delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_mins(10),
            max_attempts: 8,
            jitter: 0.2,
            throttled_delay: Duration::from_secs(1),
            auth_delay: Duration::from_secs(30),
        }
    }
}

/// Why a policy can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RetryPolicyError {
    /// A delay of zero would try again at once, for ever.
    #[error("initial_delay, throttled_delay and auth_delay must be more than zero")]
    ZeroDelay,
    /// The bounds are the wrong way round.
    #[error("max_delay must not be less than initial_delay")]
    MaxBelowInitial,
    /// Delays would shrink.
    #[error("multiplier must be a number from 1 to 100")]
    Multiplier,
    /// A delay could become negative.
    #[error("jitter must be a number from 0 to less than 1")]
    Jitter,
    /// Nothing would ever be tried.
    #[error("max_attempts must be at least 1")]
    NoAttempts,
}

impl RetryPolicy {
    /// Checks the settings against each other.
    pub fn validate(&self) -> Result<(), RetryPolicyError> {
        if [self.initial_delay, self.throttled_delay, self.auth_delay]
            .iter()
            .any(Duration::is_zero)
        {
            return Err(RetryPolicyError::ZeroDelay);
        }
        if self.max_delay < self.initial_delay {
            return Err(RetryPolicyError::MaxBelowInitial);
        }
        if !(1.0..=100.0).contains(&self.multiplier) {
            return Err(RetryPolicyError::Multiplier);
        }
        if !(0.0..1.0).contains(&self.jitter) {
            return Err(RetryPolicyError::Jitter);
        }
        if self.max_attempts == 0 {
            return Err(RetryPolicyError::NoAttempts);
        }
        Ok(())
    }

    /// What follows an attempt that failed with an error of a class. `attempts_so_far` are the counted ones, this one
    /// included; throttled attempts and those that met bad credentials are not counted. `random` is from 0 to 1.
    ///
    /// An ambiguous failure is repeated like a transient one, by callers for whom that is safe: a send is reconciled
    /// first (see [`super::Command::leaves_doubt`]).
    pub fn next(&self, class: ErrorClass, attempts_so_far: u32, random: f64) -> Next {
        match class {
            ErrorClass::Throttled => Next::RetryIn(self.jittered(self.throttled_delay, random)),
            ErrorClass::Auth => Next::RetryIn(self.jittered(self.auth_delay, random)),
            ErrorClass::Transient | ErrorClass::Ambiguous if attempts_so_far < self.max_attempts => {
                Next::RetryIn(self.jittered(self.base_delay(attempts_so_far), random))
            }
            ErrorClass::Transient
            | ErrorClass::Ambiguous
            | ErrorClass::Recipient
            | ErrorClass::Blocked
            | ErrorClass::Permanent
            | ErrorClass::AlreadyDone => Next::GiveUp,
        }
    }

    /// The delay after so many counted attempts, before jitter. It never shrinks from one attempt to the next.
    pub fn base_delay(&self, attempts_so_far: u32) -> Duration {
        let mut backoff = ExponentialBackoff {
            current_interval: self.initial_delay,
            initial_interval: self.initial_delay,
            randomization_factor: 0.0,
            multiplier: self.multiplier,
            max_interval: self.max_delay,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        for _ in 1..attempts_so_far {
            let before = backoff.current_interval;
            // Returns the interval with its own randomness and moves on; only the move is wanted.
            backoff.next_backoff();
            if backoff.current_interval <= before {
                break;
            }
        }
        backoff.current_interval.min(self.max_delay)
    }

    /// A delay within the jitter's share of its base. Random numbers outside 0 to 1 count as the nearer end.
    fn jittered(&self, base: Duration, random: f64) -> Duration {
        let random = if random.is_nan() { 0.5 } else { random.clamp(0.0, 1.0) };
        base.mul_f64(1.0 + self.jitter * (2.0 * random - 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNTED: [ErrorClass; 2] = [ErrorClass::Transient, ErrorClass::Ambiguous];

    #[test]
    fn the_default_policy_is_valid_and_doubles_from_one_second() {
        let policy = RetryPolicy::default();
        assert_eq!(policy.validate(), Ok(()));
        let delays: Vec<_> = (1..8).map(|attempts| policy.base_delay(attempts).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(delays.iter().sum::<u64>(), 127);
        assert_eq!(policy.base_delay(100), Duration::from_mins(10));
    }

    #[test]
    fn transient_failures_end_after_the_last_attempt() {
        let policy = RetryPolicy::default();
        for class in COUNTED {
            assert_eq!(policy.next(class, 7, 0.5), Next::RetryIn(Duration::from_secs(64)));
            assert_eq!(policy.next(class, 8, 0.5), Next::GiveUp);
        }
    }

    #[test]
    fn throttled_and_unauthorised_attempts_are_never_the_last() {
        let policy = RetryPolicy::default();
        assert_eq!(
            policy.next(ErrorClass::Throttled, u32::MAX, 0.5),
            Next::RetryIn(Duration::from_secs(1))
        );
        assert_eq!(
            policy.next(ErrorClass::Auth, u32::MAX, 0.5),
            Next::RetryIn(Duration::from_secs(30))
        );
    }

    #[test]
    fn what_repeating_cannot_help_is_given_up() {
        let policy = RetryPolicy::default();
        for class in [
            ErrorClass::Recipient,
            ErrorClass::Blocked,
            ErrorClass::Permanent,
            ErrorClass::AlreadyDone,
        ] {
            assert_eq!(policy.next(class, 1, 0.5), Next::GiveUp);
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        let base = RetryPolicy::default();
        let cases = [
            (
                RetryPolicy {
                    initial_delay: Duration::ZERO,
                    ..base
                },
                RetryPolicyError::ZeroDelay,
            ),
            (
                RetryPolicy {
                    max_delay: Duration::from_millis(1),
                    ..base
                },
                RetryPolicyError::MaxBelowInitial,
            ),
            (
                RetryPolicy {
                    multiplier: 0.5,
                    ..base
                },
                RetryPolicyError::Multiplier,
            ),
            (
                RetryPolicy {
                    multiplier: f64::NAN,
                    ..base
                },
                RetryPolicyError::Multiplier,
            ),
            (RetryPolicy { jitter: 1.0, ..base }, RetryPolicyError::Jitter),
            (
                RetryPolicy {
                    max_attempts: 0,
                    ..base
                },
                RetryPolicyError::NoAttempts,
            ),
        ];
        for (policy, error) in cases {
            assert_eq!(policy.validate(), Err(error));
        }
    }

    fn policies() -> impl Strategy<Value = RetryPolicy> {
        (1_u64..100_000, 1.0..10.0, 0_u64..10_000_000, 1_u32..50, 0.0..0.99).prop_map(
            |(initial, multiplier, above, max_attempts, jitter)| RetryPolicy {
                initial_delay: Duration::from_millis(initial),
                multiplier,
                max_delay: Duration::from_millis(initial + above),
                max_attempts,
                jitter,
                ..RetryPolicy::default()
            },
        )
    }

    proptest! {
        #[test]
        fn the_base_never_shrinks_and_stays_within_its_bounds(policy in policies(), attempts in 1_u32..200) {
            prop_assert_eq!(policy.validate(), Ok(()));
            let (now, later) = (policy.base_delay(attempts), policy.base_delay(attempts + 1));
            prop_assert!(now <= later);
            prop_assert!(policy.initial_delay <= now && later <= policy.max_delay);
        }

        #[test]
        fn jitter_stays_within_its_share(policy in policies(), attempts in 1_u32..50, random in 0.0..=1.0) {
            for class in ErrorClass::ALL {
                if let Next::RetryIn(delay) = policy.next(class, attempts, random) {
                    let base = match class {
                        ErrorClass::Throttled => policy.throttled_delay,
                        ErrorClass::Auth => policy.auth_delay,
                        _ => policy.base_delay(attempts),
                    };
                    // A nanosecond for rounding.
                    let slack = Duration::from_nanos(1);
                    prop_assert!(delay + slack >= base.mul_f64(1.0 - policy.jitter));
                    prop_assert!(delay <= base.mul_f64(1.0 + policy.jitter) + slack);
                }
            }
        }

        #[test]
        fn counted_attempts_end_exactly_at_the_limit(policy in policies(), random in 0.0..=1.0) {
            for class in COUNTED {
                let tries = (1..=policy.max_attempts).find(|attempts| policy.next(class, *attempts, random) == Next::GiveUp);
                prop_assert_eq!(tries, Some(policy.max_attempts));
            }
        }
    }
}
