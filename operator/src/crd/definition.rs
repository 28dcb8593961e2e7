//! The definition as it is installed: derived from the types, then bounded and slimmed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Map, Value};

use super::ReplicatedDB;

/// Bound of a string inside an embedded Kubernetes type that has none of its own.
const STRING_LENGTH_MAX: u64 = 1_024;
/// Bound of a list or map inside an embedded Kubernetes type that has none of its own.
const ITEMS_MAX: u64 = 64;

/// Why the definition could not be made. Not seen in a build whose tests pass.
#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    /// The derived definition did not survive the trip through JSON.
    #[error("the derived definition is no valid JSON form of a CustomResourceDefinition")]
    Json(#[from] serde_json::Error),
    /// The definition can't be written as YAML.
    #[error("the definition can't be written as YAML")]
    Yaml(#[from] serde_saphyr::SerializeError),
}

/// The definition to install.
pub fn definition() -> Result<CustomResourceDefinition, DefinitionError> {
    let mut crd = serde_json::to_value(ReplicatedDB::crd())?;
    if let Some(schema) = crd.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties") {
        bound(schema);
        for tier in ["zookeeper", "cassandra", "replica"] {
            let at = format!("/spec/properties/{tier}/properties/pod/properties");
            for name in ["affinity", "tolerations", "topologySpreadConstraints"] {
                if let Some(embedded) = schema.pointer_mut(&format!("{at}/{name}")) {
                    slim(embedded);
                }
            }
        }
    }
    Ok(serde_json::from_value(crd)?)
}

/// The definition as the file in `crds/`.
pub fn yaml() -> Result<String, DefinitionError> {
    Ok(serde_saphyr::to_string(&definition()?)?)
}

/// Gives every string, list and map below `node` a bound if it has none, so that the cost of rules is bounded and no
/// resource can grow without limit.
fn bound(node: &mut Value) {
    let Value::Object(map) = node else {
        if let Value::Array(items) = node {
            items.iter_mut().for_each(bound);
        }
        return;
    };
    match map.get("type").and_then(Value::as_str) {
        Some("string") if !map.contains_key("enum") && !map.contains_key("format") => {
            limit(map, "maxLength", STRING_LENGTH_MAX)
        }
        Some("array") => limit(map, "maxItems", ITEMS_MAX),
        Some("object") if map.contains_key("additionalProperties") => limit(map, "maxProperties", ITEMS_MAX),
        _ => {}
    }
    map.values_mut().for_each(bound);
}

fn limit(map: &mut Map<String, Value>, keyword: &str, most: u64) {
    map.entry(keyword.to_owned()).or_insert_with(|| most.into());
}

/// Takes the descriptions below an embedded type out; its own stays. They are the Kubernetes documentation over again
/// and would make up most of the definition.
fn slim(embedded: &mut Value) {
    fn strip(node: &mut Value) {
        match node {
            Value::Object(map) => {
                if map.get("description").is_some_and(Value::is_string) {
                    map.remove("description");
                }
                map.values_mut().for_each(strip);
            }
            Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    if let Value::Object(map) = embedded {
        map.iter_mut().filter(|(key, _)| key.as_str() != "description").for_each(|(_, value)| strip(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Room that the definition leaves in etcd and in an annotation of client-side apply.
    const DEFINITION_BYTES_MAX: usize = 256 * 1024;

    #[test]
    fn the_committed_file_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../crds/replicateddbs.replicateddb.dev.yaml");
        let committed = std::fs::read_to_string(path).expect("the committed definition");
        assert!(
            committed == yaml().unwrap(),
            "run `replicateddb-operator crd > crds/replicateddbs.replicateddb.dev.yaml`"
        );
        assert!(committed.len() < DEFINITION_BYTES_MAX, "{} bytes", committed.len());
    }

    /// Walks the schema of the spec: everything is bounded and every field is described.
    #[test]
    fn everything_is_bounded_and_described() {
        fn walk(path: &str, node: &Value, ours: bool) {
            let kind = node.get("type").and_then(Value::as_str);
            let has = |keyword: &str| node.get(keyword).is_some();
            match kind {
                Some("string") => assert!(has("maxLength") || has("enum") || has("format"), "{path} has no bound"),
                Some("array") => assert!(has("maxItems"), "{path} has no bound"),
                Some("object") if has("additionalProperties") => assert!(has("maxProperties"), "{path} has no bound"),
                _ => {}
            }
            for (name, property) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let path = format!("{path}.{name}");
                assert!(!ours || property.get("description").is_some(), "{path} has no description");
                let embedded = matches!(name.as_str(), "affinity" | "tolerations" | "topologySpreadConstraints");
                walk(&path, property, ours && !embedded);
            }
            for inner in ["items", "additionalProperties"].iter().filter_map(|key| node.get(*key)) {
                walk(&format!("{path}[]"), inner, ours);
            }
        }
        let crd = serde_json::to_value(definition().unwrap()).unwrap();
        let spec = crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").unwrap();
        walk("spec", spec, true);
    }
}
