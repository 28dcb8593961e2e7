//! The CQL native protocol (version 4, and 5 towards Cassandra) and as much of the CQL language as ordering writes needs. No IO.
//!
//! - [`frame`]: envelopes and a codec for both directions.
//! - [`request`] and [`response`]: message bodies, parsed and built.
//! - [`lex`], [`statement`]: a total lexer and a classifier that says what a statement does.
//! - [`rewrite`]: makes a statement deterministic before it enters the log.
//!
//! Nothing here panics on any input, and every length is checked against what is really there before anything is
//! allocated for it.

pub mod consistency;
pub mod error;
pub mod frame;
pub mod lex;
pub mod request;
pub mod response;
pub mod rewrite;
mod segment;
pub mod statement;
pub mod wire;

pub use consistency::Consistency;
pub use error::ProtocolError;
