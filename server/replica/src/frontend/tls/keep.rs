//! Looks at the files again and again: what is new in them is for connections to come, what can't be used changes nothing.

use std::{convert::Infallible, sync::Arc};

use jiff::Timestamp;
use tokio::time::sleep;

use super::{
    Tls,
    config::{Contents, Files, Loaded},
};
use crate::{
    frontend::limits::{TLS_LOOK, TLS_SETTLE, TLS_START_PAUSE, TLS_START_TRIES},
    tls::files::{Fingerprint, Unusable, Validity},
};

/// Whoever looks at the files.
pub struct Keeper {
    tls: Arc<Tls>,
    /// What was seen last, whether it could be used or not: said once.
    seen: Fingerprint,
    /// Of the certificates in use.
    validity: Validity,
    /// What was said of it last.
    standing: Standing,
}

/// Whether a certificate holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Valid,
    Early,
    Expired,
}

impl Standing {
    fn at(validity: Validity, now: i64) -> Self {
        if now > validity.not_after {
            Self::Expired
        } else if now < validity.not_before {
            Self::Early
        } else {
            Self::Valid
        }
    }
}

/// What the files make at start. They may be being replaced just then: what can't be used, or has changed meanwhile, is looked at
/// again, [`TLS_START_TRIES`] times at most, and no more once nothing changes.
///
/// # Errors
/// They can't be used.
pub(super) async fn first(files: &Files) -> Result<(Fingerprint, Loaded), Unusable> {
    let mut contents = Contents::read(files).await;
    let mut tries = TLS_START_TRIES;
    loop {
        let (seen, loaded) = (contents.fingerprint(), contents.load(files).await);
        sleep(if loaded.is_ok() { TLS_SETTLE } else { TLS_START_PAUSE }).await;
        contents = Contents::read(files).await;
        if contents.fingerprint() == seen || tries == 0 {
            return Ok((seen, loaded?));
        }
        tries -= 1;
    }
}

/// What the files make, if they are others than those that are `known`. While they are being replaced, one of the old and one of the
/// new may be read, or a part of one: what was read is taken if it is still there after [`TLS_SETTLE`], and else looked at next time.
async fn changed(files: &Files, known: &Fingerprint) -> Option<(Fingerprint, Result<Loaded, Unusable>)> {
    let contents = Contents::read(files).await;
    let seen = contents.fingerprint();
    if seen == *known {
        return None;
    }
    sleep(TLS_SETTLE).await;
    if Contents::read(files).await.fingerprint() != seen {
        return None;
    }
    Some((seen, contents.load(files).await))
}

/// What is to be said of a certificate that does not hold at a second since 1970.
pub(super) fn complaint(validity: Validity, now: i64) -> Option<String> {
    let what = match Standing::at(validity, now) {
        Standing::Valid => return None,
        Standing::Expired => format!("has expired at {}", date(validity.not_after)),
        Standing::Early => format!("is not valid before {}", date(validity.not_before)),
    };
    Some(format!(
        "the certificate, or one between it and its authority, {what}: clients that check it don't connect; put another one in its place, no restart is needed"
    ))
}

/// For people; the number itself where the calendar has no such day.
fn date(second: i64) -> String {
    Timestamp::from_second(second).map_or_else(|_| format!("second {second} since 1970"), |date| date.to_string())
}

impl Keeper {
    pub(super) fn new(tls: Arc<Tls>, seen: Fingerprint, validity: Validity) -> Self {
        let mut keeper = Self { tls, seen, validity, standing: Standing::Valid };
        keeper.take(validity);
        keeper
    }

    /// Looks every [`TLS_LOOK`].
    pub async fn keep(mut self) -> Infallible {
        loop {
            sleep(TLS_LOOK).await;
            self.look().await;
        }
    }

    /// Looks once.
    pub(super) async fn look(&mut self) {
        let Some((seen, loaded)) = changed(&self.tls.files, &self.seen).await else {
            self.judge();
            return;
        };
        self.seen = seen;
        let unusable = match loaded {
            Ok(loaded) => {
                self.tls.current.send_replace(loaded.config);
                let until = date(loaded.validity.not_after);
                tracing::info!(until, "TLS: new files are in use, for connections that begin from now on");
                self.take(loaded.validity);
                0
            }
            Err(error) => {
                tracing::warn!(%error, "TLS: the new files can't be used, and the old ones stay in use; looking again");
                self.judge();
                1
            }
        };
        self.tls.metrics.files_unusable.set(unusable);
    }

    /// A certificate is in use.
    fn take(&mut self, validity: Validity) {
        self.tls.metrics.certificate_expiry.set(validity.not_after);
        self.validity = validity;
        self.standing = Standing::Valid;
        self.judge();
    }

    /// Says, once, that the certificate in use does not hold.
    fn judge(&mut self) {
        let now = Timestamp::now().as_second();
        let standing = Standing::at(self.validity, now);
        if standing == self.standing {
            return;
        }
        self.standing = standing;
        if let Some(complaint) = complaint(self.validity, now) {
            tracing::warn!(file = %self.tls.files.certificate, "TLS: {complaint}");
        }
    }
}
