//! Reads everything that belongs to a resource, live and not from a cache: what is decided here deletes pods.

use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{Api, Client, api::ListParams};

use crate::{
    authority::Purpose,
    crd::ReplicatedDB,
    names::{Identity, LABEL_COMPONENT, LABEL_INSTANCE, LABEL_MANAGED_BY, MANAGED_BY, Tier, ordinal},
    validate::Validated,
};
use kube::Resource;

/// What exists of a resource.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// By label.
    pub service_accounts: Vec<ServiceAccount>,
    /// By label.
    pub config_maps: Vec<ConfigMap>,
    /// By label.
    pub services: Vec<Service>,
    /// By label.
    pub network_policies: Vec<NetworkPolicy>,
    /// By label.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// By label.
    pub stateful_sets: Vec<StatefulSet>,
    /// With the agents' token. By name.
    pub secret: Option<Secret>,
    /// With the superuser, where the operator makes it. By name, also while clients need not log in: it goes with the volumes.
    pub superuser: Option<Secret>,
    /// The one with the superuser that the spec names instead. By name.
    pub named_superuser: Option<Secret>,
    /// The one with the certificate that clients are shown, if the spec names one. By name.
    pub tls: Option<Secret>,
    /// With the authority that the operator makes. By name, also while nobody uses TLS: it goes with the volumes.
    pub authority: Option<Secret>,
    /// With the certificate that it signs. As that.
    pub certificate: Option<Secret>,
    /// With the certificate that it signs for replicas and store agents. As that.
    pub peers: Option<Secret>,
    /// By label; those that an earlier resource of the same name left behind among them.
    pub claims: Vec<PersistentVolumeClaim>,
    /// By label.
    pub pods: Vec<Pod>,
}

/// Reads what exists of the resource.
pub async fn dereference(client: &Client, validated: &Validated) -> Result<Observed, kube::Error> {
    let identity = &validated.identity;
    let query = ListParams::default().labels(&identity.label_query());
    macro_rules! list {
        () => {
            async { Api::namespaced(client.clone(), &identity.namespace).list(&query).await.map(|list| list.items) }
        };
    }
    let secrets: Api<Secret> = Api::namespaced(client.clone(), &identity.namespace);
    let (name, superuser) = (identity.secret(), identity.superuser());
    let (authority, certificate, peers) = (identity.authority(), identity.certificate(), identity.peers());
    let authentication = &validated.spec.authentication;
    let named = async {
        match authentication.superuser_secret.name.as_ref().filter(|_| authentication.enabled) {
            Some(name) => secrets.get_opt(name).await,
            None => Ok(None),
        }
    };
    let tls = async {
        match validated.spec.tls.secret_name.as_ref().filter(|_| validated.spec.tls.enabled) {
            Some(name) => secrets.get_opt(name).await,
            None => Ok(None),
        }
    };
    let (
        (service_accounts, config_maps, services, network_policies),
        (disruption_budgets, stateful_sets, claims, pods),
        (secret, superuser, named_superuser),
        (tls, authority, certificate, peers),
    ) = tokio::try_join!(
        async { tokio::try_join!(list!(), list!(), list!(), list!()) },
        async { tokio::try_join!(list!(), list!(), list!(), list!()) },
        async { tokio::try_join!(secrets.get_opt(&name), secrets.get_opt(&superuser), named) },
        async {
            let certificates = (secrets.get_opt(&certificate), secrets.get_opt(&peers));
            tokio::try_join!(tls, secrets.get_opt(&authority), certificates.0, certificates.1)
        }
    )?;
    Ok(Observed {
        service_accounts,
        config_maps,
        services,
        network_policies,
        disruption_budgets,
        stateful_sets,
        secret,
        superuser,
        named_superuser,
        tls,
        authority,
        certificate,
        peers,
        claims,
        pods,
    })
}

/// How an existing object stands to a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The resource owns it.
    Ours,
    /// It has our labels and no owner: left behind by a deletion with orphans, to be taken over.
    Free,
    /// It is going, or its owner is an earlier resource of the same name that has gone.
    Leaving,
    /// It belongs to somebody else and must not be touched.
    Foreign,
}

/// How an object stands to the resource.
pub fn standing(object: &ObjectMeta, identity: &Identity) -> Standing {
    if object.deletion_timestamp.is_some() {
        return Standing::Leaving;
    }
    let owner = object.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let label = |name: &str| object.labels.as_ref().and_then(|labels| labels.get(name)).map(String::as_str);
    match owner {
        Some(owner) if owner.uid == identity.uid => Standing::Ours,
        Some(owner) if owner.kind == ReplicatedDB::kind(&()) && owner.name == identity.name => Standing::Leaving,
        Some(_) => Standing::Foreign,
        None if label(LABEL_MANAGED_BY) == Some(MANAGED_BY) && label(LABEL_INSTANCE) == Some(&identity.name) => {
            Standing::Free
        }
        None => Standing::Foreign,
    }
}

/// The tier that an object's label names.
pub fn tier_of(object: &ObjectMeta) -> Option<Tier> {
    Tier::from_component(object.labels.as_ref()?.get(LABEL_COMPONENT)?)
}

/// Whether a pod is one of a StatefulSet's, and not merely one with its labels: it has the name of one, and is controlled
/// by it, or by nobody, as between the two lives of a StatefulSet that is made again. What is no member is never deleted.
pub fn member(pod: &ObjectMeta, set: &str, uid: Option<&str>) -> bool {
    let name = pod.name.as_deref().unwrap_or_default();
    let named = ordinal(name).is_some_and(|ordinal| name == format!("{set}-{ordinal}"));
    let owner = pod.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    named
        && owner.is_none_or(|owner| {
            owner.kind == "StatefulSet" && owner.name == set && uid.is_none_or(|uid| uid == owner.uid)
        })
}

impl Observed {
    /// The Secret with a certificate that the operator makes.
    pub fn signed(&self, purpose: Purpose) -> Option<&Secret> {
        match purpose {
            Purpose::Clients => self.certificate.as_ref(),
            Purpose::Peers => self.peers.as_ref(),
        }
    }

    /// Pods of a tier's StatefulSet.
    pub fn pods_of(&self, tier: Tier, identity: &Identity) -> Vec<&Pod> {
        let name = identity.tier(tier);
        let set = self.stateful_sets.iter().find(|set| set.metadata.name.as_deref() == Some(&name));
        let uid = set.and_then(|set| set.metadata.uid.as_deref());
        let ours = |pod: &&Pod| tier_of(&pod.metadata) == Some(tier) && member(&pod.metadata, &name, uid);
        self.pods.iter().filter(ours).collect()
    }

    /// Claims of a tier.
    pub fn claims_of(&self, tier: Tier) -> impl Iterator<Item = &PersistentVolumeClaim> {
        self.claims.iter().filter(move |claim| tier_of(&claim.metadata) == Some(tier))
    }

    /// The StatefulSet of a tier, unless it is going or somebody else's.
    pub fn stateful_set(&self, tier: Tier, identity: &Identity) -> Option<&StatefulSet> {
        let name = identity.tier(tier);
        self.stateful_sets.iter().find(|set| {
            set.metadata.name.as_deref() == Some(&name)
                && matches!(standing(&set.metadata, identity), Standing::Ours | Standing::Free)
        })
    }
}

#[cfg(test)]
#[path = "dereference_tests.rs"]
mod tests;
