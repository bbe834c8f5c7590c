//! JSON read strictly: what a fault is called, and where it is.
//!
//! Two steps. [`tree`] parses bytes into a tree that borrows from them and refuses a key that is given twice, at any
//! depth. [`de`] lets serde's derived types read from that tree with an error type of our own, [`Fault`], which knows
//! the path to the fault and never the value that is at fault: serde's own texts quote what they refuse, and a
//! message's text must not reach a log, a header or a dead letter's sentence.
//!
//! It must not know what a job is.

pub(crate) mod de;
pub(crate) mod fault;
pub(crate) mod tree;

pub(crate) use de::from_node;
pub(crate) use fault::Fault;
pub(crate) use tree::{Node, ParseError, parse};
