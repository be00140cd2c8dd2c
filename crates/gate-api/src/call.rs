//! What a body asks for, whatever its dialect: one value that policy, limits and scheduling look at.
//!
//! [`judge`] makes it of every route that names a model. The body goes to the backend as it came, or with the few values
//! replaced that [`Call::clamp`] names; so it is read here as Ollama reads it. Who may ask for what is not decided here.
//!
//! Invariant: an accepted body means the same model, stream mode and work to Ollama as its [`Call`] says.

use crate::clamp::Edits;
use crate::native::heard::Heard;
pub use crate::native::{KeepAlive, Source};
use crate::rejection::Rejection;
use crate::route::Route;
use crate::{anthropic, native, openai};

#[cfg(test)]
mod tests;

/// Whether the answer comes in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// As it is made: a line or an event a token.
    Yes,
    /// One object at the end.
    No,
}

/// What a call makes Ollama do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Run the model.
    Infer,
    /// Only load it: no prompt, no messages. A native answer is one object whatever [`Stream`] says.
    Load,
    /// Unload it for everyone: as [`Work::Load`] with `keep_alive` 0. The answer is one object whatever [`Stream`] says.
    Unload,
    /// Look at models or change them where they are stored; nothing is loaded.
    Store,
}

/// Whether a stream was asked to say its counts, which OpenAI's do only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// The client asked for them, or the dialect always says them.
    Asked,
    /// The client did not ask.
    Unasked,
    /// [`Call::clamp`] asked, not the client: they are to be taken out of the answer again.
    Added,
}

/// A host, other than Ollama's own registry, that the server would turn to, with its port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// The host in a model's name, from which that model is fetched, or to which it is sent.
    Named(String),
    /// One told beside the names: whatever a new model is made from is there, also where its name says another host.
    Told(String),
}

impl Remote {
    /// The host, as it was spelled.
    pub fn host(&self) -> &str {
        match self {
            Self::Named(host) | Self::Told(host) => host,
        }
    }
}

/// A body that Ollama will take, if it has the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The model's name as Ollama reads it: trimmed, `:local` removed, a cloud's name in one form, otherwise as the client
    /// spelled it. [`listed_as`](crate::native::listed_as) gives the form to compare.
    pub model: String,
    /// Who would run it, by its name.
    pub source: Source,
    /// Further models it names: a copy's destination, what a new model is made from. Policy holds for them too.
    pub others: Vec<String>,
    /// The host that the server would turn to for pulling, pushing or creating.
    pub remote: Option<Remote>,
    /// Whether the answer comes in pieces.
    pub stream: Stream,
    /// What it makes Ollama do.
    pub work: Work,
    /// How long the model is to stay loaded; none leaves it to Ollama.
    pub keep_alive: Option<KeepAlive>,
    /// What is given of that for which Ollama loads a model anew: `name=value` with semicolons between, in the order of
    /// names; empty if nothing is. Equal texts share a loaded model, whatever the spelling of the body.
    ///
    /// A number is cut to an integer, a `num_gpu` below zero counts as not given, and so does null.
    pub load_options: String,
    /// The conversation's number, never 0: the same for each of its turns, so that they can go where their beginning
    /// is still in the model's cache. It comes from the model, and for a chat from the messages up to the first of the
    /// user, otherwise from the system text and the first 512 bytes of the prompt. It is no secret and no signature.
    pub conversation: u64,
    /// The most tokens that the answer may have; none if nothing bounds it. Ollama takes zero for no bound.
    pub tokens_asked: Option<u64>,
    /// The size of the context that it asks for.
    pub num_ctx: Option<u64>,
    /// Pictures and sounds.
    pub images: u32,
    /// Messages, or items of an input.
    pub messages: u32,
    /// Bytes of text that a model will read.
    pub text_bytes: u64,
    /// Whether a stream was asked to say its counts.
    pub usage: Usage,
    /// Where a clamp may change the body.
    pub(crate) edits: Edits,
}

/// Bytes of text that make a token, about: English has a few more, other languages fewer.
const BYTES_A_TOKEN: u64 = 4;

impl Call {
    /// One that asks for no more than the model's name says.
    pub(crate) fn of((model, source): (String, Source), work: Work, heard: &mut Heard) -> Self {
        let conversation = heard.opening.conversation(&model);
        Self {
            model,
            source,
            others: Vec::new(),
            remote: None,
            stream: Stream::No,
            work,
            keep_alive: None,
            load_options: String::new(),
            conversation,
            tokens_asked: None,
            num_ctx: None,
            images: heard.images,
            messages: heard.messages,
            text_bytes: heard.text_bytes,
            usage: Usage::Asked,
            edits: Edits::default(),
        }
    }

    /// Tokens that this call will cost, guessed: those of its text, and those of the longest answer, or `unsaid` where
    /// nothing bounds it. A picture's tokens depend on the model and are not in it.
    pub fn estimate(&self, unsaid: u64) -> u64 {
        match self.work {
            Work::Infer => self.text_bytes.div_ceil(BYTES_A_TOKEN).saturating_add(self.tokens_asked.unwrap_or(unsaid)),
            Work::Load | Work::Unload | Work::Store => 0,
        }
    }
}

/// The largest body whose places can be remembered.
const BODY_MAX: usize = u32::MAX as usize;

/// Judges the body of a request; for `GET /v1/models/{model}`, which has none, its path.
///
/// # Errors
/// [`Rejection::BadRequest`], [`Rejection::ModelNotFound`] or [`Rejection::Denied`] for a body that is refused,
/// [`Rejection::BodyTooLarge`] for one of more than 4 GiB, [`Rejection::Internal`] for a route that names no model.
pub fn judge(route: &Route, body: &[u8]) -> Result<Call, Rejection> {
    if body.len() > BODY_MAX {
        return Err(Rejection::BodyTooLarge { limit: BODY_MAX as u64 });
    }
    match route {
        Route::Generate => native::generate(body),
        Route::Chat => native::chat(body),
        Route::Embed => native::embed::embed(body),
        Route::Embeddings => native::embed::embeddings(body),
        Route::Show => native::store::show(body),
        Route::Pull => native::store::pull(body),
        Route::Push => native::store::push(body),
        Route::Create => native::store::create(body),
        Route::Copy => native::store::copy(body),
        Route::Delete => native::store::delete(body),
        Route::Model { name } => native::store::named(name),
        Route::ChatCompletions => openai::chat_completions(body),
        Route::Completions => openai::completions(body),
        Route::V1Embeddings => openai::embeddings(body),
        Route::Responses => openai::responses::responses(body),
        Route::Messages => anthropic::messages(body),
        _ => Err(Rejection::Internal),
    }
}

pub(crate) fn bad(text: impl Into<String>) -> Rejection {
    Rejection::BadRequest { text: text.into() }
}
