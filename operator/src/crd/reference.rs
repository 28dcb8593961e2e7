//! The reference of the manifest, `docs/manifest.md`: every field with its type, bounds, default and rules, from the
//! definition itself.

use std::fmt::Write;

use serde_json::Value;

use super::{DefinitionError, definition};

/// Kubernetes types that are taken over as they are.
const EMBEDDED: [(&str, &str); 3] = [
    ("affinity", "Affinity"),
    ("tolerations", "list of Toleration"),
    ("topologySpreadConstraints", "list of TopologySpreadConstraint"),
];

const HEAD: &str = "# The manifest of a ReplicatedDB\n
Every field of `spec`, what it takes, and what holds for it. Made from the resource definition by `replicateddb-operator
reference`; don't edit. The API server checks all of it when a manifest is applied, and names the field and the remedy.\n
`apiVersion: replicateddb.dev/v1alpha1`, `kind: ReplicatedDB`. Every field may be left out. `kubectl explain
replicateddb.spec` tells the same.\n";

/// The reference as Markdown.
///
/// # Errors
/// The definition can't be made.
pub fn reference() -> Result<String, DefinitionError> {
    let crd = serde_json::to_value(definition()?)?;
    let mut text = HEAD.to_owned();
    if let Some(schema) = crd.pointer("/spec/versions/0/schema/openAPIV3Schema") {
        line(&mut text, "\n## The whole resource\n");
        rules(&mut text, schema);
        if let Some(spec) = schema.pointer("/properties/spec") {
            section(&mut text, "spec", spec);
        }
    }
    Ok(text)
}

/// An object: its rules, its fields, then the objects in it.
fn section(text: &mut String, path: &str, node: &Value) {
    line(text, &format!("\n## {path}\n"));
    if let Some(description) = node.get("description").and_then(Value::as_str) {
        line(text, &format!("{}\n", flat(description)));
    }
    rules(text, node);
    let properties = node.get("properties").and_then(Value::as_object);
    let fields: Vec<_> = properties.into_iter().flatten().collect();
    line(text, "| field | type | default | meaning |\n|---|---|---|---|");
    for (name, field) in &fields {
        let default = match field.get("default") {
            Some(default) if field.get("properties").is_none() => format!("`{}`", plain(default)),
            _ => String::new(),
        };
        let description = field.get("description").and_then(Value::as_str).unwrap_or_default();
        let mut meaning = vec![flat(description)];
        if field.get("properties").is_some() && !embedded(name) {
            meaning.push(format!("See `{path}.{name}`."));
        } else {
            meaning.extend(messages(field).map(|message| format!("*{}.*", flat(message))));
        }
        let (kind, meaning) = (kind(name, field), meaning.join(" "));
        line(text, &format!("| `{name}` | {kind} | {default} | {} |", meaning.replace('|', "\\|")));
    }
    for (name, field) in fields {
        if field.get("properties").is_some() && !embedded(name) {
            section(text, &format!("{path}.{name}"), field);
        }
    }
}

fn embedded(name: &str) -> bool {
    EMBEDDED.iter().any(|(field, _)| *field == name)
}

fn rules(text: &mut String, node: &Value) {
    for message in messages(node) {
        line(text, &format!("- {}.", flat(message)));
    }
    if messages(node).next().is_some() {
        line(text, "");
    }
}

fn messages(node: &Value) -> impl Iterator<Item = &str> {
    let rules = node.get("x-kubernetes-validations").and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(|rule| rule.get("message")?.as_str())
}

/// Type and bounds of a field.
fn kind(name: &str, node: &Value) -> String {
    if let Some((_, kind)) = EMBEDDED.iter().find(|(field, _)| *field == name) {
        return (*kind).to_owned();
    }
    let number = |key: &str| node.get(key).map(plain);
    let kind = node.get("type").and_then(Value::as_str).unwrap_or_default();
    if let Some(values) = node.get("enum").and_then(Value::as_array) {
        return values.iter().map(|value| format!("`{}`", plain(value))).collect::<Vec<_>>().join(", ");
    }
    if node.get("x-kubernetes-int-or-string").is_some() {
        return "quantity".to_owned();
    }
    match kind {
        "integer" => match (number("minimum"), number("maximum")) {
            (Some(least), Some(most)) => format!("integer, {least} to {most}"),
            _ => "integer".to_owned(),
        },
        "string" => {
            number("maxLength").map_or_else(|| "text".to_owned(), |most| format!("text, up to {most} characters"))
        }
        "array" => format!("list of up to {} texts", number("maxItems").unwrap_or_default()),
        "object" if node.get("additionalProperties").is_some() => {
            format!("map of up to {} texts", number("maxProperties").unwrap_or_default())
        }
        other => other.to_owned(),
    }
}

/// A value as a manifest has it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number
            .as_f64()
            .filter(|float| float.fract() == 0.0)
            .map_or_else(|| number.to_string(), |float| format!("{float}")),
        other => other.to_string(),
    }
}

/// One line of what may be several.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line(text: &mut String, line: &str) {
    // writing to a String can't fail
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_page_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/manifest.md");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(committed == reference().unwrap(), "run `replicateddb-operator reference > docs/manifest.md`");
    }

    /// Nothing that the definition says of our fields is left out.
    #[test]
    fn every_rule_is_on_the_page() {
        fn all(node: &Value, found: &mut Vec<String>) {
            if let Some(map) = node.as_object() {
                found.extend(messages(node).map(flat));
                map.values().for_each(|value| all(value, found));
            }
        }
        let (page, mut found) = (reference().unwrap(), Vec::new());
        let crd = serde_json::to_value(definition().unwrap()).unwrap();
        all(&crd["spec"]["versions"][0]["schema"], &mut found);
        assert!(found.len() > 20 && found.iter().all(|message| page.contains(message)), "{found:?}");
    }
}
