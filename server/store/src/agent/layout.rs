//! Where everything lies below the data directory.

use std::path::{Path, PathBuf};

/// The agent's paths. Nothing is written outside of `root`.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// Paths below the data directory, which must be absolute (Cassandra takes URLs made of them).
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The data directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Held by the agent and its JVM.
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// The agent's own files.
    pub fn agent(&self) -> PathBuf {
        self.root.join("agent")
    }

    /// Store id, highest incarnation, last generation, last sequence.
    pub fn state(&self) -> PathBuf {
        self.agent().join("state.json")
    }

    /// The clean mark.
    pub fn clean(&self) -> PathBuf {
        self.agent().join("clean.json")
    }

    /// The intent of a rewind under way.
    pub fn intent(&self) -> PathBuf {
        self.agent().join("rewind.json")
    }

    /// The rendered configuration of the JVM.
    pub fn conf(&self) -> PathBuf {
        self.agent().join("conf")
    }

    /// Key and certificate that Cassandra shows.
    pub fn keystore(&self) -> PathBuf {
        self.conf().join("internal.pem")
    }

    /// The authorities of those whom Cassandra lets in.
    pub fn truststore(&self) -> PathBuf {
        self.conf().join("internal-ca.pem")
    }

    /// Temporary files of the JVM, emptied at each start of it.
    pub fn tmp(&self) -> PathBuf {
        self.agent().join("tmp")
    }

    /// All restore points.
    pub fn restore_points(&self) -> PathBuf {
        self.agent().join("restore-points")
    }

    /// One restore point.
    pub fn restore_point(&self, id: &str) -> PathBuf {
        self.restore_points().join(id)
    }

    /// The tree of hard links of a restore point.
    pub fn tree(&self, id: &str) -> PathBuf {
        self.restore_point(id).join("data")
    }

    /// The list of files of a restore point.
    pub fn files(&self, id: &str) -> PathBuf {
        self.restore_point(id).join("files.json")
    }

    /// Its presence makes a tree a restore point.
    pub fn manifest(&self, id: &str) -> PathBuf {
        self.restore_point(id).join("manifest.json")
    }

    /// A restore point of another store while it is copied.
    pub fn staging(&self) -> PathBuf {
        self.agent().join("staging")
    }

    /// Which one that is.
    pub fn staged_description(&self) -> PathBuf {
        self.staging().join("description.json")
    }

    /// What has been copied of it.
    pub fn staged_tree(&self) -> PathBuf {
        self.staging().join("data")
    }

    /// Everything of Cassandra's.
    pub fn cassandra(&self) -> PathBuf {
        self.root.join("cassandra")
    }

    /// Cassandra's tables.
    pub fn data(&self) -> PathBuf {
        self.cassandra().join("data")
    }

    /// A tree that is being put back.
    pub fn incoming(&self) -> PathBuf {
        self.cassandra().join("incoming")
    }

    /// The commit log.
    pub fn commitlog(&self) -> PathBuf {
        self.cassandra().join("commitlog")
    }

    /// The other folders that hold state and are dropped by a rewind.
    pub fn others(&self) -> [PathBuf; 3] {
        ["hints", "saved_caches", "cdc_raw"].map(|name| self.cassandra().join(name))
    }
}
