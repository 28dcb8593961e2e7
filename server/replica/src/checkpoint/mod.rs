//! Checkpoints: what a keyspace holds at one index of the log, as JSON documents.
//!
//! They are two of the classical replicable contract's calls: [`checkpoint`]`(name)` writes the state of the database to
//! documents, [`restore`]`(name)` brings an empty database back to it. The others are `execute(index, request,
//! reply_suppressed)`: [`Backend::execute`](crate::site::Backend::execute) with the request's [`Place`](crate::site::Place) in the order, whose reply
//! goes to the client that this replica proposed it for and to nobody else, a replay's to none; the requests and their types:
//! [`Record`](crate::record::Record) and [`RecordKind`](crate::record::RecordKind), whose text is the log's
//! ([`Entry`](crate::record::Entry)).
//!
//! [`folder`] is the format, [`line`] and [`value`] what stands in a document, [`points`] the folder of all and [`exchange`] how
//! others get them. A replica that is confined to a keyspace recovers by them (`keyspace::store`); any other writes
//! one when it is asked to, and a running database gets one back by [`Import`].

mod binary;
pub mod exchange;
mod export;
pub mod folder;
mod import;
pub mod line;
mod load;
pub mod points;
mod save;
mod schema;
mod tables;
pub mod value;

pub use export::Exporting;
pub use folder::{CheckpointError, Document, Manifest};
pub use import::Import;
pub use load::{Target, restore};
pub use points::Points;
pub use save::{Saved, Scope, checkpoint_of};
