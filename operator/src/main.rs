//! `replicateddb-operator`.

use std::{io::Write, net::SocketAddr, sync::Arc};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use replicateddb_operator::{
    crd::{self, Images, Pull, PullPolicy},
    metrics::Metrics,
    process::{self, Settings},
};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// The Kubernetes operator of ReplicatedDB.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the custom resource definition as YAML.
    Crd,
    /// Print the reference of the manifest as Markdown.
    Reference,
    /// Look after the ReplicatedDB resources of a cluster.
    Run(Box<Run>),
}

#[derive(Args)]
struct Run {
    /// The namespace to look after; all of them without it.
    #[arg(long, env = "OPERATOR_NAMESPACE")]
    namespace: Option<String>,
    /// Image of ZooKeeper pods whose resource names none.
    #[arg(long, env = "OPERATOR_IMAGE_ZOOKEEPER", default_value = "localhost/replicateddb/zookeeper:dev")]
    image_zookeeper: String,
    /// Image of Cassandra pods whose resource names none.
    #[arg(long, env = "OPERATOR_IMAGE_CASSANDRA", default_value = "localhost/replicateddb/cassandra:dev")]
    image_cassandra: String,
    /// Image of replica pods whose resource names none.
    #[arg(long, env = "OPERATOR_IMAGE_SERVER", default_value = "localhost/replicateddb/server:dev")]
    image_server: String,
    /// When these images are pulled: Always, IfNotPresent or Never.
    #[arg(long, env = "OPERATOR_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = pull_policy)]
    image_pull_policy: PullPolicy,
    /// Names of Secrets with registry credentials for these images, in the namespaces of the databases.
    #[arg(long, env = "OPERATOR_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    image_pull_secrets: Vec<String>,
    /// Name of the Lease by which copies of the operator agree on one.
    #[arg(long, env = "OPERATOR_LEASE_NAME", default_value = "replicateddb-operator")]
    lease_name: String,
    /// Namespace of the Lease; by default the one the operator runs in.
    #[arg(long, env = "OPERATOR_LEASE_NAMESPACE")]
    lease_namespace: Option<String>,
    /// Name of this copy, different from every other's; the pod's name.
    #[arg(long, env = "OPERATOR_POD_NAME")]
    pod_name: Option<String>,
    /// Where to serve /metrics, /healthz and /readyz.
    #[arg(long, env = "OPERATOR_HTTP_LISTEN", default_value = "0.0.0.0:8080")]
    http_listen: SocketAddr,
    /// Form of log lines.
    #[arg(long, env = "OPERATOR_LOG_FORMAT", value_enum, default_value = "json")]
    log_format: LogFormat,
}

fn pull_policy(text: &str) -> Result<PullPolicy, String> {
    let known = [PullPolicy::Always, PullPolicy::IfNotPresent, PullPolicy::Never];
    let found = known.into_iter().find(|policy| policy.to_string() == text);
    found.ok_or_else(|| "it is Always, IfNotPresent or Never".to_owned())
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Crd => std::io::stdout().write_all(crd::yaml()?.as_bytes())?,
        Command::Reference => std::io::stdout().write_all(crd::reference()?.as_bytes())?,
        Command::Run(run) => {
            // Before any TLS: with two providers in the build none would be the default.
            if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
                anyhow::bail!("a TLS provider was installed already");
            }
            tokio::runtime::Runtime::new()?.block_on(operate(*run))?;
        }
    }
    Ok(())
}

async fn operate(run: Run) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter);
    match run.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let config = kube::Config::infer().await.context("no configuration to reach the API server by")?;
    let pod_name = run
        .pod_name
        .or_else(|| std::env::var("HOSTNAME").ok())
        .unwrap_or_else(|| format!("operator-{:08x}", rand::random::<u32>()));
    let settings = Settings {
        namespace: run.namespace,
        images: Images { zookeeper: run.image_zookeeper, cassandra: run.image_cassandra, replica: run.image_server },
        pull: Pull { policy: run.image_pull_policy, secrets: run.image_pull_secrets },
        lease_namespace: run.lease_namespace.unwrap_or_else(|| config.default_namespace.clone()),
        lease_name: run.lease_name,
        pod_name,
        admin_ports: Default::default(),
        http_listen: Some(run.http_listen),
    };
    let stop = CancellationToken::new();
    tokio::spawn(signals(stop.clone()));
    process::run(config, settings, Arc::new(Metrics::default()), stop).await?;
    Ok(())
}

/// Asks for the end at SIGTERM or SIGINT.
async fn signals(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => tracing::error!("signals can't be listened for; ending"),
    }
    stop.cancel();
}
