//! What keeps a resource from being well, told so that its user can act.

use std::fmt;

/// One thing that is wrong. The message says what and, where the user must act, how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Why, as a constant that tools may match.
    pub reason: Reason,
    /// What, for people.
    pub message: String,
}

impl Problem {
    /// A problem.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Reasons of conditions and Events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The resource can't be built.
    InvalidSpec,
    /// A Secret is gone while data exists.
    SecretLost,
    /// A Secret that the spec names is not there.
    SecretMissing,
    /// What a Secret holds can't be used.
    SecretInvalid,
    /// The authority that the operator made has an end that is near.
    AuthorityEnds,
    /// The programs in use don't know what is asked for.
    ImagesTooOld,
    /// An object of the same name belongs to somebody else.
    NameConflict,
    /// The API server refuses an object.
    Refused,
    /// A volume can't grow.
    StorageNotExpandable,
    /// A volume does not grow as it was asked to.
    ResizeFailed,
    /// The volumes that an earlier resource left are of another kind than this one asks for.
    OtherVolumes,
    /// A volume can't be had.
    VolumeMissing,
    /// An image can't be pulled.
    ImageUnavailable,
    /// A process needed more memory than its limit.
    OutOfMemory,
    /// No node takes a pod.
    Unschedulable,
    /// A container can't be made from its specification.
    ContainerConfig,
    /// A process ends again and again.
    CrashLoop,
    /// A pod does not stop: its node does not answer.
    NodeLost,
    /// The API server does not let the owner of a volume be changed.
    OwnerRefused,
    /// The API server could not be reached or had an error.
    ApiError,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
