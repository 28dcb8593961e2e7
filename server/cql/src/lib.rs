//! The CQL native protocol (versions 3 to 5) and as much of the CQL language as ordering writes needs. No IO.
//!
//! - [`frame`]: envelopes and a codec for both directions.
//! - [`request`] and [`response`]: message bodies, parsed and built.
//! - [`lex`], [`statement`]: a total lexer and a classifier that says what a statement does.
//! - [`rewrite`]: makes a statement deterministic before it enters the log.
//!
//! Nothing here panics on any input, and every length is checked against what is really there before anything is
//! allocated for it.

mod codec;
mod compress;
pub mod consistency;
pub mod error;
pub mod frame;
pub mod lex;
pub mod request;
pub mod response;
pub mod rewrite;
mod segment;
pub mod statement;
pub mod version;
pub mod wire;

pub use compress::Compression;
pub use consistency::Consistency;
pub use error::ProtocolError;
pub use version::Version;
