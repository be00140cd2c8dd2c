//! The members of a request's body as Go's decoder finds them: names in any letter case, the last of two wins, unknown
//! ones and bytes behind the value ignored, the first wrong type reported. What they mean is the caller's.

use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

use crate::go;

/// What a member must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Flag,
    Int,
    Float(&'static str),
    List(&'static str),
    Object(&'static str),
}

/// The members of an object in their order, repeats included.
pub(crate) struct Members(pub(crate) Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(8));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(InOrder)
    }
}

impl Members {
    /// Reads a body, or says in Go's words why not; `wanted` is the Go type.
    pub(crate) fn read(body: &[u8], wanted: &str) -> Result<Self, String> {
        if body.trim_ascii().is_empty() {
            return Err("missing request body".to_owned());
        }
        let mut from = serde_json::Deserializer::from_slice(body);
        match Self::deserialize(&mut from) {
            Ok(members) => Ok(members),
            Err(why) if why.is_data() => match Value::deserialize(&mut serde_json::Deserializer::from_slice(body)) {
                Ok(Value::Null) => Ok(Self(Vec::new())),
                Ok(other) => Err(go::body_type_text(&other, wanted)),
                Err(why) => Err(go::syntax_text(body, &why)),
            },
            Err(why) => Err(go::syntax_text(body, &why)),
        }
    }

    /// The last member of this name, in any letter case.
    pub(crate) fn last(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// Reads a body that Ollama translates from another dialect, whose members have these types; `null` fits all of them.
pub(crate) fn translatable(body: &[u8], structure: &str, kinds: &[(&str, Kind)]) -> Result<Members, String> {
    if body.trim_ascii().is_empty() {
        return Err("EOF".to_owned());
    }
    let members = Members::read(body, &format!("{}.{structure}", package(structure)))?;
    check(&members, structure, kinds)?;
    Ok(members)
}

/// Holds members to these types; says in Go's words which is of another.
pub(crate) fn check(members: &Members, structure: &str, kinds: &[(&str, Kind)]) -> Result<(), String> {
    for (name, value) in &members.0 {
        let Some((own, kind)) = kinds.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)) else { continue };
        let (fits, wanted) = match kind {
            Kind::Text => (value.is_string(), "string"),
            Kind::Flag => (value.is_boolean(), "bool"),
            Kind::Int => (value.is_i64() || value.is_u64(), "int"),
            Kind::Float(wanted) => (value.is_number(), *wanted),
            Kind::List(wanted) => (value.is_array(), *wanted),
            Kind::Object(wanted) => (value.is_object(), *wanted),
        };
        if !fits && !value.is_null() {
            return Err(go::type_text(value, &format!("{structure}.{own}"), wanted));
        }
    }
    Ok(())
}

/// Where Go has the structure.
fn package(structure: &str) -> &'static str {
    if structure == "MessagesRequest" { "anthropic" } else { "openai" }
}
