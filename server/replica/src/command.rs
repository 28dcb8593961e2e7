//! What is asked of the applier from outside the log.

use tokio::sync::oneshot;

use crate::lanes::Lanes;
use crate::reads::Hold;

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
