//! The API's description, `/openapi.json`: the article's two routes as FastAPI describes them, and what the gate
//! adds.
//!
//! What does not depend on code is a template beside the sources; the body of the article's request is written from
//! the table that its validator reads, and the version is the crate's.
//!
//! Invariant: the document is OpenAPI 3.1.0, and the same for the life of the process.
use crate::article::fields::{FIELDS, Field, Presence, Rule};
use crate::json::{self, write_text};
use std::sync::OnceLock;

/// The document but for what [`document`] puts in.
const TEMPLATE: &str = include_str!("../assets/openapi.json");

/// The document as compact JSON.
///
/// # Panics
/// Never: the template is a part of the program, and the tests read it.
pub fn document() -> &'static str {
    static DOCUMENT: OnceLock<String> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let filled = TEMPLATE.replace("\"@GenerateIn\"", &body_schema()).replace("@version", env!("CARGO_PKG_VERSION"));
        let mut compact = String::with_capacity(filled.len());
        json::read(filled.as_str().into())
            .expect("the template is JSON, and so is what was put in")
            .write(&mut compact)
            .expect("it has no number or text that cannot be written");
        compact
    })
}

/// The schema of the article's request body, with keys in FastAPI's order.
fn body_schema() -> String {
    let mut out = String::from(r#"{"properties":{"#);
    for (at, field) in FIELDS.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(field.name, &mut out);
        out.push(':');
        write_field(field, &mut out);
    }
    out.push_str(r#"},"type":"object","required":"#);
    write_list(FIELDS.iter().filter(|field| field.presence == Presence::Required).map(|field| field.name), &mut out);
    out.push_str(r#","title":"GenerateIn"}"#);
    out
}

fn write_field(field: &Field, out: &mut String) {
    match field.presence {
        Presence::Required => {
            out.push('{');
            write_rule(&field.rule, out);
        }
        Presence::Optional => {
            out.push_str(r#"{"anyOf":[{"#);
            write_rule(&field.rule, out);
            out.push_str(r#"},{"type":"null"}]"#);
        }
    }
    out.push_str(r#","title":"#);
    write_text(field.title, out);
    out.push_str(r#","description":"#);
    write_text(field.description, out);
    out.push('}');
}

fn write_rule(rule: &Rule, out: &mut String) {
    match rule {
        Rule::Text { length_min } => {
            out.push_str(r#""type":"string","minLength":"#);
            out.push_str(&length_min.to_string());
        }
        Rule::Word { of, .. } => {
            out.push_str(r#""type":"string","enum":"#);
            write_list(of.iter().copied(), out);
        }
        Rule::Dictionary => out.push_str(r#""additionalProperties":true,"type":"object""#),
    }
}

fn write_list(words: impl Iterator<Item = &'static str>, out: &mut String) {
    out.push('[');
    for (at, word) in words.enumerate() {
        if at > 0 {
            out.push(',');
        }
        write_text(word, out);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dialect;
    use crate::article::ArticleRequest;
    use serde_json::{Value, json};

    fn parsed() -> Value {
        serde_json::from_str(document()).unwrap()
    }

    /// Whether a value fits a schema, for the few keywords that [`body_schema`] uses. Any other is an error.
    fn fits(schema: &Value, value: &Value) -> bool {
        schema.as_object().unwrap().iter().all(|(keyword, wanted)| match keyword.as_str() {
            "title" | "description" => true,
            "type" => match wanted.as_str().unwrap() {
                "string" => value.is_string(),
                "object" => value.is_object(),
                "null" => value.is_null(),
                other => panic!("type {other}"),
            },
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as u64 >= wanted.as_u64().unwrap()),
            "enum" => wanted.as_array().unwrap().contains(value),
            "anyOf" => wanted.as_array().unwrap().iter().any(|branch| fits(branch, value)),
            "additionalProperties" => *wanted == Value::Bool(true),
            "properties" => wanted
                .as_object()
                .unwrap()
                .iter()
                .all(|(name, property)| value.get(name).is_none_or(|value| fits(property, value))),
            "required" => wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
            other => panic!("keyword {other}"),
        })
    }

    #[test]
    fn schema_and_validator_agree_on_every_combination_of_values() {
        let schema = &parsed()["components"]["schemas"]["GenerateIn"];
        assert_eq!(schema["properties"].as_object().unwrap().len(), FIELDS.len());
        let mut probes: Vec<Option<Value>> = ["null", "true", "0", "1.5", "[]", "[\"a\"]", "{}", "{\"a\":[1]}"]
            .into_iter()
            .map(|text| Some(serde_json::from_str(text).unwrap()))
            .collect();
        probes.extend(["", " ", "é", "json", "text", "JSON", "xml", "{}"].map(|text| Some(json!(text))));
        probes.push(None);
        let (mut accepted, mut refused) = (0, 0);
        for choice in 0..probes.len().pow(FIELDS.len() as u32) {
            let mut rest = choice;
            let mut body = serde_json::Map::new();
            for field in &FIELDS {
                if let Some(value) = &probes[rest % probes.len()] {
                    body.insert(field.name.to_owned(), value.clone());
                }
                rest /= probes.len();
            }
            let body = Value::Object(body);
            let text = body.to_string();
            let valid = ArticleRequest::from_body(Some(b"application/json"), text.as_bytes()).is_ok();
            assert_eq!(valid, fits(schema, &body), "{text}");
            *(if valid { &mut accepted } else { &mut refused }) += 1;
        }
        assert!(accepted > 50 && refused > 1000, "{accepted} accepted, {refused} refused");
    }

    #[test]
    fn the_body_schema_is_fastapis_with_what_the_validators_code_says_besides() {
        assert_eq!(
            parsed()["components"]["schemas"]["GenerateIn"],
            json!({
                "properties": {
                    "prompt": {
                        "type": "string", "minLength": 1, "title": "Prompt",
                        "description": "The prompt for text generation",
                    },
                    "format": {
                        "anyOf": [{"type": "string", "enum": ["json", "text"]}, {"type": "null"}], "title": "Format",
                        "description": "The format of the response (e.g., 'json')",
                    },
                    "options": {
                        "anyOf": [{"additionalProperties": true, "type": "object"}, {"type": "null"}],
                        "title": "Options", "description": "Additional options for the Ollama request",
                    },
                },
                "type": "object", "required": ["prompt"], "title": "GenerateIn",
            })
        );
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_component_is_used() {
        fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
            match value {
                Value::Object(members) => {
                    for (key, member) in members {
                        match member {
                            Value::String(target) if key == "$ref" => found.push(target),
                            _ => references(member, found),
                        }
                    }
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = parsed();
        let mut found = Vec::new();
        references(&document, &mut found);
        for target in &found {
            assert!(document.pointer(&target[1..]).is_some(), "{target}");
        }
        for kind in ["schemas", "responses"] {
            for name in document["components"][kind].as_object().unwrap().keys() {
                assert!(found.contains(&format!("#/components/{kind}/{name}").as_str()), "{kind}/{name} is not used");
            }
        }
    }

    #[test]
    fn it_says_who_it_is_and_names_each_operation_once() {
        let document = parsed();
        assert_eq!(document["openapi"], "3.1.0");
        assert_eq!(document["info"]["title"], "ollama-gate");
        assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
        assert!(!super::document().contains('@'), "a placeholder was left");
        let mut names: Vec<_> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .map(|operation| operation["operationId"].as_str().unwrap())
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), count), (26, 26));
        assert_eq!(
            document["paths"]["/ollama_generate/"]["post"]["operationId"],
            "generate_from_body_ollama_generate__post"
        );
    }

    #[test]
    fn what_is_described_is_what_is_routed() {
        let document = parsed();
        let mut found = Vec::new();
        for (path, operations) in document["paths"].as_object().unwrap() {
            let digest = format!("sha256:{}", "0".repeat(64));
            let target = path.replace("{prompt}", "x").replace("{model}", "x").replace("{digest}", &digest);
            for (method, operation) in operations.as_object().unwrap() {
                let route = crate::route(&method.to_uppercase(), &target).unwrap_or_else(|_| panic!("{method} {path}"));
                let refused = match route.dialect() {
                    Dialect::Ollama => "Ollama",
                    Dialect::OpenAi => "OpenAi",
                    Dialect::Anthropic => "Anthropic",
                    Dialect::Article | Dialect::Gate => "",
                };
                if let Some(reference) = operation["responses"]["4XX"]["$ref"].as_str() {
                    assert_eq!(reference, format!("#/components/responses/{refused}Refused"), "{method} {path}");
                }
                found.push(route.name());
            }
        }
        found.sort_unstable();
        let mut all = vec!["article_body", "article_item", "blobs", "blobs", "chat", "chat_completions", "completions"];
        all.extend(["copy", "create", "delete", "embed", "embeddings", "generate", "healthz", "messages", "model"]);
        all.extend(["models", "ps", "pull", "push", "readyz", "responses", "show", "tags", "v1_embeddings", "version"]);
        assert_eq!(found, all);
    }
}
