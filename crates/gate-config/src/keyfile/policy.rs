//! What a key may do: words between blanks, each `NAME=VALUE`.
//!
//! What a word does to a request is for whoever judges it; here it gets its meaning and its bounds. Invariant: a policy
//! prints as words that are read as the same policy.

use std::fmt;
use std::time::Duration;

use crate::complaint::{nearest, shortened};
use crate::rate::Rate;
use crate::value::number::{self, time, time_text, whole};
use crate::value::rates::{limits, limits_text};
use crate::value::{items, text};

/// The words that a policy may have, in the order in which they are printed.
pub const WORDS: [&str; 11] = [
    "limit",
    "tokens",
    "concurrency",
    "models",
    "routes",
    "num_ctx",
    "num_predict",
    "keep_alive",
    "images",
    "messages",
    "weight",
];

/// Requests that ask a model.
const INFER: [&str; 10] = [
    "article",
    "generate",
    "chat",
    "embed",
    "embeddings",
    "chat_completions",
    "completions",
    "v1_embeddings",
    "responses",
    "messages",
];

/// Requests that ask about models.
const READ: [&str; 6] = ["show", "tags", "ps", "version", "models", "model"];

/// Requests that change what models there are.
const MANAGE: [&str; 6] = ["pull", "push", "create", "copy", "delete", "blobs"];

/// What may stand in `routes`: groups, each with its routes, in the order in which routes are listed.
pub const ROUTE_WORDS: [(&str, &[&str]); 3] = [("infer", &INFER), ("read", &READ), ("manage", &MANAGE)];

/// The groups of a key whose line does not say which routes it may use.
const ROUTES: &str = "infer,read";

/// The words that the table of who is in service has room for.
const CONCURRENCY_MAX: u64 = 1_024;

/// What Ollama's own type for such numbers holds.
const NUMBER_MAX: u64 = i32::MAX as u64;

/// More of either is no conversation.
const IMAGES_MAX: u64 = 1_024;
const MESSAGES_MAX: u64 = 100_000;

/// The list is searched for every request; more models than this are no list but a pattern.
const MODELS_MAX: usize = 256;

/// What a key may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Requests per window; `None` takes the gate's own limits, an empty list has none.
    pub limit: Option<Vec<Rate>>,
    /// Tokens per window; none where there are none.
    pub tokens: Vec<Rate>,
    /// Requests at once: 1 to 1024.
    pub concurrency: Option<u32>,
    /// Models, as typed, with `*` for any letters; empty is every local model.
    pub models: Vec<String>,
    /// Names of routes, none twice, groups taken apart.
    pub routes: Vec<&'static str>,
    /// The largest context.
    pub num_ctx: Option<u64>,
    /// The longest answer, in tokens.
    pub num_predict: Option<u64>,
    /// The longest time that a model is asked to stay in memory.
    pub keep_alive: Option<Duration>,
    /// How many images a request may have.
    pub images: Option<u32>,
    /// How many messages a request may have.
    pub messages: Option<u32>,
    /// Its share of the queue: 1 to 100; `None` takes that of the client's address.
    pub weight: Option<u32>,
}

/// What is wrong with the words of a policy: a sentence each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyError(pub Vec<String>);

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for PolicyError {}

/// What no words mean.
impl Default for Policy {
    fn default() -> Self {
        Self {
            limit: None,
            tokens: Vec::new(),
            concurrency: None,
            models: Vec::new(),
            routes: routes(ROUTES).unwrap_or_default(),
            num_ctx: None,
            num_predict: None,
            keep_alive: None,
            images: None,
            messages: None,
            weight: None,
        }
    }
}

impl Policy {
    /// Reads the words of a policy.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let mut policy = Self::default();
        let (mut seen, mut wrong) = (Vec::new(), Vec::new());
        for word in text.split_ascii_whitespace() {
            let Some((name, value)) = word.split_once('=') else {
                wrong.push(format!("`{}`: write NAME=VALUE without blanks, such as limit=60/minute", shortened(word)));
                continue;
            };
            if seen.contains(&name) {
                wrong.push(format!("write `{}` only once", shortened(name)));
                continue;
            }
            seen.push(name);
            if let Err(remedy) = policy.put(name, value) {
                wrong.push(format!("{}={}: {remedy}", shortened(name), shortened(value)));
            }
        }
        if wrong.is_empty() { Ok(policy) } else { Err(PolicyError(wrong)) }
    }

    fn put(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "limit" => self.limit = Some(limits(value)?),
            "tokens" => self.tokens = limits(value)?,
            "concurrency" => self.concurrency = Some(whole(value, 1..=CONCURRENCY_MAX)?),
            "models" => self.models = models(value)?,
            "routes" => self.routes = routes(value)?,
            "num_ctx" => self.num_ctx = Some(whole(value, 1..=NUMBER_MAX)?),
            "num_predict" => self.num_predict = Some(whole(value, 1..=NUMBER_MAX)?),
            "keep_alive" => self.keep_alive = Some(time(value)?),
            "images" => self.images = Some(whole(value, 0..=IMAGES_MAX)?),
            "messages" => self.messages = Some(whole(value, 1..=MESSAGES_MAX)?),
            "weight" => self.weight = Some(whole(value, 1..=number::WEIGHT_MAX)?),
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// The lengths of the windows in which its limits and tokens count; a length may come twice.
    pub fn windows(&self) -> impl Iterator<Item = Duration> {
        self.limit.iter().flatten().chain(&self.tokens).map(Rate::window)
    }
}

/// The words, less those that go without saying; routes by their names.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        let rates = |rates: &[Rate]| limits_text(rates).replace(' ', "");
        let values = [
            self.limit.as_deref().map(rates),
            Some(rates(&self.tokens)).filter(|_| !self.tokens.is_empty()),
            number(self.concurrency.map(u64::from)),
            Some(self.models.join(",")).filter(|models| !models.is_empty()),
            Some(self.routes.join(",")).filter(|_| self.routes != Self::default().routes),
            number(self.num_ctx),
            number(self.num_predict),
            self.keep_alive.map(time_text),
            number(self.images.map(u64::from)),
            number(self.messages.map(u64::from)),
            number(self.weight.map(u64::from)),
        ];
        let words = WORDS.iter().zip(values).filter_map(|(word, value)| Some(format!("{word}={}", value?)));
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

fn unknown(name: &str) -> String {
    match nearest(name, WORDS.into_iter()) {
        Some(word) => format!("no such word; did you mean `{word}`?"),
        None => format!("no such word; there are {}", WORDS.map(|word| format!("`{word}`")).join(", ")),
    }
}

/// Names of routes, in the order in which they are listed.
fn routes(text: &str) -> Result<Vec<&'static str>, String> {
    let mut wanted: Vec<&'static str> = Vec::new();
    let all = || ROUTE_WORDS.iter().flat_map(|(_, routes)| routes.iter().copied());
    for item in items(text) {
        let group = ROUTE_WORDS.iter().find(|(name, _)| *name == item).map(|(_, routes)| routes.to_vec());
        let one = || all().find(|name| *name == item).map(|name| vec![name]);
        let names = group.or_else(one).ok_or_else(|| {
            let words = ROUTE_WORDS.iter().map(|(name, _)| *name).chain(all());
            match nearest(item, words) {
                Some(word) => format!("no route is called `{item}`; did you mean `{word}`?"),
                None => {
                    format!("no route is called `{item}`; write infer, read, manage, or names such as chat,tags,pull")
                }
            }
        })?;
        wanted.extend(names);
    }
    if wanted.is_empty() {
        return Err("write infer, read, manage, or names such as chat,tags,pull".to_owned());
    }
    Ok(all().filter(|name| wanted.contains(name)).collect())
}

/// Names of models, in which a `*` stands for any letters.
fn models(list: &str) -> Result<Vec<String>, String> {
    let mut models: Vec<String> = Vec::new();
    for item in items(list) {
        // A star may stand wherever a letter may.
        let named = text::model(&item.replace('*', "x")).ok().flatten();
        if named.is_none() {
            return Err("write models such as `llama3.2,qwen3:*`, or `*`".to_owned());
        }
        // Of two parts the first is a namespace, and none has a dot: this would never match.
        if let Some((host, model)) = item.split_once('/')
            && host.contains('.')
            && !model.contains('/')
        {
            return Err(format!(
                "a host has a namespace after it: write {host}/*/{model}, or {host}/*/*:* for all of it"
            ));
        }
        if !models.iter().any(|known| known == item) {
            models.push(item.to_owned());
        }
    }
    match models.len() {
        0 => Err("write models such as `llama3.2,qwen3:*`, or leave the word out for all".to_owned()),
        1..=MODELS_MAX => Ok(models),
        _ => Err(format!("write at most {MODELS_MAX} models; a `*` stands for many")),
    }
}
