//! The JSON schema of the release file: that of the types, and what an environment may say.

use serde_json::{Map, Value, json};

use super::ReleaseFile;

/// Returns the JSON schema of the release file, for editors.
pub fn release_file_schema() -> Value {
    let mut root = schemars::schema_for!(ReleaseFile).to_value();
    let strict: Map<String, Value> = root["$defs"].as_object().cloned().unwrap_or_default();
    // Only keys with values are merged; texts, numbers and words are the same in an environment.
    let merged: Vec<String> =
        strict.iter().filter(|(_, schema)| has_keys(schema)).map(|(name, _)| name.clone()).collect();
    let mut overlay =
        json!({ "type": "object", "properties": root["properties"], "additionalProperties": false });
    loosen(&mut overlay, &merged, false);
    overlay["description"] = json!("What differs from the base in this environment; null removes a key.");
    let mut defs = strict.clone();
    for name in &merged {
        let mut loose = strict[name].clone();
        loosen(&mut loose, &merged, false);
        defs.insert(over(name), loose);
    }
    defs.insert("Overlay".into(), overlay);
    root["$defs"] = Value::Object(defs);
    root["properties"]["environments"] = json!({
        "description": "What differs per environment; one is chosen with --env.",
        "type": "object",
        "additionalProperties": { "anyOf": [{ "$ref": "#/$defs/Overlay" }, { "type": "null" }] }
    });
    // A base may leave to its environments what each of them adds.
    let required = root["required"].take();
    root.as_object_mut().map(|root| root.remove("required"));
    root["if"] = json!({ "required": ["environments"] });
    root["else"] = json!({ "required": required });
    root
}

fn has_keys(schema: &Value) -> bool {
    let choices = ["oneOf", "anyOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
    schema["properties"].is_object() || choices.into_iter().any(has_keys)
}

fn over(name: &str) -> String {
    format!("{name}Overlay")
}

/// Takes back what only a whole file must hold: required keys, and keys that are never null. A choice of one key keeps
/// its key, and lists keep their items whole: an environment replaces them.
fn loosen(schema: &mut Value, merged: &[String], choice: bool) {
    let Value::Object(object) = schema else { return };
    if !choice {
        object.remove("required");
    }
    if let Some(Value::String(target)) = object.get_mut("$ref")
        && let Some(name) = target.strip_prefix("#/$defs/")
        && merged.iter().any(|known| known == name)
    {
        *target = format!("#/$defs/{}", over(name));
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        for property in properties.values_mut() {
            loosen(property, merged, false);
            let some = property.take();
            *property = json!({ "anyOf": [some, { "type": "null" }] });
        }
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(Value::Array(choices)) = object.get_mut(key) {
            choices.iter_mut().for_each(|choice| loosen(choice, merged, true));
        }
    }
    if let Some(values) = object.get_mut("additionalProperties").filter(|values| values.is_object()) {
        loosen(values, merged, false);
        let some = values.take();
        *values = json!({ "anyOf": [some, { "type": "null" }] });
    }
}
