//! How the processes of one database speak with each other over HTTP: replicas with replicas, replicas with store agents, agents with
//! agents. As it is, or over TLS on which both sides show a certificate of the database's own authority.
//!
//! Addresses of pods change, so certificates name no place but a part: whoever shows one for [`NAME`] belongs to the database. Both
//! sides look for it, and all processes may have one certificate. Each connection goes by the files as they are when it begins.
//!
//! The port is the same with and without TLS: the first byte tells. Whoever comes without gets no more than what is said to be for
//! everybody (probes, metrics), unless TLS is optional: then it gets all, and whom TLS can't be spoken with is spoken with without.
//! That is for the time in which the processes of a database are changed over, one by one.

mod call;
mod config;
mod serve;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::Args;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::tls::files::{Fingerprint, Unusable};
use config::{Ends, Files};

pub(crate) use call::is_distrust;
pub use call::{CallError, Stream};
pub use config::Keystore;

/// What the certificate of every process of a database names.
pub const NAME: &str = "replicateddb.internal";
/// Time between two looks at the files.
const LOOK: Duration = Duration::from_secs(10);
/// Further looks, at start, at files that can't be used: they may be being replaced.
const START_TRIES: usize = 3;
/// Pause before one.
const START_PAUSE: Duration = Duration::from_millis(500);

/// Flags of a process that others of its database speak with, or that speaks with them.
#[derive(Debug, Clone, Default, Args)]
pub struct InternalArgs {
    /// Replicas, store agents and Cassandras speak TLS with each other, and this process shows the certificate in this file: PEM, its own first,
    /// then those between it and its authority. It must name replicateddb.internal, and may be one for all of them. Read again
    /// every 10 s, with the other files; what can't be used changes nothing.
    #[arg(long, env = "RDB_INTERNAL_CERTIFICATE", value_name = "FILE", requires_all = ["internal_key", "internal_ca"])]
    pub internal_certificate: Option<PathBuf>,
    /// File with the certificate's key: PEM (PKCS#8, PKCS#1 or SEC1), without a passphrase.
    #[arg(long, env = "RDB_INTERNAL_KEY", value_name = "FILE", requires = "internal_certificate")]
    pub internal_key: Option<PathBuf>,
    /// The others show a certificate signed by one of those in this file (PEM).
    #[arg(long, env = "RDB_INTERNAL_CA", value_name = "FILE", requires = "internal_certificate")]
    pub internal_ca: Option<PathBuf>,
    /// Those without TLS are spoken with, too: while the processes of a database are being changed over.
    #[arg(long, env = "RDB_INTERNAL_OPTIONAL", requires_if("true", "internal_certificate"))]
    pub internal_optional: bool,
}

/// The way to the other processes of the database, and theirs to this one; cheap to clone. By default without TLS.
#[derive(Clone, Default)]
pub struct Internal(Option<Arc<Tls>>);

struct Tls {
    optional: bool,
    /// For connections to come.
    current: watch::Receiver<Arc<Ends>>,
    /// Ends with the last clone.
    _looking: Option<AbortOnDropHandle<()>>,
}

/// Two are the same if they go by the same files, looked at by the same one.
impl PartialEq for Internal {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl Eq for Internal {}

/// Nothing of what the files hold.
impl fmt::Debug for Internal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optional = self.0.as_ref().map(|tls| tls.optional);
        f.debug_struct("Internal").field("tls", &optional.is_some()).field("optional", &optional).finish()
    }
}

impl Internal {
    /// By these flags; the files are looked at as long as there is a clone of it.
    ///
    /// # Errors
    /// A file can't be used.
    pub async fn open(args: &InternalArgs) -> Result<Self, Unusable> {
        let Some((mut looking, current)) = Looking::begin(args).await? else { return Ok(Self::default()) };
        let looking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                looking.look().await;
            }
        });
        Ok(Self::over(args.internal_optional, current, Some(AbortOnDropHandle::new(looking))))
    }

    /// What another program shows as this one does, as it changes; `None` without TLS.
    #[must_use]
    pub fn keystores(&self) -> Option<Keystores> {
        self.0.as_ref().map(|tls| Keystores(tls.current.clone()))
    }

    /// The files that are in use, to be watched; `None` without TLS.
    #[must_use]
    pub fn in_use(&self) -> Option<InUse> {
        self.0.as_ref().map(|tls| InUse(tls.current.clone()))
    }

    fn over(optional: bool, current: watch::Receiver<Arc<Ends>>, looking: Option<AbortOnDropHandle<()>>) -> Self {
        Self(Some(Arc::new(Tls { optional, current, _looking: looking })))
    }
}

/// The files that are in use.
#[derive(Clone)]
pub struct InUse(watch::Receiver<Arc<Ends>>);

impl fmt::Debug for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InUse").field("until", &self.until()).field("is_outdated", &self.is_outdated()).finish()
    }
}

impl InUse {
    /// When the certificate ends, or one between it and its authority: seconds since 1970.
    #[must_use]
    pub fn until(&self) -> i64 {
        self.0.borrow().until
    }

    /// Whether there are others by now, which can't be used as they are.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        self.0.borrow().outdated.load(Ordering::Relaxed)
    }
}

/// What another program shows as this one does, as it changes.
pub struct Keystores(watch::Receiver<Arc<Ends>>);

impl Keystores {
    /// As it is now.
    pub fn current(&mut self) -> Keystore {
        self.0.borrow_and_update().keystore.clone()
    }

    /// Waits until it is another one; `None` when it will not change any more.
    pub async fn next(&mut self) -> Option<Keystore> {
        self.0.changed().await.ok()?;
        Some(self.current())
    }
}

/// Looks at the files again and again: what is new in them is for connections to come, what can't be used is said once and changes
/// nothing.
struct Looking {
    files: Files,
    /// What was seen last, whether it could be used or not.
    seen: Fingerprint,
    current: watch::Sender<Arc<Ends>>,
}

impl Looking {
    async fn begin(args: &InternalArgs) -> Result<Option<(Self, watch::Receiver<Arc<Ends>>)>, Unusable> {
        let (Some(certificate), Some(key), Some(ca)) =
            (&args.internal_certificate, &args.internal_key, &args.internal_ca)
        else {
            return Ok(None);
        };
        let files = Files::new(certificate, key, ca);
        let (seen, ends) = first(&files, || tokio::time::sleep(START_PAUSE)).await?;
        let (current, receiver) = watch::channel(Arc::new(ends));
        Ok(Some((Self { files, seen, current }, receiver)))
    }

    async fn look(&mut self) {
        let contents = self.files.read().await;
        let fingerprint = contents.fingerprint();
        if fingerprint == self.seen {
            return;
        }
        self.seen = fingerprint;
        match contents.load(&self.files) {
            Ok(ends) => {
                tracing::info!("the other processes of the database are shown another certificate from now on");
                self.current.send_replace(Arc::new(ends));
            }
            Err(unusable) => {
                tracing::warn!(%unusable, "what was there before is used further on");
                self.current.borrow().outdated.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// What the files make at start. What can't be used is looked at again after a `pause`, [`START_TRIES`] times at most, and no more once
/// nothing changes.
///
/// # Errors
/// They can't be used.
async fn first(files: &Files, pause: impl AsyncFn()) -> Result<(Fingerprint, Ends), Unusable> {
    let mut contents = files.read().await;
    let mut tries = START_TRIES;
    loop {
        let seen = contents.fingerprint();
        let unusable = match contents.load(files) {
            Ok(ends) => return Ok((seen, ends)),
            Err(unusable) => unusable,
        };
        pause().await;
        contents = files.read().await;
        if tries == 0 || contents.fingerprint() == seen {
            return Err(unusable);
        }
        tries -= 1;
    }
}
