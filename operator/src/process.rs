//! The process: configuration in, one leader among copies, a clean end.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kube::{Client, Config, client::ClientBuilder};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    controller,
    crd::{Images, Pull},
    events::Announcer,
    gate::{Gate, GateLayer},
    http,
    lease::Election,
    metrics::Metrics,
    probe::{Ports, Prober},
    reconcile::Context,
    validate::Defaults,
};

/// Longest wait for reconciles under way when the process ends.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(8);

/// Time between attempts to reach the API server at the start.
const RETRY_PERIOD: Duration = Duration::from_secs(2);

/// How to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The namespace to look after; all without one.
    pub namespace: Option<String>,
    /// Default images.
    pub images: Images,
    /// How they are pulled.
    pub pull: Pull,
    /// Namespace of the Lease: the one that the operator runs in.
    pub lease_namespace: String,
    /// Name of the Lease.
    pub lease_name: String,
    /// Name of this copy.
    pub pod_name: String,
    /// Ports of the admin interfaces of what runs.
    pub admin_ports: Ports,
    /// Address of the HTTP interface, where one is wanted.
    pub http_listen: Option<SocketAddr>,
}

/// Why the process ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The lease is somebody else's now. The process must end: what it was about to do is no longer its business.
    #[error("the lease was lost")]
    LeaseLost,
    /// The controller ended without having been asked to.
    #[error("the controller ended by itself")]
    ControllerEnded,
    /// A client can't be made from the configuration.
    #[error("the API server's client can't be set up")]
    Client(#[source] kube::Error),
    /// The HTTP client can't be set up.
    #[error("the client of the admin interfaces can't be set up")]
    Prober(#[source] reqwest::Error),
    /// The HTTP interface can't be served.
    #[error("the HTTP interface can't be served")]
    Http(#[source] std::io::Error),
}

/// A client behind `gate`, or in front of it.
///
/// # Errors
/// The configuration is not usable.
pub fn client(config: Config, gate: Option<&Gate>, metrics: &Arc<Metrics>) -> Result<Client, kube::Error> {
    let builder = ClientBuilder::try_from(config)?;
    Ok(match gate {
        Some(gate) => builder.with_layer(&GateLayer { gate: gate.clone(), metrics: Arc::clone(metrics) }).build(),
        None => builder.build(),
    })
}

/// Runs until `stop`, or until the lease is lost.
///
/// # Errors
/// See [`ProcessError`].
pub async fn run(
    config: Config,
    settings: Settings,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<(), ProcessError> {
    let gate = Gate::default();
    let outside = client(config.clone(), None, &metrics).map_err(ProcessError::Client)?;
    let inside = client(config, Some(&gate), &metrics).map_err(ProcessError::Client)?;
    let context = Context {
        client: inside.clone(),
        prober: Prober::new(settings.admin_ports).map_err(ProcessError::Prober)?,
        defaults: Defaults {
            images: settings.images.clone(),
            pull: settings.pull.clone(),
            namespace: settings.lease_namespace.clone(),
        },
        announcer: Announcer::new(inside, &settings.pod_name),
        metrics: Arc::clone(&metrics),
    };
    let election = Election::new(outside, &settings.lease_namespace, &settings.lease_name, &settings.pod_name, gate);
    let end = CancellationToken::new();
    let http =
        settings.http_listen.map(|address| tokio::spawn(http::serve(address, Arc::clone(&metrics), end.clone())));
    let lead = lead(election, context, &settings, &metrics, &stop);
    let result = match http {
        None => lead.await,
        Some(mut http) => tokio::select! {
            result = lead => result,
            ended = &mut http => match ended {
                Ok(Err(error)) => Err(ProcessError::Http(error)),
                _ => Err(ProcessError::Http(std::io::Error::other("it ended early"))),
            },
        },
    };
    end.cancel();
    result
}

async fn lead(
    mut election: Election,
    context: Context,
    settings: &Settings,
    metrics: &Metrics,
    stop: &CancellationToken,
) -> Result<(), ProcessError> {
    while let Err(error) = context.client.apiserver_version().await {
        tracing::warn!(error = %error, "the API server can't be reached; trying again");
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY_PERIOD) => {}
        }
    }
    // A copy that stands by is ready: it would take over.
    metrics.ready.store(true, Ordering::Relaxed);
    if !election.acquire(stop).await {
        return Ok(());
    }
    metrics.leading(true);
    let work_stop = CancellationToken::new();
    // Ends with this future, however that ends: nobody keeps the lease for it afterwards.
    let mut work = AbortOnDropHandle::new(tokio::spawn({
        let (namespace, stop) = (settings.namespace.clone(), work_stop.clone());
        async move { controller::run(context, namespace.as_deref(), stop).await }
    }));
    // Keeps the lease while reconciles under way come to their end, so that they may write.
    let keeping = CancellationToken::new();
    let result = {
        let mut keep = std::pin::pin!(election.keep(&keeping));
        tokio::select! {
            () = &mut keep => Err(ProcessError::LeaseLost),
            _ = &mut work => Err(ProcessError::ControllerEnded),
            () = stop.cancelled() => {
                work_stop.cancel();
                tokio::select! {
                    () = &mut keep => {}
                    _ = tokio::time::timeout(SHUTDOWN_WAIT, &mut work) => {
                        keeping.cancel();
                        keep.await;
                    }
                }
                Ok(())
            }
        }
    };
    work.abort();
    metrics.leading(false);
    // Shut before anybody else may begin; only then given up.
    election.release().await;
    result
}
