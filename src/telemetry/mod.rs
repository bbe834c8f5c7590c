//! What the process tells about itself: log lines and metrics. Names and labels are defined here; nothing is decided.

mod budget_metrics;
mod labels;
mod logging;
mod metrics;
mod reading;

pub use budget_metrics::BudgetReading;
pub use logging::{LogError, init_logging};
pub use metrics::{InFlight, Metrics, Operation, Settlement, Verdict};
pub use reading::Reading;
