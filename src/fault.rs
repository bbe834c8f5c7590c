//! Fault points: named places before and after each await that matters, where a test can kill or freeze the process.
//!
//! A leaf that every module may use. They exist only in builds with the feature `fault-points`; in any other build they are nothing. In such a build the
//! variable `IM_DISPATCHER_FAULT` holds `<point>=<action>[@<n>]`: at the n-th pass of the point (the first by default)
//! the process is aborted (`abort`), stopped as by SIGSTOP until SIGCONT (`freeze`), or waits (`sleep:<ms>`). `budget=off`
//! makes every call without a slot: the benchmark's measure of what the budget costs.

#[cfg(feature = "fault-points")]
pub(crate) use armed::{budget_is_off, point, strike};

/// Does nothing.
#[cfg(not(feature = "fault-points"))]
#[inline]
#[expect(clippy::unused_async, reason = "the same signature as with fault points")]
pub(crate) async fn point(_name: &'static str) {}

/// Does nothing.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub(crate) const fn strike(_name: &'static str) {}

#[cfg(feature = "fault-points")]
mod armed {
    use std::{
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    struct Plan {
        point: String,
        action: Action,
        pass: u64,
    }

    enum Action {
        Abort,
        Freeze,
        Sleep(Duration),
        Off,
    }

    static PLANS: OnceLock<Vec<(Plan, AtomicU64)>> = OnceLock::new();

    fn plans() -> &'static [(Plan, AtomicU64)] {
        PLANS.get_or_init(|| {
            let text = std::env::var("IM_DISPATCHER_FAULT").unwrap_or_default();
            text.split(',')
                .filter(|plan| !plan.is_empty())
                .map(|plan| (parse(plan), AtomicU64::new(0)))
                .collect()
        })
    }

    fn parse(plan: &str) -> Plan {
        let (point, action) = plan.split_once('=').expect("IM_DISPATCHER_FAULT: point=action[@n]");
        let (action, pass) = action.split_once('@').unwrap_or((action, "1"));
        let action = match action {
            "abort" => Action::Abort,
            "freeze" => Action::Freeze,
            "off" => Action::Off,
            other => {
                let ms = other.strip_prefix("sleep:").and_then(|ms| ms.parse().ok());
                Action::Sleep(Duration::from_millis(
                    ms.expect("IM_DISPATCHER_FAULT: abort, freeze or sleep:<ms>"),
                ))
            }
        };
        Plan {
            point: point.to_owned(),
            action,
            pass: pass.parse().expect("IM_DISPATCHER_FAULT: @n is a number"),
        }
    }

    /// A place where a test can strike.
    pub(crate) async fn point(name: &'static str) {
        for action in due(name) {
            match action {
                Action::Abort => std::process::abort(),
                Action::Freeze => freeze(),
                Action::Sleep(time) => tokio::time::sleep(*time).await,
                Action::Off => {}
            }
        }
    }

    /// The same where nothing can be awaited: a sleep holds the thread.
    pub(crate) fn strike(name: &'static str) {
        for action in due(name) {
            match action {
                Action::Abort => std::process::abort(),
                Action::Freeze => freeze(),
                Action::Sleep(time) => std::thread::sleep(*time),
                Action::Off => {}
            }
        }
    }

    /// Whether the plan is `budget=off`.
    pub(crate) fn budget_is_off() -> bool {
        let off = |(plan, _): &(Plan, AtomicU64)| plan.point == "budget" && matches!(plan.action, Action::Off);
        plans().iter().any(off)
    }

    /// What is planned for this pass of a point.
    fn due(name: &'static str) -> impl Iterator<Item = &'static Action> {
        plans()
            .iter()
            .filter(move |(plan, passes)| plan.point == name && passes.fetch_add(1, Ordering::SeqCst) + 1 == plan.pass)
            .map(|(plan, _)| &plan.action)
    }

    /// Stops the whole process, as an operator's SIGSTOP or a host that is suspended would.
    ///
    /// By the number of this thread: the signal stops the whole process, but Linux lets the thread that is named take it.
    /// Named by the process, another one would, and this one might go on until that is scheduled.
    fn freeze() {
        let thread = std::fs::read_link("/proc/thread-self").unwrap_or_default();
        let tid = thread.file_name().map_or_else(
            || std::process::id().to_string(),
            |tid| tid.to_string_lossy().into_owned(),
        );
        let stopped = std::process::Command::new("kill").args(["-STOP", &tid]).status();
        assert!(stopped.is_ok_and(|status| status.success()), "kill -STOP must work");
    }
}
