//! What the process tells about itself: log lines and metrics. Names and labels are defined here; nothing is decided.

mod labels;
mod logging;
mod metrics;
mod reading;

pub use logging::{LogError, init_logging};
pub use metrics::{InFlight, Metrics, Operation, Settlement, Verdict};
pub use reading::Reading;
