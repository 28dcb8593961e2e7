//! One reconcile: dereference → validate → build → apply → status, with volumes before and replacements of pods after.
//!
//! It starts from what exists, so it may be cut short after any request and run again (I10), and it writes nothing when
//! everything is as wished (I9).

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod, PodSpec, Secret},
    events::v1::Event,
    storage::v1::StorageClass,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    apply::{self, Applied},
    authority::{self, Authority, CantMake, Due, Purpose},
    build::{self, Running, Template},
    claims,
    crd::{ReplicatedDB, ReplicatedDBStatus, StorageStatus},
    dereference::{Observed, Standing, dereference, standing},
    events::Announcer,
    kept::{self, Kept, SecretStep},
    metrics::Metrics,
    names::{FIELD_MANAGER, Identity, Tier},
    pods::{self, PodView},
    probe::Prober,
    problem::{Problem, Reason},
    roll::{self, Reports, Step, TierView},
    status::{Facts, failed, status},
    validate::{Defaults, Validated, validate},
};

/// Time to the next look at a resource at rest.
pub const REST_INTERVAL: Duration = Duration::from_secs(30);
/// Time to the next look at a resource in motion: its pods wake it, this is for what no watch tells.
pub const MOTION_INTERVAL: Duration = Duration::from_secs(10);
/// Time to the next look where an admin interface, or an object that is going, is waited for.
pub const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// Field manager of the status.
const STATUS_MANAGER: &str = "replicateddb-operator-status";
/// Random bytes of a token or password.
const RANDOM_BYTES: usize = 32;

/// What a reconcile needs besides the resource.
#[derive(Clone)]
pub struct Context {
    /// The API server, behind the gate.
    pub client: Client,
    /// Asks the admin interfaces.
    pub prober: Prober,
    /// What it adds to what resources say.
    pub defaults: Defaults,
    /// Tells of transitions.
    pub announcer: Announcer,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// Reconciles the resource as it is now; the time to the next look, `None` when it has gone.
///
/// # Errors
/// The API server could not be reached, or refused something; what could be done is done, and the status tells.
pub async fn reconcile(context: &Context, namespace: &str, name: &str) -> Result<Option<Duration>, kube::Error> {
    let api: Api<ReplicatedDB> = Api::namespaced(context.client.clone(), namespace);
    let Some(rdb) = api.get_opt(name).await?.filter(|rdb| rdb.metadata.deletion_timestamp.is_none()) else {
        context.metrics.forget(namespace, name);
        return Ok(None);
    };
    let validated = match validate(&rdb, &context.defaults) {
        Ok(validated) => validated,
        Err(invalid) => {
            let problem = Problem::new(Reason::InvalidSpec, format!("{invalid}; correct the manifest"));
            tell_failure(context, &api, &rdb, rdb.status.clone().unwrap_or_default(), &problem).await?;
            return Ok(Some(REST_INTERVAL));
        }
    };
    record_release(&api, &rdb, &validated).await?;
    let pass = Pass { context, rdb: &rdb, validated: &validated };
    let outcome = match Box::pin(pass.run()).await {
        Ok(outcome) => outcome,
        Err(error) => {
            if let Some(problem) = apply::rejection(&error) {
                let release = Some(validated.release.clone());
                let before = ReplicatedDBStatus { release, ..rdb.status.clone().unwrap_or_default() };
                tell_failure(context, &api, &rdb, before, &problem).await?;
            }
            return Err(error);
        }
    };
    let now = status(&outcome.facts(&validated, rdb.status.as_ref()));
    if rdb.status.as_ref() != Some(&now) {
        write_status(&api, &rdb, &now).await?;
        context.announcer.transitions(&rdb, &now).await;
    }
    let holds = |type_: &str| now.conditions.iter().any(|c| c.type_ == type_ && c.status == "True");
    context.metrics.note(namespace, name, &now);
    match outcome.error {
        Some(error) => Err(error),
        None if outcome.polling => Ok(Some(POLL_INTERVAL)),
        None if holds(crate::status::PROGRESSING) => Ok(Some(MOTION_INTERVAL)),
        None => Ok(Some(REST_INTERVAL)),
    }
}

/// Records which images are in use before anything runs them, so that no later operator decides otherwise.
async fn record_release(api: &Api<ReplicatedDB>, rdb: &ReplicatedDB, validated: &Validated) -> Result<(), kube::Error> {
    if rdb.status.as_ref().and_then(|status| status.release.as_ref()) == Some(&validated.release) {
        return Ok(());
    }
    let before = rdb.status.clone().unwrap_or_default();
    write_status(api, rdb, &ReplicatedDBStatus { release: Some(validated.release.clone()), ..before }).await
}

/// Tells of a pass that could not be made.
async fn tell_failure(
    context: &Context,
    api: &Api<ReplicatedDB>,
    rdb: &ReplicatedDB,
    before: ReplicatedDBStatus,
    problem: &Problem,
) -> Result<(), kube::Error> {
    let now = failed(before, rdb.metadata.generation.unwrap_or_default(), problem, Timestamp::now());
    if rdb.status.as_ref() != Some(&now) {
        write_status(api, rdb, &now).await?;
        context.announcer.transitions(rdb, &now).await;
    }
    context.metrics.note(&rdb.namespace().unwrap_or_default(), &rdb.name_any(), &now);
    Ok(())
}

async fn write_status(
    api: &Api<ReplicatedDB>,
    rdb: &ReplicatedDB,
    status: &ReplicatedDBStatus,
) -> Result<(), kube::Error> {
    let patch = json!({
        "apiVersion": ReplicatedDB::api_version(&()),
        "kind": ReplicatedDB::kind(&()),
        "metadata": {"name": rdb.name_any(), "uid": rdb.uid()},
        "status": status,
    });
    let params = PatchParams::apply(STATUS_MANAGER).force();
    api.patch_status(&rdb.name_any(), &params, &Patch::Apply(&patch)).await.map(|_| ())
}

/// One pass over a valid resource.
struct Pass<'a> {
    context: &'a Context,
    rdb: &'a ReplicatedDB,
    validated: &'a Validated,
}

/// What a pass found and did.
struct Found {
    tiers: Vec<TierView>,
    reports: Reports,
    problems: Vec<Problem>,
    waiting: Vec<String>,
    storage: StorageStatus,
    blocked: bool,
    /// What is waited for must be asked for again.
    polling: bool,
    error: Option<kube::Error>,
    now: Timestamp,
}

impl Found {
    fn facts<'a>(&'a self, validated: &'a Validated, before: Option<&'a ReplicatedDBStatus>) -> Facts<'a> {
        Facts {
            validated,
            tiers: &self.tiers,
            reports: &self.reports,
            problems: &self.problems,
            waiting: &self.waiting,
            blocked: self.blocked,
            storage: self.storage.clone(),
            before,
            now: self.now,
        }
    }
}

impl Pass<'_> {
    fn identity(&self) -> &Identity {
        &self.validated.identity
    }

    async fn run(&self) -> Result<Found, kube::Error> {
        let client = &self.context.client;
        let mut observed = Box::pin(dereference(client, self.validated)).await?;
        let kept = kept::judge(self.validated, &observed, Timestamp::now());
        if kept.blocked {
            return Ok(self.blocked(observed, kept).await);
        }
        self.secrets(&kept, &observed).await?;
        let mut problems = kept.problems;
        let plan = claims::plan(self.validated, &observed);
        let recreated: Vec<_> = plan.recreate.iter().map(|(tier, _)| self.identity().tier(*tier)).collect();
        let volumes = claims::carry_out(client, self.identity(), plan).await;
        problems.extend(volumes.problems);
        if !recreated.is_empty() {
            observed.stateful_sets.retain(|set| !recreated.contains(&set.name_any()));
            observed.stateful_sets.extend(self.reread(&recreated).await?);
        }
        let desired = build::build(self.validated, &self.running(&observed));
        let applied = apply::apply(client, self.identity(), desired, &observed).await;
        let now = Timestamp::now();
        let tiers = self.tiers(&observed, &applied, now);
        let rolling = roll::needed(&tiers);
        let reports = self.context.prober.ask(&tiers, rolling).await;
        let step = if rolling { roll::plan(&tiers, &reports) } else { Step::default() };
        let mut error = volumes.error.or(applied.error);
        if let Err(failed) = self.replace(&step).await {
            error.get_or_insert(failed);
        }
        problems.extend(applied.problems);
        problems.extend(self.claim_problems(&observed, now).await);
        let (resizes, growing) = claims::resizes(self.validated, &observed);
        problems.extend(resizes);
        problems.extend(pod_problems(&tiers));
        problems.extend(self.creation_problems(&observed, &tiers).await);
        if let Some(error) = error.as_ref().filter(|_| problems.is_empty()) {
            problems.push(Problem::new(Reason::ApiError, format!("the API server: {error}; trying again")));
        }
        let mut waiting: Vec<_> = applied.waiting.into_iter().chain(step.waiting).collect();
        let polling = rolling || !waiting.is_empty();
        // a resize may take hours: it is looked at again, but not every other second
        waiting.extend(growing);
        let storage = claims::storage(&observed);
        Ok(Found { tiers, reports, problems, waiting, storage, blocked: false, polling, error, now })
    }

    /// Nothing may be done: what is there is told as it is.
    async fn blocked(&self, observed: Observed, Kept { problems, waiting, .. }: Kept) -> Found {
        let now = Timestamp::now();
        let sets = Tier::ALL.into_iter().filter_map(|tier| observed.stateful_set(tier, self.identity()).cloned());
        let applied = Applied { stateful_sets: sets.collect(), ..Default::default() };
        let tiers = self.tiers(&observed, &applied, now);
        Found {
            reports: self.context.prober.ask(&tiers, false).await,
            tiers,
            problems,
            blocked: true,
            polling: !waiting.is_empty(),
            waiting,
            storage: claims::storage(&observed),
            error: None,
            now,
        }
    }

    /// StatefulSets again, after they have been deleted to come back: gone, or going.
    async fn reread(&self, names: &[String]) -> Result<Vec<k8s_openapi::api::apps::v1::StatefulSet>, kube::Error> {
        let api = Api::namespaced(self.context.client.clone(), &self.identity().namespace);
        let mut sets = Vec::new();
        for name in names {
            sets.extend(api.get_opt(name).await?);
        }
        Ok(sets)
    }

    /// Each Secret is made once, before anything that keeps data or uses it, and never again while data exists, but for the
    /// certificate's. The superuser's and the authority's come first: what the one with the token notes of them is true.
    async fn secrets(&self, kept: &Kept, observed: &Observed) -> Result<(), kube::Error> {
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), &self.identity().namespace);
        if kept.superuser == SecretStep::Create {
            create_once(&api, &build::superuser(self.validated, &random())).await?;
        }
        if !kept.certificates.is_empty() {
            self.certificates(&api, kept, observed).await?;
        }
        match (kept.secret, &observed.secret) {
            (SecretStep::Create, _) => create_once(&api, &build::secret(self.validated, &random())).await.map(|_| ()),
            (SecretStep::Record, Some(secret)) => {
                let notes = kept::notes(self.validated);
                let patch = json!({"metadata": {"uid": secret.uid(), "annotations": notes}});
                let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
                api.patch(&secret.name_any(), &params, &Patch::Merge(&patch)).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// Makes the certificates that are due, and before them the authority where there is none.
    async fn certificates(&self, api: &Api<Secret>, kept: &Kept, observed: &Observed) -> Result<(), kube::Error> {
        let secret = match (kept.authority, &observed.authority) {
            (SecretStep::Create, _) => {
                let pair = authority::make(&self.identity().name, Timestamp::now()).map_err(cant_make)?;
                create_once(api, &build::authority(self.validated, &pair)).await?
            }
            (_, Some(secret)) => secret.clone(),
            (_, None) => return Ok(()),
        };
        // One that somebody else has made meanwhile is judged by the next pass.
        let Ok(authority) = Authority::of(&secret) else { return Ok(()) };
        for (purpose, due) in &kept.certificates {
            self.certificate(api, &authority, *purpose, observed.signed(*purpose), due).await?;
        }
        Ok(())
    }

    async fn certificate(
        &self,
        api: &Api<Secret>,
        authority: &Authority,
        purpose: Purpose,
        held: Option<&Secret>,
        due: &Due,
    ) -> Result<(), kube::Error> {
        let identity = self.identity();
        let names = purpose.names(identity, self.validated.spec.replicas);
        let pair = authority.issue(&names, Timestamp::now()).map_err(cant_make)?;
        let secret = build::certificate(self.validated, purpose, &pair, authority.certificate());
        tracing::info!(namespace = identity.namespace, secret = secret.name_any(), %due, "a certificate is made");
        let Some(held) = held else { return create_once(api, &secret).await.map(|_| ()) };
        let patch = json!({
            "metadata": {"uid": held.uid(), "resourceVersion": held.resource_version()},
            "stringData": secret.string_data,
        });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
        api.patch(&held.name_any(), &params, &Patch::Merge(&patch)).await.map(|_| ())
    }

    fn running(&self, observed: &Observed) -> Running {
        let identity = self.identity();
        let known = |map: &&ConfigMap| matches!(standing(&map.metadata, identity), Standing::Ours | Standing::Free);
        let ours: Vec<_> = observed.config_maps.iter().filter(known).cloned().collect();
        let stateful_sets: std::collections::BTreeMap<_, _> = Tier::ALL
            .into_iter()
            .filter_map(|tier| Some((tier, observed.stateful_set(tier, identity)?.clone())))
            .collect();
        // Never more than there are: a replica that is still there says what to keep, not what to add.
        let live = stateful_sets.get(&Tier::Cassandra).and_then(|set| set.spec.as_ref()?.replicas).unwrap_or_default();
        let templates = Tier::ALL
            .into_iter()
            .filter_map(|tier| {
                let set = stateful_sets.get(&tier);
                Some((tier, Template::before(identity, tier, &ours, set)?))
            })
            .collect();
        let last = observed
            .pods_of(Tier::Replica, identity)
            .into_iter()
            .filter_map(|pod| crate::names::ordinal(&pod.name_any()))
            .max();
        let cassandras = observed.pods_of(Tier::Cassandra, identity);
        let replicas = observed.pods_of(Tier::Replica, identity);
        let speaking: Vec<_> = cassandras.iter().chain(&replicas).filter_map(|pod| pod.spec.as_ref()).collect();
        let plain = |pod: &&PodSpec| !build::is_told(pod, build::INTERNAL_CERTIFICATE);
        let strict = |pod: &&PodSpec| !plain(pod) && !build::is_told(pod, build::INTERNAL_OPTIONAL);
        let unclaimed = |pod: &PodSpec| !build::is_told(pod, build::ZOOKEEPER_TOKEN);
        let closed = |pod: &PodSpec| !unclaimed(pod) && !build::is_told(pod, build::ZOOKEEPER_OPEN);
        let open = |pod: &PodSpec| !build::is_told(pod, build::AUTHENTICATION);
        Running {
            stateful_sets,
            templates,
            cassandra_pods_min: live.min(last.map_or(0, |last| last + 1)),
            open_stores: cassandras.iter().filter_map(|pod| pod.spec.as_ref()).any(open),
            logins: kept::has_logins(self.validated, observed),
            plain_inside: speaking.iter().any(plain),
            tls_inside: speaking.iter().any(strict),
            log_unclaimed: replicas.iter().filter_map(|pod| pod.spec.as_ref()).any(unclaimed),
            log_closed: kept::was_restricted(observed)
                || replicas.iter().filter_map(|pod| pod.spec.as_ref()).any(closed),
        }
    }

    /// The tiers as they are after applying; pods beyond the wished number are on their way out and left aside.
    fn tiers(&self, observed: &Observed, applied: &Applied, now: Timestamp) -> Vec<TierView> {
        Tier::ALL
            .into_iter()
            .map(|tier| {
                let size = self.validated.size(tier);
                let name = self.identity().tier(tier);
                let set = applied.stateful_sets.iter().find(|set| set.name_any() == name);
                let revision = set.and_then(|set| {
                    let status = set.status.as_ref()?;
                    (status.observed_generation >= set.metadata.generation).then(|| status.update_revision.clone())?
                });
                let members = observed.pods_of(tier, self.identity());
                let mut pods: Vec<_> = members.into_iter().filter_map(|pod| pods::view(pod, tier, now)).collect();
                pods.retain(|pod| pod.ordinal < size);
                pods.sort_by_key(|pod| pod.ordinal);
                TierView { tier, size, revision, pods }
            })
            .collect()
    }

    async fn replace(&self, step: &Step) -> Result<(), kube::Error> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &self.identity().namespace);
        for replacement in &step.delete {
            let mut pod = Pod::default();
            pod.metadata.name = Some(replacement.name.clone());
            pod.metadata.uid = Some(replacement.uid.clone());
            apply::delete(&api, &pod).await?;
            self.context.metrics.replaced();
            self.context.announcer.replaced(self.rdb, replacement).await;
        }
        Ok(())
    }

    /// Pods that can't be made: the StatefulSet controller tells of it by an Event alone.
    async fn creation_problems(&self, observed: &Observed, tiers: &[TierView]) -> Vec<Problem> {
        const EVENTS_MAX: u32 = 20;
        let api: Api<Event> = Api::namespaced(self.context.client.clone(), &self.identity().namespace);
        let mut problems = Vec::new();
        for view in tiers.iter().filter(|view| view.revision.is_some() && view.lacks_pods()) {
            let set = self.identity().tier(view.tier);
            let query = ListParams::default()
                .fields(&format!("regarding.kind=StatefulSet,regarding.name={set},reason=FailedCreate"))
                .limit(EVENTS_MAX);
            let members = observed.pods_of(view.tier, self.identity());
            match api.list(&query).await {
                Ok(events) => problems.extend(pods::creation_problem(&set, &events.items, &members)),
                Err(error) => tracing::warn!(set, error = %error, "can't read events"),
            }
        }
        problems
    }

    async fn claim_problems(&self, observed: &Observed, now: Timestamp) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        for tier in [Tier::ZooKeeper, Tier::Cassandra] {
            for claim in observed.claims_of(tier) {
                let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
                let pending = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Pending");
                let known = match class.filter(|class| pending && !class.is_empty()) {
                    Some(class) => self.class_exists(class).await,
                    None => None,
                };
                if let Some(problem) = pods::claim_problem(claim, tier, known, now) {
                    problems.push(problem);
                    break; // the others of the tier lack the same
                }
            }
        }
        problems
    }

    /// Whether a storage class exists; `None` when that may not be asked.
    async fn class_exists(&self, class: &str) -> Option<bool> {
        let api: Api<StorageClass> = Api::all(self.context.client.clone());
        api.get_opt(class).await.ok().map(|class| class.is_some())
    }
}

/// A secret that nobody guesses, of letters and digits alone, and short enough for all of it to count as a password.
fn random() -> String {
    rand::random::<[u8; RANDOM_BYTES]>().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Creates a Secret; one that is there by now is left as it is. The one that there is.
async fn create_once(api: &Api<Secret>, secret: &Secret) -> Result<Secret, kube::Error> {
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
    match api.create(&params, secret).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => api.get(&secret.name_any()).await,
        created => created,
    }
}

/// A certificate that can't be made, as an error after which the pass is tried again.
fn cant_make(error: CantMake) -> kube::Error {
    kube::Error::Service(error.into())
}

/// Failures of pods that are not ready, one of each reason and tier.
fn pod_problems(tiers: &[TierView]) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for tier in tiers {
        let mut reasons = Vec::new();
        // of one that is going, only that it does not go
        let told = |pod: &PodView, failure: &Problem| !pod.terminating || failure.reason == Reason::NodeLost;
        for failure in tier
            .pods
            .iter()
            .filter(|pod| !pod.ready || pod.terminating)
            .filter_map(|pod| pod.failure.as_ref().filter(|failure| told(pod, failure)))
        {
            if !reasons.contains(&failure.reason) {
                reasons.push(failure.reason);
                problems.push(failure.clone());
            }
        }
    }
    problems
}
