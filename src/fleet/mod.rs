//! Who works, and how are they doing? Each worker writes a report of itself into the records every second; whoever shows the
//! fleet adds the reports up. So every worker's dashboard shows the same, and one that died is seen to have died.
//!
//! Knows nothing of HTTP and of output.

mod beat;
mod depths;
mod rates;
mod report;
mod view;

pub use beat::{Identity, beat, identity};
pub use depths::{DUE_SPANS, Depths, LaneDepth, SpanDepth};
pub use rates::Rates;
pub use report::{ErrorCount, LaneReading, MeterReading, Report};
pub use view::{ErrorTotal, FleetBudget, FleetWorker, Overview, View, WorkerState};
