//! What a simulated Ollama is like: its models, speed, capacity and mood. Plain data; nothing here listens or runs.

use std::num::NonZeroUsize;
use std::time::{Duration, SystemTime};

use crate::fault::Rule;

/// The model of a configuration that names none: small, and the gate's usual example.
const MODEL: &str = "llama3.2:1b";

/// A demonstration's speed, in tokens a second: quick reading.
const DEMO_TOKEN_RATE: u32 = 25;

/// Requests that may generate at once: a middle way between Ollama's default of 1 and a wide machine.
const SLOTS: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");

/// Requests that may wait for a load; Ollama's own `OLLAMA_MAX_QUEUE`.
const LOAD_QUEUE: usize = 512;

/// How long a model stays loaded after its last request; Ollama's own default.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// How many requests the counters remember: enough for any one test.
const RECORDED: usize = 32;

/// How the simulated model answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Personality {
    /// A short helpful text that says it is the demo model; requests are checked as Ollama checks them.
    #[default]
    Demo,
    /// The prompt behind `echo: `, for any model, with fixed times and a set of special prompts that begin with `@`;
    /// requests are hardly checked.
    Echo,
}

/// One model that the simulation has.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its full name with tag.
    pub name: String,
    /// When it was made.
    pub modified_at: SystemTime,
    /// How long it takes to load when it is not in memory.
    pub load_time: Duration,
    /// Its size on disk, and in memory, in bytes.
    pub size: u64,
    /// How much of it lies in a GPU's memory once it is loaded: 0 is a machine without one, `size` all of it.
    pub size_vram: u64,
    /// Its family, such as `llama`.
    pub family: String,
    /// Its size as people say it, such as `1.2B`.
    pub parameter_size: String,
    /// Its number format, such as `Q8_0`.
    pub quantization_level: String,
    /// The context it is loaded with where a request does not say, in tokens.
    pub context_length: u32,
    /// What it can do: `completion`, `embedding`, `tools`, `thinking`, `insert`.
    pub capabilities: Vec<String>,
}

impl Model {
    /// A small text model of this name that loads at once.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            modified_at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_735_689_600),
            load_time: Duration::ZERO,
            size: 1_321_098_329,
            size_vram: 0,
            family: "llama".to_owned(),
            parameter_size: "1.2B".to_owned(),
            quantization_level: "Q8_0".to_owned(),
            context_length: 4096,
            capabilities: vec!["completion".to_owned()],
        }
    }
}

/// A whole simulated Ollama.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// How it answers.
    pub personality: Personality,
    /// Tokens a second and request; 0 is as fast as possible, with lines sent together where that saves writes.
    pub token_rate: u32,
    /// The models it has. [`Personality::Echo`] answers for any other name too.
    pub models: Vec<Model>,
    /// Requests for one model that are answered at once; Ollama's `OLLAMA_NUM_PARALLEL`.
    pub slots: NonZeroUsize,
    /// Requests that may wait for a slot of a loaded model, over all models; the next gets 503. Ollama has no such
    /// bound, and `usize::MAX`, the default, is none.
    pub queue: usize,
    /// Models that fit in memory at once; Ollama's `OLLAMA_MAX_LOADED_MODELS`. 0, the default, is no bound.
    pub memory: usize,
    /// Requests that may wait behind the one that loads; the next gets 503. Ollama's `OLLAMA_MAX_QUEUE`, which bounds
    /// nothing else. Those for the model that is loading wait beside this line.
    pub load_queue: usize,
    /// How long a prompt is evaluated before the first token of an answer, or for an embedding.
    pub prompt_time: Duration,
    /// How long a model stays loaded when the request does not say.
    pub keep_alive: Duration,
    /// Faults to play from the start, see [`Rule`].
    pub script: Vec<Rule>,
    /// How many of the last requests [`Counters`](crate::Counters) holds; 0 saves the copies.
    pub recorded: usize,
    /// What `/api/version` says.
    pub version: String,
}

impl Config {
    /// For people to look at: demo answers at a pace one can watch, from a model that takes tools and embeds as well.
    pub fn demo() -> Self {
        let capabilities = ["completion", "tools", "embedding"].map(str::to_owned).to_vec();
        let model = Model { capabilities, ..Model::named(MODEL) };
        Self { token_rate: DEMO_TOKEN_RATE, models: vec![model], ..Self::default() }
    }

    /// For recorded traffic: [`Personality::Echo`], as fast as possible.
    pub fn echo() -> Self {
        Self { personality: Personality::Echo, ..Self::default() }
    }
}

impl Default for Config {
    /// [`Personality::Demo`] with one model, as fast as possible.
    fn default() -> Self {
        Self {
            personality: Personality::Demo,
            token_rate: 0,
            models: vec![Model::named(MODEL)],
            slots: SLOTS,
            queue: usize::MAX,
            memory: 0,
            load_queue: LOAD_QUEUE,
            prompt_time: Duration::ZERO,
            keep_alive: KEEP_ALIVE,
            script: Vec::new(),
            recorded: RECORDED,
            version: "0.0.0".to_owned(),
        }
    }
}
