//! What wakes a reconcile: changes that could matter, and nothing else.
//!
//! A watch tells of every change of an object; most are noise (our own status writes, probe times, managed fields). Each
//! kind has a fingerprint of what matters; an event passes when the fingerprint is new, and a deletion always does.

use std::{
    collections::{BTreeSet, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::{apps::v1::StatefulSet, core::v1::Pod};
use kube::{
    Resource, ResourceExt,
    runtime::{reflector::ObjectRef, watcher},
};

use crate::names::{APP_NAME, LABEL_INSTANCE, LABEL_MANAGED_BY, LABEL_NAME, MANAGED_BY};

/// Label selector of the objects that the operator makes, pods among them.
pub fn owned_query() -> String {
    format!("{LABEL_MANAGED_BY}={MANAGED_BY},{LABEL_NAME}={APP_NAME}")
}

/// Fingerprint of an object whose spec is ours: what others write into its status is of no interest.
pub fn shape<K: Resource>(object: &K) -> u64 {
    let meta = object.meta();
    let version = if meta.generation.is_some() { None } else { meta.resource_version.as_deref() };
    let owners = meta.owner_references.iter().flatten().map(|owner| &owner.uid).collect::<Vec<_>>();
    hashed((meta.generation, version, &meta.labels, &meta.annotations, owners, meta.deletion_timestamp.is_some()))
}

/// Fingerprint of a StatefulSet: of its status, only whether its controller has seen the newest template.
pub fn set_state(set: &StatefulSet) -> u64 {
    let status = set.status.as_ref().map(|status| (status.observed_generation, status.update_revision.as_ref()));
    hashed((shape(set), status))
}

/// Fingerprint of a pod: how it is, not when its probes ran.
pub fn pod_state(pod: &Pod) -> u64 {
    let status = pod.status.as_ref();
    let conditions: Vec<_> = status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .map(|condition| (&condition.type_, &condition.status, &condition.reason))
        .collect();
    let containers: Vec<_> = status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten())
        .map(|container| {
            let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
            (container.restart_count, container.ready, waiting.and_then(|waiting| waiting.reason.as_ref()))
        })
        .collect();
    let ip = status.and_then(|status| status.pod_ip.as_ref());
    hashed((shape_of_meta(pod), conditions, containers, ip))
}

fn shape_of_meta(pod: &Pod) -> (Option<String>, bool) {
    (pod.uid(), pod.metadata.deletion_timestamp.is_some())
}

fn hashed(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// References to the resources that the events of a watch concern. Keeps one number for each object that exists.
pub fn wakes<K, R>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>>,
    fingerprint: impl Fn(&K) -> u64,
    target: impl Fn(&K) -> Option<ObjectRef<R>>,
) -> impl Stream<Item = watcher::Result<ObjectRef<R>>>
where
    K: Resource<DynamicType = ()>,
    R: Resource<DynamicType = ()>,
{
    let mut known: HashMap<ObjectRef<K>, u64> = HashMap::new();
    let mut listing: HashMap<ObjectRef<K>, u64> = HashMap::new();
    events.filter_map(move |event| {
        let woken = match event {
            Err(error) => Some(Err(error)),
            Ok(watcher::Event::Init) => {
                listing.clear();
                None
            }
            Ok(watcher::Event::InitApply(object)) => {
                let key = ObjectRef::from_obj(&object);
                let print = fingerprint(&object);
                let news = known.get(&key) != Some(&print);
                listing.insert(key, print);
                news.then(|| target(&object)).flatten().map(Ok)
            }
            Ok(watcher::Event::InitDone) => {
                // What vanished while the watch was down is found by the regular reconcile.
                known = std::mem::take(&mut listing);
                None
            }
            Ok(watcher::Event::Apply(object)) => {
                let print = fingerprint(&object);
                let news = known.insert(ObjectRef::from_obj(&object), print) != Some(print);
                news.then(|| target(&object)).flatten().map(Ok)
            }
            Ok(watcher::Event::Delete(object)) => {
                known.remove(&ObjectRef::from_obj(&object));
                target(&object).map(Ok)
            }
        };
        std::future::ready(woken)
    })
}

/// Which objects of a watch have gone: each has a namespace and a name.
#[derive(Debug, Default)]
pub struct Presence {
    present: BTreeSet<(String, String)>,
    listing: BTreeSet<(String, String)>,
}

impl Presence {
    /// Those that have gone with an event, or while the watch was down.
    pub fn departures<K: Resource>(&mut self, event: &watcher::Event<K>) -> Vec<(String, String)> {
        let key = |object: &K| {
            let meta = object.meta();
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
        };
        match event {
            watcher::Event::Init => self.listing.clear(),
            watcher::Event::InitApply(object) => drop(self.listing.insert(key(object))),
            watcher::Event::InitDone => {
                let before = std::mem::replace(&mut self.present, std::mem::take(&mut self.listing));
                return before.difference(&self.present).cloned().collect();
            }
            watcher::Event::Apply(object) => drop(self.present.insert(key(object))),
            watcher::Event::Delete(object) => {
                self.present.remove(&key(object));
                return vec![key(object)];
            }
        }
        Vec::new()
    }
}

/// The resource that an object belongs to, by its label.
pub fn instance<K, R>(object: &K) -> Option<ObjectRef<R>>
where
    K: Resource<DynamicType = ()>,
    R: Resource<DynamicType = ()>,
{
    let name = object.labels().get(LABEL_INSTANCE)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::ReplicatedDB;
    use k8s_openapi::api::core::v1::{ConfigMap, ContainerStatus, PodStatus};
    use kube::api::ObjectMeta;
    use watcher::Event;

    fn map(version: &str) -> ConfigMap {
        let labels = [(LABEL_INSTANCE.to_owned(), "orders".to_owned())].into();
        let metadata = ObjectMeta {
            name: Some("c".into()),
            namespace: Some("shop".into()),
            labels: Some(labels),
            resource_version: Some(version.into()),
            ..Default::default()
        };
        ConfigMap { metadata, ..Default::default() }
    }

    #[tokio::test]
    async fn only_news_wakes() {
        let events = [
            Event::Init,
            Event::InitApply(map("1")),
            Event::InitDone,
            Event::Apply(map("1")),
            Event::Apply(map("2")),
            Event::Init,
            Event::InitApply(map("2")),
            Event::InitDone,
            Event::Delete(map("2")),
        ];
        let stream = futures::stream::iter(events.map(Ok));
        let woken: Vec<_> = wakes::<_, ReplicatedDB>(stream, shape, instance).collect().await;
        assert_eq!(woken.len(), 3, "first sight, a change, and the deletion");
        assert_eq!(*woken[0].as_ref().unwrap(), ObjectRef::new("orders").within("shop"));
    }

    #[test]
    fn what_has_gone_is_noticed() {
        let named = |name: &str| {
            let mut map = map("1");
            map.metadata.name = Some(name.to_owned());
            map
        };
        let gone =
            |names: &[&str]| names.iter().map(|name| ("shop".to_owned(), (*name).to_owned())).collect::<Vec<_>>();
        let mut presence = Presence::default();
        for (event, expected) in [
            (Event::Init, gone(&[])),
            (Event::InitApply(named("a")), gone(&[])),
            (Event::InitApply(named("b")), gone(&[])),
            (Event::InitDone, gone(&[])),
            (Event::Apply(named("c")), gone(&[])),
            (Event::Delete(named("a")), gone(&["a"])),
            (Event::Init, gone(&[])),
            (Event::InitApply(named("c")), gone(&[])),
            (Event::InitDone, gone(&["b"])), // while the watch was down
        ] {
            assert_eq!(presence.departures(&event), expected, "{event:?}");
        }
    }

    #[test]
    fn a_pod_matters_when_its_state_changes() {
        let pod = |restarts, version: &str| Pod {
            metadata: ObjectMeta {
                uid: Some("u".into()),
                resource_version: Some(version.into()),
                ..Default::default()
            },
            status: Some(PodStatus {
                container_statuses: Some(vec![ContainerStatus { restart_count: restarts, ..Default::default() }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        assert_eq!(pod_state(&pod(0, "1")), pod_state(&pod(0, "2")));
        assert_ne!(pod_state(&pod(0, "1")), pod_state(&pod(1, "2")));
    }
}
