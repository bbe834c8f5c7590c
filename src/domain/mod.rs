//! The words of the field and their rules: ids, jobs, messages, outcomes, classes of errors.
//!
//! Nothing here does I/O or knows AMQP, SQL or HTTP; every other module may depend on it, and it depends on none.
//!
//! ```
//! use im_dispatcher::domain::{AccountId, JobId, job::{Job, Task}, message::Message};
//!
//! // Built by types or read from JSON: the same job.
//! let built = Job::new(
//!     JobId::parse("order-4711-shipped")?,
//!     Task::Send { from: None, to: AccountId::parse("alice")?, message: Message::from_text("On its way.") },
//! );
//! assert_eq!(Job::decode(&built.encode(), None).as_ref(), Ok(&built));
//!
//! // An id that can't be one isn't made: an account has 1 to 32 bytes.
//! assert!(AccountId::parse("").is_err());
//! # Ok::<(), im_dispatcher::domain::IdError>(())
//! ```

mod by_text;
pub mod command;
mod decode;
mod digest;
mod encode;
pub mod erasure;
pub mod error_class;
pub mod event;
pub mod ids;
pub mod job;
mod json;
pub mod lane;
pub mod message;
pub mod pause;
pub mod policy;
pub mod record;
pub mod retry;
pub mod schema;
pub mod status;
#[cfg(test)]
mod strategies;
mod url_list;
mod wire;

pub use command::Command;
pub use error_class::{ErrorClass, ErrorCode};
pub use ids::{AccountId, AppName, GroupName, IdError, JobId, MsgKey, SdkAppId};
pub use lane::Lane;
pub use record::{MessageState, Owner};
pub use url_list::split_urls;
