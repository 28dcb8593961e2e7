//! Stands in for nodes: pods of a namespace get an address, become ready, and answer on invented admin interfaces.
//!
//! An image whose tag starts with `bad` can't be pulled. Claims are bound at once, grow when that is allowed, and go once no
//! pod uses them.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{Json, Router, extract::State, routing::get};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use crate::cluster::PORTS;

/// What pods say and how they are.
#[derive(Debug)]
pub struct World {
    /// Ordinal of the ZooKeeper leader.
    pub leader: i32,
    /// State that all replicas tell.
    pub replica_state: String,
    /// Index that all replicas tell; it grows by one with each question, as an idle log does.
    pub index: i64,
    /// Names of pods in the order in which they were first seen gone.
    pub gone: Vec<String>,
    /// Volumes grow to what is asked for.
    pub resizes: bool,
    /// Most pods of a tier that were away at once, by component.
    pub away_max: BTreeMap<String, usize>,
}

/// The stand-in of a namespace; it ends when dropped.
pub struct Kubelet {
    /// What pods say and how they are.
    pub world: Arc<Mutex<World>>,
    task: AbortHandle,
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A pod that runs.
struct Running {
    uid: String,
    component: String,
    servers: Vec<AbortHandle>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.servers.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Clone)]
struct Voice {
    world: Arc<Mutex<World>>,
    ordinal: i32,
}

impl Kubelet {
    /// Begins to look after a namespace.
    pub fn start(client: Client, namespace: &str) -> Self {
        let world = World {
            leader: 1,
            replica_state: "serving".to_owned(),
            index: 1_000,
            gone: Vec::new(),
            resizes: true,
            away_max: BTreeMap::new(),
        };
        let world = Arc::new(Mutex::new(world));
        let task = tokio::spawn(run(client, namespace.to_owned(), Arc::clone(&world))).abort_handle();
        Self { world, task }
    }
}

async fn run(client: Client, namespace: String, world: Arc<Mutex<World>>) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, &namespace);
    let mut running: BTreeMap<String, Running> = BTreeMap::new();
    loop {
        if let Ok(list) = claims.list(&ListParams::default()).await {
            let resizes = world.lock().unwrap().resizes;
            for claim in &list.items {
                if claim.metadata.deletion_timestamp.is_some() {
                    release(&claims, &pods, claim).await;
                } else if phase(claim) != Some("Bound") || (resizes && capacity(claim) != Some(requested(claim))) {
                    bind(&claims, claim).await;
                }
            }
        }
        if let Ok(list) = pods.list(&ListParams::default()).await {
            let alive: BTreeMap<_, _> =
                list.items.iter().map(|pod| (pod.name_any(), pod.uid().unwrap_or_default())).collect();
            let lost: Vec<_> =
                running.iter().filter(|(name, r)| alive.get(*name) != Some(&r.uid)).map(|(n, _)| n.clone()).collect();
            note_lost(&world, &running, &lost);
            running.retain(|name, _| !lost.contains(name));
            for pod in &list.items {
                if !running.contains_key(&pod.name_any())
                    && let Some(started) = start_pod(&pods, pod, &world).await
                {
                    running.insert(pod.name_any(), started);
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn note_lost(world: &Mutex<World>, running: &BTreeMap<String, Running>, lost: &[String]) {
    let mut world = world.lock().unwrap();
    let mut away: BTreeMap<String, usize> = BTreeMap::new();
    for name in lost {
        *away.entry(running[name].component.clone()).or_default() += 1;
        world.gone.push(name.clone());
    }
    for (component, count) in away {
        let most = world.away_max.entry(component).or_default();
        *most = count.max(*most);
    }
}

fn phase(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

fn requested(claim: &PersistentVolumeClaim) -> String {
    claim.spec.as_ref().unwrap().resources.as_ref().unwrap().requests.as_ref().unwrap()["storage"].0.clone()
}

fn capacity(claim: &PersistentVolumeClaim) -> Option<String> {
    Some(claim.status.as_ref()?.capacity.as_ref()?.get("storage")?.0.clone())
}

/// A claim that is going goes once its pod has.
async fn release(claims: &Api<PersistentVolumeClaim>, pods: &Api<Pod>, claim: &PersistentVolumeClaim) {
    let name = claim.name_any();
    if matches!(pods.get_opt(name.trim_start_matches("data-")).await, Ok(None)) {
        let free = json!({"metadata": {"uid": claim.uid(), "finalizers": null}});
        let _ = claims.patch(&name, &PatchParams::default(), &Patch::Merge(&free)).await;
    }
}

async fn bind(claims: &Api<PersistentVolumeClaim>, claim: &PersistentVolumeClaim) {
    let name = claim.name_any();
    let volume = json!({"spec": {"volumeName": format!("pv-{name}")}});
    let _ = claims.patch(&name, &PatchParams::default(), &Patch::Merge(&volume)).await;
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": requested(claim)}, "conditions": []}});
    let _ = claims.patch_status(&name, &PatchParams::default(), &Patch::Merge(&bound)).await;
}

/// Addresses of pods, different in all tests of this process.
fn address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 101, 0, 1)) + NEXT.fetch_add(1, Ordering::SeqCst))
}

async fn start_pod(pods: &Api<Pod>, pod: &Pod, world: &Arc<Mutex<World>>) -> Option<Running> {
    let container = &pod.spec.as_ref()?.containers[0];
    let image = container.image.clone().unwrap_or_default();
    let component = pod.labels().get("app.kubernetes.io/component")?.clone();
    if image.contains(":bad") {
        let state = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
        let status = container_status(&container.name, &image, false, state);
        set_status(pods, pod, json!({"phase": "Pending", "containerStatuses": [status]})).await;
        return None;
    }
    let ip = address();
    let ordinal = pod.name_any().rsplit_once('-')?.1.parse().ok()?;
    let voice = Voice { world: Arc::clone(world), ordinal };
    let servers = vec![serve(ip, PORTS.zookeeper, voice.clone()).await, serve(ip, PORTS.replica, voice).await];
    let status = container_status(&container.name, &image, true, json!({"running": {}}));
    let ready = json!({
        "phase": "Running", "podIP": ip.to_string(), "podIPs": [{"ip": ip.to_string()}],
        "conditions": [{"type": "Ready", "status": "True"}], "containerStatuses": [status],
    });
    set_status(pods, pod, ready).await.then(|| Running { uid: pod.uid().unwrap_or_default(), component, servers })
}

fn container_status(name: &str, image: &str, ready: bool, state: Value) -> Value {
    json!({"name": name, "image": image, "imageID": "", "ready": ready, "restartCount": 0, "state": state})
}

async fn set_status(pods: &Api<Pod>, pod: &Pod, status: Value) -> bool {
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": status});
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await.is_ok()
}

async fn serve(ip: Ipv4Addr, port: i32, voice: Voice) -> AbortHandle {
    let listener = tokio::net::TcpListener::bind((ip, u16::try_from(port).unwrap())).await.unwrap();
    let router = Router::new().route("/commands/monitor", get(monitor)).route("/status", get(status)).with_state(voice);
    tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    })
    .abort_handle()
}

async fn monitor(State(voice): State<Voice>) -> Json<Value> {
    Json(match voice.world.lock().unwrap().leader == voice.ordinal {
        true => json!({"server_state": "leader", "synced_followers": 2}),
        false => json!({"server_state": "follower"}),
    })
}

async fn status(State(voice): State<Voice>) -> Json<Value> {
    let mut world = voice.world.lock().unwrap();
    world.index += 1;
    Json(
        json!({"id": voice.ordinal, "state": world.replica_state, "detail": "", "applied_index": world.index, "lag": 0}),
    )
}
