//! A Cassandra without an agent or a replica, for what befalls who uses one naively. It is started as an agent starts it,
//! but for what a test sets otherwise.

use std::process::{Child, Command, Stdio};

use super::{Direct, Site, until};

/// The superuser that Cassandra makes itself, and its password.
const SUPERUSER: &str = "cassandra";

pub struct Plain {
    /// Its folders and ports.
    pub site: Site,
    command: Vec<String>,
    variables: Vec<(String, String)>,
    jvm: Option<Child>,
}

impl Plain {
    /// With these settings of `cassandra.yaml`, and these variables in its environment. Clients have to log in.
    pub async fn start(settings: &[(&str, &str)], variables: Vec<(String, String)>) -> Self {
        let site = Site::shared_without_agent();
        let agent = site.agent_process();
        let pid = until("a JVM to start another one like", async || site.jvm().await).await;
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        let command = String::from_utf8(command).unwrap();
        let command = command.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        agent.terminate();
        agent.ended().await;
        let yaml = site.conf().join("cassandra.yaml");
        let mut text = std::fs::read_to_string(&yaml).unwrap();
        for (key, value) in settings {
            let others = text.lines().filter(|line| !line.starts_with(&format!("{key}:")));
            text = others.map(|line| format!("{line}\n")).collect::<String>() + &format!("{key}: {value}\n");
        }
        std::fs::write(&yaml, text).unwrap();
        let mut plain = Self { site, command, variables, jvm: None };
        plain.again().await;
        plain
    }

    /// Starts it on what is there.
    async fn again(&mut self) {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).envs(self.variables.iter().cloned());
        self.jvm = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        until("a superuser of the plain Cassandra", async || self.try_login(SUPERUSER).await).await;
    }

    /// Kills it, does something meanwhile, and starts it again.
    pub async fn killed(&mut self, meanwhile: impl FnOnce()) {
        self.kill();
        meanwhile();
        self.again().await;
    }

    fn kill(&mut self) {
        if let Some(mut jvm) = self.jvm.take() {
            let _ = jvm.kill();
            let _ = jvm.wait();
        }
    }

    async fn try_login(&self, role: &str) -> Option<Direct> {
        Direct::logged_in(&self.site.cql, role, role).await
    }

    /// A session of a role whose password is its name.
    pub async fn session_of(&self, role: &str) -> Direct {
        self.try_login(role).await.unwrap_or_else(|| panic!("{role} can't log in"))
    }

    /// A session of the superuser that says with each statement which second it is.
    pub async fn session_of_seconds(&self) -> Direct {
        Direct::logged_in_v5(&self.site.cql, SUPERUSER, SUPERUSER).await.expect("the superuser can log in")
    }

    /// A session that may do everything.
    pub async fn session(&self) -> Direct {
        self.session_of(SUPERUSER).await
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.kill();
    }
}
