//! The role of agent and replica, in a Cassandra whose clients log in.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use super::probe::{self, Probe};
use super::supervisor::Setup;
use crate::login::{DEFAULT_ROLE, Login, ROLE};

/// Longest time from the first answer of a Cassandra to a login: it makes its own first role moments after it answers.
const ROLE_TIMEOUT: Duration = Duration::from_secs(60);

impl Setup {
    /// How the agent asks its Cassandra.
    pub(super) fn probe(&self) -> Probe {
        let login = self.args.authentication.then(|| Login::of_token(&self.token));
        Probe { cql: self.args.cql(), login, internal: self.internal.clone() }
    }

    /// Whether Cassandra answers CQL.
    ///
    /// # Errors
    /// If it does not, or not in time.
    pub(super) async fn answers(&self) -> Result<()> {
        probe::options(self.args.cql(), &self.internal).await
    }

    /// Where this generation of Cassandra answers (since when, goes to `since`) that does not know the role of agent and replica yet, makes it, by
    /// the role that Cassandra itself makes where it finds none. Does nothing if that is not possible yet.
    ///
    /// # Errors
    /// It was not possible for [`ROLE_TIMEOUT`].
    pub(super) async fn make_role(&self, generation: u64, since: &mut Option<Instant>) -> Result<()> {
        if !self.args.authentication || self.answers().await.is_err() {
            return Ok(());
        }
        let by_default = Probe { login: Some(Login::default_role()), ..self.probe() };
        let made = async {
            let found = by_default.generation().await?;
            ensure!(found == generation, "generation {found} answers, not {generation}");
            by_default.execute(&Login::creation(&self.token)?).await
        };
        match made.await {
            Ok(()) => tracing::info!(role = ROLE, "made the role of agent and replica"),
            Err(error) if since.get_or_insert_with(Instant::now).elapsed() > ROLE_TIMEOUT => bail!(
                "neither the role {ROLE} nor {DEFAULT_ROLE} can log in ({error:#}): if the agent's token was changed, put the \
                 old one back, for the password follows from it"
            ),
            Err(_) => {}
        }
        Ok(())
    }
}
