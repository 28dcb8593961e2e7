//! `replica`: the replica's process, from its flags to its graceful end.

use std::{
    convert::Infallible,
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::Router;
use prometheus_client::registry::Registry;
use replicateddb_ordering::{
    LogId,
    members::{Member, Members},
    znode_log,
};
use replicateddb_replica::{
    ReplicaHandle, admin as replica_admin,
    backend::{Endpoint, executor::CassandraConnector},
    checkpoint::{Exporting, exchange},
    config, frontend,
    frontend::{
        Frontend, Identity, Peers, superuser,
        tls::{self, Tls},
    },
    keyspace::{KeyspaceConnector, KeyspaceStore},
    metrics,
    replica::Serving,
};
use replicateddb_store::{client::Store, internal::Internal, login::Login};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use crate::{
    admin::{AdminPort, starting},
    args::{ReplicaArgs, with_id},
    engine::{Opened, Ordering, open},
    inside::Inside,
    open_files, push, signals, verify,
};

/// Longest time that writes are held while a checkpoint reads the tables. One that takes longer is given up, and tried again
/// after a longer pause each time.
const CHECKPOINT_HOLD: Duration = Duration::from_secs(10);
/// Namespace of the replicas' host ids.
const HOST_IDS: Uuid = Uuid::from_u128(0x0f4c_3d0e_9a34_4c7e_8f1d_5b7c_21e6_9a40);

/// Runs a replica until SIGTERM or SIGINT, and stops it gracefully: clients first, then the replica, which leaves its
/// store clean. A replica that ends by itself gives exit code 1.
///
/// # Errors
/// Wrong flags or files, a port that is taken, or what is in ZooKeeper is not a log that this program can use.
pub async fn run(args: ReplicaArgs) -> anyhow::Result<ExitCode> {
    let mut stop_asked: StopAsked = Box::pin(signals::stop_asked()?);
    args.check_engine()?;
    let id = args.id()?;
    open_files::raise(args.max_clients);
    let internal = Internal::open(&args.internal).await?;
    let admin_port = AdminPort::open(args.admin_listen, starting(id, args.engine.name()), internal.clone()).await?;
    let address = args.advertised()?;
    let token = if args.keyspace.is_none() { args.agent_token()? } else { String::new() };
    let tls = args.tls.open(args.superuser()?.is_some()).await?;
    let log = tokio::select! {
        log = open(&args, id, &internal) => log?,
        signal = &mut stop_asked => {
            tracing::info!(signal, "stopping before the ordered log was reached");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let start = Start { args, id, token, address, tls, admin_port };
    match log {
        Opened::ZnodeLog(log) => Box::pin(start.run(log, stop_asked)).await,
        Opened::ZooKeeperLeader(log) => Box::pin(start.run(log, stop_asked)).await,
    }
}

/// Completes with the signal that asks the process to stop.
type StopAsked = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// What a replica is started with, once its log is open.
struct Start {
    args: ReplicaArgs,
    id: u32,
    token: String,
    address: IpAddr,
    tls: Option<(Arc<Tls>, tls::Keeper)>,
    admin_port: AdminPort,
}

impl Start {
    async fn run<L: Ordering>(self, log: L, mut stop_asked: StopAsked) -> anyhow::Result<ExitCode> {
        let Self { args, id, token, address, tls, admin_port } = self;
        let identity = Identity {
            id,
            host_id: host_id(log.log_id(), id),
            address,
            cql_port: args.listen.port(),
            data_center: args.data_center.clone(),
            rack: args.rack.clone(),
        };
        let mut running = match Running::start(&args, id, log.clone(), &token, identity, tls, &admin_port) {
            Ok(running) => running,
            Err(error) => {
                // It may have been elected meanwhile.
                log.hand_over().await;
                return Err(error);
            }
        };
        let handle = running.handle.clone();
        let reason = tokio::select! {
            signal = &mut stop_asked => {
                tracing::info!(signal, "stopping");
                // At once: what is still to be finished here may take a while.
                log.hand_over().await;
                let reason = running.stop().await;
                tracing::info!(%reason, "stopped");
                return Ok(ExitCode::SUCCESS);
            }
            reason = handle.finished() => reason,
            ended = &mut running.frontend => match ended {
                // It ends by itself when the replica does.
                Ok(()) => handle.finished().await,
                Err(error) => format!("the front end has failed: {error}"),
            },
        };
        tracing::error!(%reason, "the replica has ended");
        log.hand_over().await;
        Ok(ExitCode::from(1))
    }
}

/// Everything that runs.
struct Running {
    handle: ReplicaHandle,
    members: Arc<Members>,
    _registering: AbortOnDropHandle<()>,
    _pushing: AbortOnDropHandle<()>,
    _superuser: Option<AbortOnDropHandle<Infallible>>,
    _certificates: Option<AbortOnDropHandle<Infallible>>,
    frontend: AbortOnDropHandle<()>,
    stop: CancellationToken,
}

impl Running {
    fn start<L: Ordering>(
        args: &ReplicaArgs,
        id: u32,
        log: L,
        token: &str,
        identity: Identity,
        tls: Option<(Arc<Tls>, tls::Keeper)>,
        admin_port: &AdminPort,
    ) -> anyhow::Result<Self> {
        let mut registry = Registry::default();
        let core_metrics = metrics::Metrics::default();
        core_metrics.register(&mut registry);
        let frontend_metrics = Arc::new(frontend::Metrics::default());
        frontend_metrics.register(&mut registry);
        let (tls, keeper) = tls.unzip();
        if let Some(tls) = &tls {
            tls.register(&mut registry);
        }

        log.register(&mut registry);
        let internal = admin_port.internal();
        if let Some(in_use) = internal.in_use() {
            registry.register_collector(Box::new(Inside(in_use)));
        }
        let members = Arc::new(Members::watching(log.znodes()));
        let keyspace = args.keyspace.as_deref().map(|template| with_id(template, id));
        let pushing = tokio::spawn(push::keep_pushing(log.znodes().clone(), id, members.watch(), internal.clone()));
        let (handle, checkpoints) = match keyspace.as_deref() {
            Some(keyspace) => {
                start_confined(args, id, log.clone(), keyspace, identity.address, internal.clone(), core_metrics)?
            }
            None => start_core(args, id, log.clone(), token, internal.clone(), core_metrics)?,
        };
        let admin =
            replica_admin::router(handle.clone(), registry).merge(verify::router(members.watch(), internal.clone()));
        admin_port.serve(admin.merge(checkpoints).merge(push::router(log.znodes().clone())).merge(log.router()));

        let member = Member {
            id,
            host_id: identity.host_id,
            address: identity.address,
            cql_port: identity.cql_port,
            admin_port: args.admin_listen.port(),
            data_center: identity.data_center.clone(),
            rack: identity.rack.clone(),
        };
        let registering = tokio::spawn(keep_registered(members.clone(), member, handle.serving()));
        let peers = Arc::new(Peers::new(id, members.watch()).over(internal));
        let keyspace = keyspace.map(Into::into);
        let superuser = args.superuser()?;
        let (listen, max_clients) = (args.listen, args.max_clients);
        let kept = superuser.as_ref().map(|superuser| superuser.name.as_str().into());
        let config = frontend::Config { listen, max_clients, identity, superuser: kept, keyspace, tls };
        let keeping = superuser.map(|superuser| tokio::spawn(superuser::keep(superuser, handle.clone())));
        let frontend = Frontend::new(handle.clone(), config, peers, frontend_metrics);
        let stop = CancellationToken::new();
        let frontend = tokio::spawn(frontend.run(stop.clone()));
        Ok(Self {
            handle,
            members,
            _registering: AbortOnDropHandle::new(registering),
            _pushing: AbortOnDropHandle::new(pushing),
            _superuser: keeping.map(AbortOnDropHandle::new),
            _certificates: keeper.map(|keeper| AbortOnDropHandle::new(tokio::spawn(keeper.keep()))),
            frontend: AbortOnDropHandle::new(frontend),
            stop,
        })
    }

    /// Clients first: what they have in flight is finished while the replica still works. Then the replica drains and
    /// marks its store clean.
    async fn stop(self) -> String {
        let Self { handle, members, _registering: registering, _pushing, _superuser, _certificates, frontend, stop } =
            self;
        drop(registering);
        members.leave();
        stop.cancel();
        if let Err(error) = frontend.await {
            tracing::warn!(%error, "the front end has failed");
        }
        handle.stop().await
    }
}

/// On a Cassandra of its own, with the store agent beside it; with what serves its checkpoints.
fn start_core<L: Ordering>(
    args: &ReplicaArgs,
    id: u32,
    log: L,
    token: &str,
    internal: Internal,
    metrics: metrics::Metrics,
) -> anyhow::Result<(ReplicaHandle, Router)> {
    let agent = args.agent.as_deref().context("--agent is missing")?;
    let store =
        Store::new(&with_id(agent, id), token, log.log_id().0, log.incarnation().0).context("the agent's URL")?;
    let store = store.over(internal.clone());
    let cassandra = Endpoint::new(with_id(&args.cassandra, id), Some(Login::of_token(token)));
    let connector = CassandraConnector { at: cassandra.over(internal) };
    let config = core_config(args, id);
    let Some(points) = args.checkpoints(id)? else {
        return Ok((ReplicaHandle::start(config, log, store, connector, metrics), exchange::none()));
    };
    let store = Exporting::new(store, connector.at.clone(), points.clone());
    let asked = store.asked();
    let handle = ReplicaHandle::start(config, log, store, connector, metrics);
    let router = exchange::router(points, handle.clone(), Some(asked), Some(token));
    Ok((handle, router))
}

/// In a keyspace of a shared Cassandra; with what serves its checkpoints.
fn start_confined<L: Ordering>(
    args: &ReplicaArgs,
    id: u32,
    log: L,
    keyspace: &str,
    address: IpAddr,
    internal: Internal,
    metrics: metrics::Metrics,
) -> anyhow::Result<(ReplicaHandle, Router)> {
    let cassandra = Endpoint::new(with_id(&args.cassandra, id), None).over(internal.clone());
    let store = KeyspaceStore::new(cassandra, keyspace, id, log.log_id().0, log.incarnation().0).over(internal);
    let mut config = core_config(args, id);
    let start = |config, store: KeyspaceStore| {
        let connector = KeyspaceConnector::new(store.clone());
        ReplicaHandle::start(config, log, store, connector, metrics)
    };
    let Some(points) = args.checkpoints(id)? else {
        // None can be made.
        (config.restore_point_interval, config.restore_point_records) = (Duration::MAX, u64::MAX);
        config.restore_point_bytes = u64::MAX;
        return Ok((start(config, store), exchange::none()));
    };
    config.restore_point_timeout = CHECKPOINT_HOLD;
    let admin = SocketAddr::new(address, args.admin_listen.port());
    let handle = start(config, store.with_checkpoints(points.clone(), &format!("http://{admin}")));
    let router = exchange::router(points, handle.clone(), None, None);
    Ok((handle, router))
}

/// Tells the other replicas and the drivers of this one while, and only while, it serves.
async fn keep_registered(members: Arc<Members>, member: Member, mut serving: watch::Receiver<Serving>) {
    loop {
        match &*serving.borrow_and_update() {
            Serving::Yes { .. } => members.register(member.clone()),
            Serving::No { .. } => members.leave(),
        }
        if serving.changed().await.is_err() {
            return;
        }
    }
}

fn core_config(args: &ReplicaArgs, id: u32) -> config::Config {
    let mut config = config::Config {
        replica: id,
        engine: args.engine.name().to_owned(),
        restore_point_interval: args.restore_point_interval,
        restore_point_records: args.restore_point_records,
        restore_point_bytes: args.restore_point_stride(),
        log_keep_interval: args.log_keep_interval,
        log_behind_records: args.log_behind_records,
        log_behind_bytes: args.log_behind(),
        log_max_bytes: args.log_max_bytes,
        log_away_after: args.log_away_after,
        log_step_entries: args.log_step_entries,
        complain_after: args.complain_after,
        ..config::Config::default()
    };
    config.limits.max_records = args.batch_max_records;
    // What is larger goes beside the entry, in several transactions: more than that is never meant.
    config.limits.max_bytes = args.batch_max_bytes.min(znode_log::Config::ENTRY_BYTES * 3 / 4);
    config.limits.entries_in_flight = args.batches_in_flight;
    config
}

/// The same for the life of the log, different for each replica.
fn host_id(log: LogId, id: u32) -> Uuid {
    let mut name = log.0.into_bytes().to_vec();
    name.extend(id.to_be_bytes());
    Uuid::new_v5(&HOST_IDS, &name)
}
