//! How is the IM service asked? The client of its REST API, the wire types, the UserSig and the table of its codes.
//!
//! It knows nothing of jobs, queues, records or budgets: it makes one HTTP call when told to and says what came of it.

pub mod user_sig;
