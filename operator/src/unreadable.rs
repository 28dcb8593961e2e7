//! A resource that the API server takes and this operator can't read, as one of a later version could be: its user is told.
//!
//! Its status is not read either, so nothing of it is replaced but the message and one condition, under a field manager of
//! their own: the images in use above all stay recorded.

use jiff::Timestamp;
use kube::{
    Api, Resource,
    api::{DynamicObject, Patch, PatchParams},
    discovery::ApiResource,
};
use serde_json::{Value, json};

use crate::{
    crd::ReplicatedDB,
    problem::{Problem, Reason},
    reconcile::Context,
    status::DEGRADED,
};

/// Field manager of what is told of a resource that can't be read.
const MANAGER: &str = "replicateddb-operator-unreadable";
/// Longest part of what the reader says.
const REASON_LENGTH_MAX: usize = 500;

/// Tells of it in the status, and by an Event, once.
///
/// # Errors
/// The API server could not be reached, or refused it.
pub async fn tell(context: &Context, namespace: &str, name: &str, why: &str) -> Result<(), kube::Error> {
    let resource = ApiResource::erase::<ReplicatedDB>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    let Some(object) = api.get_opt(name).await? else { return Ok(()) };
    let problem = problem(why);
    let Some(patch) = patch(&object, &problem, Timestamp::now()) else { return Ok(()) };
    let params = PatchParams::apply(MANAGER).force();
    api.patch_status(name, &params, &Patch::Apply(&patch)).await?;
    context.announcer.problem(&object.object_ref(&resource), &problem).await;
    Ok(())
}

fn problem(why: &str) -> Problem {
    let why: String = why.chars().take(REASON_LENGTH_MAX).collect();
    Problem::new(
        Reason::InvalidSpec,
        format!(
            "this operator can't read the resource, and leaves all that belongs to it as it is: {why}; correct the manifest, or run the operator that it was written for"
        ),
    )
}

/// The status to apply; none where it says so already.
fn patch(object: &DynamicObject, problem: &Problem, now: Timestamp) -> Option<Value> {
    let conditions = object.data.pointer("/status/conditions").and_then(Value::as_array);
    let text = |condition: &Value, key: &str| condition.get(key).and_then(Value::as_str).map(str::to_owned);
    let before = conditions.into_iter().flatten().find(|c| text(c, "type").as_deref() == Some(DEGRADED));
    let told = before.is_some_and(|c| {
        text(c, "status").as_deref() == Some("True") && text(c, "message").as_ref() == Some(&problem.message)
    });
    if told {
        return None;
    }
    let since = Timestamp::from_second(now.as_second()).unwrap_or(now).to_string();
    Some(json!({
        "apiVersion": ReplicatedDB::api_version(&()), "kind": ReplicatedDB::kind(&()),
        "metadata": {"name": object.metadata.name, "uid": object.metadata.uid},
        "status": {"message": problem.message, "conditions": [{
            "type": DEGRADED, "status": "True", "reason": problem.reason.to_string(), "message": problem.message,
            "lastTransitionTime": since, "observedGeneration": object.metadata.generation,
        }]},
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is told once, and of the status nothing else is touched.
    #[test]
    fn told_once() {
        let mut object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "replicateddb.dev/v1alpha1", "kind": "ReplicatedDB", "metadata": {"name": "orders"},
            "status": {"conditions": [{"type": "Degraded", "status": "False", "message": "nothing is wrong"}]},
        }))
        .unwrap();
        let problem = problem("no such thing");
        let patch = |object: &DynamicObject| super::patch(object, &problem, Timestamp::UNIX_EPOCH);
        let told = patch(&object).unwrap();
        let keys: Vec<_> = told["status"].as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys, ["conditions", "message"]);
        assert_eq!(told["status"]["conditions"][0]["reason"], "InvalidSpec");
        object.data["status"] = told["status"].clone();
        assert_eq!(patch(&object), None);
    }
}
