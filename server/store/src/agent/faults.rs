//! Points at which a test can make the agent's process end, as a crash would.

/// Every fault point of a rewind, in the order in which it passes them: one after each durable step.
pub const REWIND: [&str; 8] = [
    "rewind-mark-cleared",
    "rewind-intent",
    "rewind-commitlog-dropped",
    "rewind-data-dropped",
    "rewind-tree-linked",
    "rewind-tree-renamed",
    "rewind-marked",
    "rewind-intent-removed",
];

/// Every fault point of a commit.
pub const COMMIT: [&str; 3] = ["commit-tree-synced", "commit-manifest-renamed", "commit-old-dropped"];

/// Every fault point of taking over another store's restore point.
pub const INSTALL: [&str; 4] =
    ["install-file-staged", "install-staged", "install-tree-moved", "install-manifest-renamed"];

/// Fault point of taking one over in place of all that are there: after [`INSTALL`].
pub const REPLACE: &str = "install-others-dropped";

/// The fault point that is armed, if any. The product arms none.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    armed: Option<String>,
}

impl Faults {
    /// Ends the process when the point `name` is passed.
    #[must_use]
    pub fn at(name: Option<String>) -> Self {
        Self { armed: name }
    }

    /// Passes a point: returns, unless it is armed; then the process aborts, and nothing is cleaned up.
    pub(crate) fn pass(&self, name: &str) {
        if self.armed.as_deref() == Some(name) {
            eprintln!("fault point {name} is passed");
            std::process::abort();
        }
    }
}
