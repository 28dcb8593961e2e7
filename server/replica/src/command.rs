//! What is asked of the applier from outside the log, and how it ends.

use tokio::sync::oneshot;

use crate::lanes::Lanes;
use crate::reads::Hold;
use crate::state::State;

/// A store that is to be built anew.
#[derive(Debug)]
pub struct Rebuild {
    /// Why, for people.
    pub reason: String,
    /// Told once the agent knows, durably: no crash brings back what the store holds.
    pub known: oneshot::Sender<()>,
}

/// What the handle may ask of the applier.
pub enum Command {
    /// Make a restore point now; answers with its index.
    RestorePoint(oneshot::Sender<Result<u64, String>>),
    /// Give up what the store holds and build it anew.
    Rebuild(Rebuild),
    /// Let somebody read in these lanes as soon as they are free of the records that are in them now.
    Read(Lanes, oneshot::Sender<Hold>),
}

/// Why applying has ended.
#[derive(Debug)]
pub enum Exit {
    /// The store may hold more or less than the state says: rewind and replay.
    Rewind(String),
    /// What the store holds can't be trusted at all: build it anew.
    Rebuild(Rebuild),
    /// Asked to stop; the store is exactly at this state.
    Stopped(Box<State>),
    /// Nothing here can help (I8).
    Fatal(String),
}
