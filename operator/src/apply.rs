//! Makes what exists into what should exist: server-side apply with our own field manager, and only where something
//! differs (I9). Every object is tried whatever happened to the others.

use std::fmt::Debug;

use k8s_openapi::{NamespaceResourceScope, api::apps::v1::StatefulSet};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    build::Desired,
    compare,
    dereference::{Observed, Standing, standing},
    names::{FIELD_MANAGER, Identity},
    problem::{Problem, Reason},
};

/// What applying came to.
#[derive(Debug, Default)]
pub struct Applied {
    /// The StatefulSets as they are now.
    pub stateful_sets: Vec<StatefulSet>,
    /// What the user must know of.
    pub problems: Vec<Problem>,
    /// What is waited for: objects of a deleted resource of the same name.
    pub waiting: Vec<String>,
    /// The first error that trying again may mend.
    pub error: Option<kube::Error>,
    /// Objects written or deleted.
    pub writes: u32,
}

/// Applies everything in order.
pub async fn apply(client: &Client, identity: &Identity, desired: Desired, observed: &Observed) -> Applied {
    let mut applied = Applied::default();
    // Without `..`: a kind that is added to the desired objects must be applied here, or this does not compile.
    let Desired { service_accounts, config_maps, services, network_policies, disruption_budgets, stateful_sets } =
        desired;
    let mut work = Work { client, identity, applied: &mut applied };
    work.kind(service_accounts, &observed.service_accounts).await;
    work.kind(config_maps, &observed.config_maps).await;
    work.kind(services, &observed.services).await;
    work.kind(network_policies, &observed.network_policies).await;
    work.kind(disruption_budgets, &observed.disruption_budgets).await;
    let sets = work.kind(stateful_sets, &observed.stateful_sets).await;
    applied.stateful_sets = sets;
    applied
}

struct Work<'a> {
    client: &'a Client,
    identity: &'a Identity,
    applied: &'a mut Applied,
}

impl Work<'_> {
    /// Applies the objects of a kind and deletes those of ours that are no longer wanted. Returns the objects that now
    /// exist as wanted.
    async fn kind<K>(&mut self, desired: Vec<K>, observed: &[K]) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.identity.namespace);
        let mut present = Vec::new();
        for object in &desired {
            let listed = observed.iter().find(|other| other.name_any() == object.name_any());
            match self.object(&api, object, listed).await {
                Ok(Some(object)) => present.push(object),
                Ok(None) => {}
                Err(error) => self.failed(&object.name_any(), error),
            }
        }
        for unwanted in observed.iter().filter(|other| !desired.iter().any(|d| d.name_any() == other.name_any())) {
            if standing(unwanted.meta(), self.identity) == Standing::Ours {
                match delete(&api, unwanted).await {
                    Ok(()) => self.applied.writes += 1,
                    Err(error) => self.failed(&unwanted.name_any(), error),
                }
            }
        }
        present
    }

    /// Applies one object. `listed` is what has our labels; an object without them may still have the name.
    async fn object<K>(&mut self, api: &Api<K>, desired: &K, listed: Option<&K>) -> Result<Option<K>, kube::Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let name = desired.name_any();
        let found = match listed {
            Some(listed) => Some(listed.clone()),
            None => api.get_opt(&name).await?,
        };
        let mut wanted = serde_json::to_value(desired).map_err(kube::Error::SerdeError)?;
        compare::stamp(&mut wanted);
        if let Some(found) = found {
            match standing(found.meta(), self.identity) {
                Standing::Ours | Standing::Free => {}
                Standing::Leaving => {
                    let kind = K::kind(&());
                    self.applied.waiting.push(format!("{kind} {name} of an earlier resource to be gone"));
                    return Ok(None);
                }
                Standing::Foreign => {
                    self.applied.problems.push(foreign::<K>(&name));
                    return Ok(None);
                }
            }
            let live = serde_json::to_value(&found).map_err(kube::Error::SerdeError)?;
            if compare::satisfied(&wanted, &live) {
                return Ok(Some(found));
            }
            if let Some(mut patch) = compare::cleared(&wanted, &live) {
                pin(&mut patch, &found);
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await?;
                self.applied.writes += 1;
            }
            pin(&mut wanted, &found);
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let now = api.patch(&name, &params, &Patch::Apply(&wanted)).await?;
        self.applied.writes += 1;
        Ok(Some(now))
    }

    fn failed(&mut self, name: &str, error: kube::Error) {
        match refusal(name, &error) {
            Some(problem) => self.applied.problems.push(problem),
            None => tracing::warn!(object = name, error = %error, "can't apply"),
        }
        self.applied.error.get_or_insert(error);
    }
}

/// Names the very object that was looked at: if it has been replaced since, the API server answers with a conflict.
fn pin<K: Resource<DynamicType = ()>>(wanted: &mut Value, found: &K) {
    if let (Some(object), Some(uid)) = (wanted.as_object_mut(), found.uid()) {
        let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Default::default()));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("uid".to_owned(), uid.into());
        }
    }
}

/// Deletes the very object that was looked at. One that is gone already, or has been replaced, is fine.
pub async fn delete<K>(api: &Api<K>, object: &K) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    delete_with(api, object, DeleteParams::default()).await
}

/// Like [`delete`], with other parameters.
pub async fn delete_with<K>(api: &Api<K>, object: &K, params: DeleteParams) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
{
    let params =
        DeleteParams { preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }), ..params };
    match api.delete(&object.name_any(), &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

fn foreign<K: Resource<DynamicType = ()>>(name: &str) -> Problem {
    let kind = K::kind(&());
    Problem::new(
        Reason::NameConflict,
        format!(
            "{kind} {name} exists and belongs to somebody else; delete or rename it, or give this ReplicatedDB another name"
        ),
    )
}

/// An answer of the API server to a read, or to the first write, that a user should know of. Neither a conflict, which the
/// next attempt mends, nor a server that can't be reached, which keeps no status either.
pub fn rejection(error: &kube::Error) -> Option<Problem> {
    let kube::Error::Api(status) = error else { return None };
    let reason = if status.is_forbidden() || status.is_invalid() { Reason::Refused } else { Reason::ApiError };
    let text = format!(
        "the API server answers the operator: {}; correct the cluster's quota or policy, or the operator's rights",
        status.message
    );
    (!status.is_conflict()).then(|| Problem::new(reason, text))
}

/// An answer of the API server that trying again does not mend: the object as wished is not allowed here.
pub fn refusal(name: &str, error: &kube::Error) -> Option<Problem> {
    let kube::Error::Api(status) = error else { return None };
    (status.is_invalid() || status.is_forbidden() || status.code == 400).then(|| {
        Problem::new(
            Reason::Refused,
            format!("the API server refuses {name}: {}; correct the spec or the cluster's policy", status.message),
        )
    })
}
