//! Does a live object already have what we want of it? Pure.
//!
//! Only the fields that we would apply are looked at; what the API server or others add is theirs, but for selectors and
//! the data of ConfigMaps, where an addition changes what ours mean. A field that we no
//! longer want is noticed by the digest that every applied object carries ([`ANNOTATION_APPLIED`]). This is what keeps a
//! reconcile at rest from writing anything (I9).

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Map, Value};

use crate::{
    crd::compare as compare_quantities,
    names::{ANNOTATION_APPLIED, digest},
};

/// Puts the digest of `desired` into its annotations.
pub fn stamp(desired: &mut Value) {
    let applied = digest(desired.to_string().as_bytes());
    if let Some(metadata) = desired.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
        if let Some(annotations) = annotations.as_object_mut() {
            annotations.insert(ANNOTATION_APPLIED.to_owned(), applied.into());
        }
    }
}

/// Whether `live` has everything that `desired` says.
pub fn satisfied(desired: &Value, live: &Value) -> bool {
    same(desired, Some(live), false)
}

/// `amounts`: the strings at this level are quantities, which the API server rewrites (`1024Mi` becomes `1Gi`).
fn same(desired: &Value, live: Option<&Value>, amounts: bool) -> bool {
    match (desired, live) {
        (Value::Object(wanted), None) => wanted.is_empty(),
        (Value::Array(wanted), None) => wanted.is_empty(),
        (Value::String(wanted), None) => wanted.is_empty(),
        (Value::Bool(wanted), None) => !wanted,
        (Value::Null, live) => live.is_none_or(Value::is_null),
        (_, None) => false,
        (Value::Object(wanted), Some(Value::Object(found))) => wanted.iter().all(|(key, value)| {
            let amounts = matches!(key.as_str(), "requests" | "limits") || (amounts && value.is_string());
            let exact = EXACT.contains(&key.as_str());
            same(value, found.get(key), amounts) && !(exact && additions(value, found.get(key)))
        }),
        (Value::Array(wanted), Some(Value::Array(found))) => same_list(wanted, found),
        (Value::String(wanted), Some(Value::String(found))) if amounts => {
            wanted == found
                || compare_quantities(&Quantity(wanted.clone()), &Quantity(found.clone()))
                    .is_some_and(std::cmp::Ordering::is_eq)
        }
        (wanted, Some(found)) => wanted == found,
    }
}

/// Maps that have to be exactly ours: one more label in a selector selects other pods, one more key of data is one more
/// setting.
const EXACT: [&str; 6] = ["selector", "matchLabels", "podSelector", "namespaceSelector", "labelSelector", "data"];

/// Whether a map has keys that are not wanted.
fn additions(wanted: &Value, found: Option<&Value>) -> bool {
    match (wanted, found) {
        (Value::Object(wanted), Some(Value::Object(found))) => found.keys().any(|key| !wanted.contains_key(key)),
        _ => false,
    }
}

/// The patch that takes keys out of the `data` of `live` that are not wanted. Server-side apply does not: they are owned by
/// whoever put them there. (Selectors are replaced as a whole.)
pub fn cleared(desired: &Value, live: &Value) -> Option<Value> {
    let (wanted, found) = (desired.get("data")?.as_object()?, live.get("data")?.as_object()?);
    let unwanted: Map<_, _> =
        found.keys().filter(|key| !wanted.contains_key(*key)).map(|key| (key.clone(), Value::Null)).collect();
    (!unwanted.is_empty()).then(|| serde_json::json!({"data": unwanted}))
}

/// Lists whose elements have a key are merged by the API server, so that others may have added to them; the rest are
/// replaced as a whole.
fn same_list(wanted: &[Value], found: &[Value]) -> bool {
    let keys: Option<Vec<_>> = wanted.iter().map(key).collect();
    match keys {
        Some(keys) => wanted.iter().zip(keys).all(|(element, wanted_key)| {
            found.iter().any(|other| key(other) == Some(wanted_key) && same(element, Some(other), false))
        }),
        None => {
            wanted.len() == found.len()
                && wanted.iter().zip(found).all(|(element, other)| same(element, Some(other), false))
        }
    }
}

/// What identifies an element of a keyed list.
fn key(element: &Value) -> Option<(&'static str, &str)> {
    ["mountPath", "uid", "name"].into_iter().find_map(|field| Some((field, element.get(field)?.as_str()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_add_is_theirs() {
        let desired = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"containers": [{"name": "c", "env": []}]}});
        let live = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "uid": "x"},
            "spec": {"containers": [{"name": "sidecar"}, {"name": "c", "terminationMessagePath": "/dev"}], "dnsPolicy": "x"}});
        assert!(satisfied(&desired, &live));
    }

    #[test]
    fn what_differs_in_our_fields_is_drift() {
        let desired = json!({"spec": {"ports": [{"name": "cql", "port": 9042}], "args": ["a", "b"], "on": true}});
        for live in [
            json!({"spec": {"ports": [{"name": "cql", "port": 9043}], "args": ["a", "b"], "on": true}}),
            json!({"spec": {"ports": [], "args": ["a", "b"], "on": true}}),
            json!({"spec": {"ports": [{"name": "cql", "port": 9042}], "args": ["b", "a"], "on": true}}),
            json!({"spec": {"ports": [{"name": "cql", "port": 9042}], "args": ["a", "b", "c"], "on": true}}),
            json!({"spec": {"ports": [{"name": "cql", "port": 9042}], "args": ["a", "b"]}}),
            json!({}),
        ] {
            assert!(!satisfied(&desired, &live), "{live}");
        }
    }

    /// Where an addition changes the meaning of what is ours, it is drift.
    #[test]
    fn selectors_and_data_are_exact() {
        for (desired, live) in [
            (json!({"spec": {"selector": {"a": "1"}}}), json!({"spec": {"selector": {"a": "1", "b": "2"}}})),
            (
                json!({"spec": {"selector": {"matchLabels": {"a": "1"}}}}),
                json!({"spec": {"selector": {"matchLabels": {"a": "1", "b": "2"}}}}),
            ),
            (
                json!({"spec": {"podSelector": {"matchLabels": {"a": "1"}}}}),
                json!({"spec": {"podSelector": {"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b"}]}}}),
            ),
            (
                json!({"spec": {"ingress": [{"from": [{"namespaceSelector": {}}]}]}}),
                json!({"spec": {"ingress": [{"from": [{"namespaceSelector": {"matchLabels": {"a": "1"}}}]}]}}),
            ),
            (json!({"data": {"A": "1"}}), json!({"data": {"A": "1", "B": "2"}})),
        ] {
            assert!(satisfied(&desired, &desired) && !satisfied(&desired, &live), "{live}");
        }
        let patch = cleared(&json!({"data": {"A": "1"}}), &json!({"data": {"A": "0", "B": "2"}}));
        assert_eq!(patch, Some(json!({"data": {"B": null}})));
        assert_eq!(cleared(&json!({"data": {"A": "1"}}), &json!({"data": {"A": "0"}})), None);
    }

    #[test]
    fn rewritten_quantities_are_the_same() {
        let amount = |text: &str| json!({"resources": {"requests": {"memory": text, "cpu": "0.5"}}});
        let live = json!({"resources": {"requests": {"memory": "1Gi", "cpu": "500m"}}});
        assert!(satisfied(&amount("1024Mi"), &live) && !satisfied(&amount("1025Mi"), &live));
        assert!(!satisfied(&json!({"tag": "1024Mi"}), &json!({"tag": "1Gi"})), "only where quantities are");
    }

    #[test]
    fn the_stamp_changes_when_a_field_goes() {
        let stamped = |labels: Value| {
            let mut object = json!({"metadata": {"name": "x", "labels": labels}});
            stamp(&mut object);
            object.pointer("/metadata/annotations").cloned().unwrap()
        };
        assert_ne!(stamped(json!({"a": "1", "b": "2"})), stamped(json!({"a": "1"})));
        assert_eq!(stamped(json!({"a": "1"})), stamped(json!({"a": "1"})));
    }
}
