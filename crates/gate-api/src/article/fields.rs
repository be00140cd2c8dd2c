//! The fields of the article's request body: one table that both the validator and the OpenAPI document read.
//!
//! It holds no code that judges a value; that is `article`'s.
//!
//! Invariant: a constraint exists only here, so what the schema promises is what is checked.

/// One field of the body.
#[derive(Debug)]
pub(crate) struct Field {
    /// Its key.
    pub(crate) name: &'static str,
    /// Its name in the schema.
    pub(crate) title: &'static str,
    /// What it is for.
    pub(crate) description: &'static str,
    /// Whether it may be left out.
    pub(crate) presence: Presence,
    /// What it may hold.
    pub(crate) rule: Rule,
}

/// Whether a field may be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It has to be there, and not null.
    Required,
    /// It may be missing or null, which is the same.
    Optional,
}

/// What a field may hold.
#[derive(Debug)]
pub(crate) enum Rule {
    /// Text of at least so many characters.
    Text {
        /// The fewest characters.
        length_min: usize,
    },
    /// One of a few words.
    Word {
        /// The words.
        of: &'static [&'static str],
        /// What is said of any other.
        complaint: &'static str,
    },
    /// An object with any members.
    Dictionary,
}

/// The key of the prompt.
pub(crate) const PROMPT: &str = "prompt";
/// The key of the answer's format.
pub(crate) const FORMAT: &str = "format";
/// The format that asks Ollama for JSON.
pub(crate) const FORMAT_JSON: &str = "json";
/// The key of Ollama's options.
pub(crate) const OPTIONS: &str = "options";

/// All fields, in the order in which their errors are listed.
pub(crate) static FIELDS: [Field; 3] = [
    Field {
        name: PROMPT,
        title: "Prompt",
        description: "The prompt for text generation",
        presence: Presence::Required,
        rule: Rule::Text { length_min: 1 },
    },
    Field {
        name: FORMAT,
        title: "Format",
        description: "The format of the response (e.g., 'json')",
        presence: Presence::Optional,
        rule: Rule::Word {
            of: &[FORMAT_JSON, "text"],
            complaint: "Value error, Format must be either 'json' or 'text'",
        },
    },
    Field {
        name: OPTIONS,
        title: "Options",
        description: "Additional options for the Ollama request",
        presence: Presence::Optional,
        rule: Rule::Dictionary,
    },
];
