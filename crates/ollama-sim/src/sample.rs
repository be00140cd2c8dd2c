//! A value that fits a JSON schema: the least that does, always the same. Patterns, lengths and bounds are not kept.

use serde_json::{Map, Value, json};

/// The nesting it follows; schemas that go deeper, or into themselves, get nulls there.
const DEPTH_MAX: usize = 16;

/// A value for a schema; an empty object where it does not say of what type.
pub(crate) fn sample(schema: &Value) -> Value {
    if schema.is_object() { value(schema, schema, DEPTH_MAX) } else { json!({}) }
}

fn value(root: &Value, schema: &Value, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else { return Value::Null };
    if let Some(path) = schema["$ref"].as_str() {
        let meant = path.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return meant.map_or(Value::Null, |meant| value(root, meant, depth));
    }
    for known in ["const", "default"] {
        if let Some(known) = schema.get(known) {
            return known.clone();
        }
    }
    let first = |name: &str| schema[name].get(0);
    if let Some(known) = first("enum") {
        return known.clone();
    }
    if let Some(other) = first("anyOf").or_else(|| first("oneOf")).or_else(|| first("allOf")) {
        return value(root, other, depth);
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"].get(0)?.as_str());
    match kind {
        Some("string") => json!("demo"),
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") if schema["items"].is_object() => json!([value(root, &schema["items"], depth)]),
        Some("array") => json!([]),
        Some("null") => Value::Null,
        _ => object(root, schema, depth),
    }
}

/// The required members, or all where none is said to be.
fn object(root: &Value, schema: &Value, depth: usize) -> Value {
    let required = schema["required"].as_array();
    let is_wanted = |name: &str| required.is_none_or(|names| names.iter().any(|own| own == name));
    let Some(properties) = schema["properties"].as_object() else { return json!({}) };
    let wanted = properties.iter().filter(|(name, _)| is_wanted(name));
    Value::Object(wanted.map(|(name, own)| (name.clone(), value(root, own, depth))).collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fit_their_schemas() {
        let cases = [
            (json!(null), json!({})),
            (json!({}), json!({})),
            (json!({"type": "string"}), json!("demo")),
            (json!({"type": ["integer", "null"]}), json!(1)),
            (json!({"enum": ["b", "a"]}), json!("b")),
            (json!({"anyOf": [{"type": "boolean"}, {"type": "null"}]}), json!(true)),
            (
                json!({"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "string"}},
                       "required": ["b"]}),
                json!({"b": "demo"}),
            ),
            (
                json!({"properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/X"}}},
                       "$defs": {"X": {"properties": {"y": {"const": 7}}}}}),
                json!({"a": [{"y": 7}]}),
            ),
        ];
        for (schema, wanted) in cases {
            assert_eq!(sample(&schema), wanted, "{schema}");
        }
    }

    #[test]
    fn schemas_without_end_have_values_with_one() {
        let mut value = &sample(&json!({"properties": {"a": {"$ref": "#"}}}));
        let mut depth = 0;
        while let Some(inner) = value.get("a") {
            (value, depth) = (inner, depth + 1);
        }
        assert!(value.is_null() && (1..=DEPTH_MAX).contains(&depth), "{depth}: {value}");
    }
}
