//! Drives reconciles: watches, wakes, bounded concurrency, back-off.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, Pod, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
};
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        Controller, WatchStreamExt,
        controller::{self, Action},
        reflector::{self, ObjectRef},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{
    crd::ReplicatedDB,
    reconcile::{Context, reconcile},
    unreadable,
    wake::{Presence, instance, owned_query, pod_state, set_state, shape, wakes},
};

/// Most reconciles at once.
const CONCURRENCY: u16 = 8;
/// Wakes of one resource within this time are one.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Waits after the first and after any number of failures in a row.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(120);

/// A resource, or what could not be read as one: one bad resource never stops the others.
type Guarded = DeserializeGuard<ReplicatedDB>;

/// A reconcile failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReconcileError(#[from] kube::Error);

/// What the reconciles share.
struct Shared {
    context: Context,
    /// Failures in a row; an entry goes with the first success.
    failures: Mutex<HashMap<ObjectRef<Guarded>, u32>>,
}

/// Reconciles every resource in `namespace`, or everywhere, until `stop`.
pub async fn run(context: Context, namespace: Option<&str>, stop: CancellationToken) {
    let client = context.client.clone();
    let shared = Arc::new(Shared { context, failures: Mutex::default() });
    let (reader, writer) = reflector::store::<Guarded>();
    let resources = watcher(api::<Guarded>(&client, namespace), watcher::Config::default()).default_backoff();
    let metrics = Arc::clone(&shared.context.metrics);
    let mut presence = Presence::default();
    // A resource that has gone is reconciled no more, so this is where it is forgotten.
    let resources = reflector::reflector(writer, resources).inspect_ok(move |event| {
        metrics.departed(&presence.departures(event));
    });
    // Our own status writes change neither generation nor annotations.
    let triggers = wakes::<Guarded, Guarded>(resources, shape, |object| Some(ObjectRef::from_obj(object)));
    let config = controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE);
    Controller::for_stream(futures::stream::pending(), reader)
        .with_config(config)
        .reconcile_on(log_errors(triggers.boxed()))
        .reconcile_on(owned::<ServiceAccount>(&client, namespace, shape))
        .reconcile_on(owned::<ConfigMap>(&client, namespace, shape))
        .reconcile_on(owned::<Service>(&client, namespace, shape))
        .reconcile_on(owned::<NetworkPolicy>(&client, namespace, shape))
        .reconcile_on(owned::<PodDisruptionBudget>(&client, namespace, shape))
        .reconcile_on(owned::<StatefulSet>(&client, namespace, set_state))
        .reconcile_on(owned::<Pod>(&client, namespace, pod_state))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(step, on_error, shared)
        .for_each(|_| std::future::ready(()))
        .await;
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Wakes by objects that carry our labels, and by no others: the memory this takes does not grow with the cluster.
fn owned<K>(
    client: &Client,
    namespace: Option<&str>,
    fingerprint: fn(&K) -> u64,
) -> BoxStream<'static, ObjectRef<Guarded>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + std::fmt::Debug
        + Send
        + 'static,
{
    let events =
        watcher(api::<K>(client, namespace), watcher::Config::default().labels(&owned_query())).default_backoff();
    log_errors(wakes(events, fingerprint, instance).boxed())
}

fn log_errors(
    stream: BoxStream<'static, watcher::Result<ObjectRef<Guarded>>>,
) -> BoxStream<'static, ObjectRef<Guarded>> {
    stream
        .filter_map(|item| async move {
            item.inspect_err(|error| tracing::warn!(error = %error, "a watch failed; it begins again")).ok()
        })
        .boxed()
}

async fn step(guarded: Arc<Guarded>, shared: Arc<Shared>) -> Result<Action, ReconcileError> {
    let meta = guarded.meta();
    let (Some(namespace), Some(name)) = (meta.namespace.as_deref(), meta.name.as_deref()) else {
        return Ok(Action::await_change());
    };
    if let Err(invalid) = &guarded.0 {
        tracing::error!(namespace, name, error = %invalid, "the resource can't be read; it is left alone until it changes");
        shared.context.metrics.undecodable();
        unreadable::tell(&shared.context, namespace, name, &invalid.error).await?;
        return Ok(Action::await_change());
    }
    let begun = Instant::now();
    let result = Box::pin(reconcile(&shared.context, namespace, name)).await;
    let outcome = if result.is_ok() { "ok" } else { "error" };
    shared.context.metrics.reconciled(outcome, begun.elapsed().as_secs_f64());
    let next = result?;
    failures(&shared).remove(&ObjectRef::from_obj(guarded.as_ref()));
    Ok(next.map_or_else(Action::await_change, Action::requeue))
}

fn on_error(guarded: Arc<Guarded>, error: &ReconcileError, shared: Arc<Shared>) -> Action {
    let object = ObjectRef::from_obj(guarded.as_ref());
    let mut failures = failures(&shared);
    let count = failures.entry(object.clone()).or_insert(0);
    *count = count.saturating_add(1);
    let wait = backoff(*count, rand::random());
    tracing::warn!(object = %object, error = %error, attempt = *count, wait_ms = wait.as_millis(), "a reconcile failed");
    Action::requeue(wait)
}

fn failures(shared: &Shared) -> std::sync::MutexGuard<'_, HashMap<ObjectRef<Guarded>, u32>> {
    shared.failures.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Doubles with each failure, between half and all of it by `dice`, so that many resources don't come back together.
fn backoff(failures: u32, dice: u8) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(10)).min(BACKOFF_MAX);
    doubled / 2 + doubled.mul_f64(f64::from(dice) / 512.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_and_is_bounded() {
        assert!(backoff(1, 0) >= BACKOFF_MIN / 2 && backoff(1, 255) <= BACKOFF_MIN);
        assert!(backoff(4, 0) > backoff(2, 255));
        assert!(backoff(u32::MAX, 255) <= BACKOFF_MAX);
    }
}
