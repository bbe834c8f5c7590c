//! What the process tells about itself: log lines, metrics and traces. Names and labels are defined here; nothing is decided.

mod broker_metrics;
mod budget_metrics;
mod labels;
mod logging;
mod metrics;
mod reading;
mod traces;

pub use budget_metrics::BudgetReading;
pub use logging::{LogError, init_logging};
pub use metrics::{InFlight, Metrics, Operation, Verdict};
pub use reading::Reading;
pub use traces::{Active, SpanContext, SpanValue, TraceError, TraceExport, Traces};
