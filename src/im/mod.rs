//! How is the IM service asked? The client of its REST API, the wire types, the UserSig and the table of its codes.
//!
//! It knows nothing of jobs, queues, records or budgets: it makes one HTTP call when told to and says what came of it.
//!
//! ```
//! use im_dispatcher::{
//!     domain::{AccountId, AppName, message::Message},
//!     im::{ClientOptions, ImApp, ImClient, Pair, encode_send},
//!     simulator::{SAMPLE_SDK_APP_ID, SAMPLE_SECRET, Simulator, SimulatorOptions},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let service = Simulator::start(SimulatorOptions::default())?;
//! let app = ImApp {
//!     name: AppName::default_app(),
//!     sdk_app_id: SAMPLE_SDK_APP_ID,
//!     admin: AccountId::parse("administrator")?,
//!     base_url: service.base_url().parse()?,
//!     secret: SAMPLE_SECRET.to_owned().into(),
//! };
//! let client = ImClient::new(app, ClientOptions::default())?;
//!
//! let to = AccountId::parse("alice")?;
//! let body = encode_send(None, &to, &Message::from_text("hi"), Pair { seq: 1, random: 2 });
//! let reply = client.send(body, None).await?;
//! assert!(reply.msg_key.as_str().starts_with("1_2_"), "MsgSeq_MsgRandom_MsgTime");
//! # Ok(())
//! # }
//! ```

pub mod client;
pub mod encode;
pub mod error;
pub mod error_code;
mod guard;
pub mod history;
pub mod options;
pub mod reply;
mod signer;
#[cfg(test)]
mod tests;
mod transport;
pub mod user_sig;
mod wire;

pub use client::{ImClient, unread_calls};
pub use encode::{ENCODER_VERSION, Pair, encode_batch, encode_import, encode_send, msg_body_len};
pub use error::{ImError, ImErrorKind};
pub use error_code::{CodeInfo, class_in_error_list, class_of, lookup, names_no_account};
pub use history::HistoryWalk;
pub use options::{ClientOptions, ImApp, ImSetupError};
pub use wire::{
    RecipientError,
    batch_send::BatchReply,
    history::{HistoryCursor, HistoryMessage, HistoryPage, HistoryQuery, MAX_PAGE},
    send::SendReply,
    unread::{MAX_PEERS, UnreadCount, UnreadReply},
};
