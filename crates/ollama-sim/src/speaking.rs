//! Everything that generates: the checks in Ollama's order, a slot, and then a text from the can. How requests are read
//! is in `ask`, how answers are told in `voice`.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::answer::{Answer, BUSY, Body, JSON};
use crate::ask::{self, Ask, Delivery, Think, Turn};
use crate::config::Personality;
use crate::contract::{self, Asked, Reply};
use crate::dialect::Dialect;
use crate::fault::Fault;
use crate::generation::{Call, Generation, Length, Stamp, fnv, tokens};
use crate::go;
use crate::residence::{Lease, Seat};
use crate::sample::sample;
use crate::sim::Shared;
use crate::voice::Voice;
use crate::voice::native::{self, Form};
use crate::wire::Request;

/// What the demo model says.
const TEXT: &str = "Hello! I am the demo model of ollama-gate: a text from a can, no language model. Your request went \
                    through the gate, and a simulated Ollama answers it token by token, as a real one would ✓ Point \
                    the gate at a real Ollama and you get real answers.";
/// What it says when it must say JSON.
const JSON_TEXT: &str = r#"{"model": "demo", "answer": "I am the demo model of ollama-gate ✓", "real": false}"#;
/// What it thinks before it says anything.
const THOUGHT: &str = "The user wrote something, and I have one answer.";
/// In a user's last message, in any letter case: the model calls the first tool it was offered.
const CUE: &str = "use the tool";
/// The same: it calls each of them.
const CUE_FOR_ALL: &str = "use the tools";
/// Digits of the made-up names of calls.
const CALL_DIGITS: usize = 8;

/// Answers like Ollama.
pub(crate) async fn answer(shared: &Shared, path: &str, body: &[u8], fault: Fault) -> Answer {
    let started = Instant::now();
    let mut ask = match ask::read(path, body) {
        Ok(ask) => ask,
        Err(text) => return unreadable(path, &text),
    };
    if ask.form == Form::Chat && ask.model.is_empty() {
        return Answer::error(400, "model is required");
    }
    let Some(seat) = shared.residence.seat(&ask.model).filter(|_| !ask.model.is_empty()) else {
        return Answer::error(404, &format!("model '{}' not found", ask.model));
    };
    seat.asked();
    if ask.empty && ask.keep_alive == Some(Duration::ZERO) {
        shared.residence.unload(&seat);
        return notice(&ask, "unload");
    }
    if shared.config.personality == Personality::Demo
        && let Some(refusal) = refusal(&ask, &seat)
    {
        return refusal;
    }
    let Ok(lease) = shared.residence.admit(&seat, ask.wish()).await else {
        return Answer::error(503, BUSY);
    };
    if ask.empty {
        return notice(&ask, "load").holding(lease);
    }
    if let Some(text) = format_text(&ask) {
        return Answer::stream_error(500, &text).holding(lease);
    }
    let mut generation = match shared.config.personality {
        Personality::Demo => speak(&ask, &seat),
        Personality::Echo => contract::echo(&ask.model, &ask.prompt),
    };
    generation.started = started;
    generation.logprobs = ask.logprobs;
    timed(shared, &mut generation, &seat, &lease);
    let voice = std::mem::replace(&mut ask.voice, Voice::Chat);
    let answer = deliver(shared, generation, (voice, ask.delivery), fault).await;
    answer.holding(lease)
}

/// What a body is told that cannot be read.
fn unreadable(path: &str, text: &str) -> Answer {
    match Dialect::of(path) {
        Dialect::Ollama => Answer::error(400, text),
        other => other.untranslatable(text),
    }
}

/// Answers by the prompt alone, with a slot all the same.
pub(crate) async fn echo(shared: &Shared, request: &Request, fault: Fault) -> Answer {
    let asked = match Asked::read(&request.body) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let model = asked.model();
    let Some(seat) = shared.residence.seat(&model) else {
        return Answer::error(404, &format!("model '{model}' not found"));
    };
    seat.asked();
    let Ok(lease) = shared.residence.admit(&seat, asked.wish()).await else {
        return Answer::error(503, BUSY);
    };
    let mut speech = match contract::reply(request.path(), &model, &asked).await {
        Reply::Odd(answer) => return answer.holding(lease),
        Reply::Speech(speech) => speech,
    };
    timed(shared, &mut speech.generation, &seat, &lease);
    let answer = match speech.delivery {
        Delivery::Stream => deliver(shared, speech.generation, (Voice::Generate, Delivery::Stream), fault).await,
        // In one piece it comes without the time of its tokens: it was recorded so.
        Delivery::Whole => {
            wait(speech.generation.prompt_time).await;
            Answer::new(200, JSON, Body::Full(native::saying(&speech.generation, speech.said)))
        }
    };
    answer.holding(lease)
}

/// Notes the times that the answer reports.
fn timed(shared: &Shared, generation: &mut Generation, seat: &Seat, lease: &Lease) {
    // Fixed times stay as they are where nobody asked for others.
    let fixed = generation.stamp == Stamp::Recorded && seat.model.load_time.is_zero();
    generation.load = if fixed { Duration::ZERO } else { lease.load };
    generation.waited = lease.waited;
    generation.prompt_time = shared.config.prompt_time;
}

/// Waits; not at all for no time, since even then the timer takes a tick.
pub(crate) async fn wait(span: Duration) {
    if !span.is_zero() {
        tokio::time::sleep(span).await;
    }
}

/// Gives the generation its pace and the faults that lengthen it, and waits for it where it comes in one piece.
async fn deliver(
    shared: &Shared,
    mut generation: Generation,
    (voice, delivery): (Voice, Delivery),
    fault: Fault,
) -> Answer {
    if shared.config.token_rate > 0 {
        generation.gap = Duration::from_secs(1) / shared.config.token_rate;
    }
    match fault {
        Fault::Endless => {
            (generation.length, generation.calls) = (Length::Endless, Vec::new());
            if generation.tokens.concat().is_empty() {
                generation.tokens = tokens(TEXT);
            }
        }
        Fault::LongLine(size) => {
            generation.tokens = vec!["x".repeat(size)];
            (generation.thinking, generation.calls) = (Vec::new(), Vec::new());
        }
        _ => {}
    }
    match (delivery, generation.length) {
        (Delivery::Stream, _) => Answer::stream(generation, voice),
        // Nothing comes of a text without end until it ends.
        (Delivery::Whole, Length::Endless) => std::future::pending().await,
        (Delivery::Whole, Length::Finite) => {
            let spoken = generation.gap.saturating_mul(generation.steps() as u32);
            wait(generation.prompt_time + spoken).await;
            Answer::whole(&generation, &voice)
        }
    }
}

/// What Ollama refuses before it needs the model in memory.
fn refusal(ask: &Ask, seat: &Seat) -> Option<Answer> {
    if let Some(text) = ask.misuse {
        return Some(Answer::error(400, text));
    }
    let able = |need: &&&str| !seat.model.capabilities.iter().any(|own| own == **need);
    if let Some(missing) = ask.needs.iter().find(able) {
        return Some(Answer::error(
            400,
            &match *missing {
                "thinking" => format!("{} does not support thinking", go::quote(&ask.model)),
                other => format!("{} does not support {other}", registry_name(&seat.model.name)),
            },
        ));
    }
    ask.bad_option.as_ref().map(|text| Answer::error(500, text))
}

/// The whole name as Ollama's errors have it.
fn registry_name(name: &str) -> String {
    let tag = if name.contains(':') { "" } else { ":latest" };
    let namespace = if name.contains('/') { "" } else { "library/" };
    format!("registry.ollama.ai/{namespace}{name}{tag}")
}

fn notice(ask: &Ask, done_reason: &'static str) -> Answer {
    let generation = Generation { done_reason, prompt_tokens: 0, ..Generation::new(&ask.model, Vec::new()) };
    match (ask.voice.dialect(), ask.delivery) {
        (Dialect::Ollama, _) => Answer::new(200, JSON, Body::Full(native::notice(ask.form, &generation))),
        (_, Delivery::Stream) => Answer::stream(generation, ask.voice.clone()),
        (_, Delivery::Whole) => Answer::whole(&generation, &ask.voice),
    }
}

/// The text for a format that is neither `json` nor a schema.
fn format_text(ask: &Ask) -> Option<String> {
    match ask.format.as_ref()? {
        Value::Object(_) => None,
        Value::String(name) if name == "json" => None,
        other => {
            let said = go::quote(&other.to_string());
            Some(format!("invalid format: {said}; expected \"json\" or a valid JSON Schema object"))
        }
    }
}

fn speak(ask: &Ask, seat: &Seat) -> Generation {
    let calls = calls(ask);
    let words = match &ask.format {
        _ if !calls.is_empty() => Vec::new(),
        Some(schema @ Value::Object(_)) if schema.get("properties").is_some() => tokens(&sample(schema).to_string()),
        Some(_) => tokens(JSON_TEXT),
        None => tokens(TEXT),
    };
    let can_think = seat.model.capabilities.iter().any(|own| own == "thinking");
    let thinking = if can_think && ask.think != Think::Unwanted { tokens(THOUGHT) } else { Vec::new() };
    let prompt_tokens = ask.words;
    let mut generation = Generation { thinking, calls, ..Generation::new(&ask.model, words) }.prompted(&ask.prompt);
    generation.prompt_tokens = prompt_tokens.max(1);
    if let Some(most) = ask.num_predict.filter(|most| *most < generation.metrics().count as usize) {
        shorten(&mut generation, most);
    }
    generation
}

/// Cuts an answer off after this many tokens.
fn shorten(generation: &mut Generation, most: usize) {
    generation.done_reason = "length";
    generation.thinking.truncate(most);
    let left = most - generation.thinking.len();
    generation.tokens.truncate(left);
    generation.calls.truncate(left - generation.tokens.len());
}

/// The tools that the model wants used: none unless the last word was a user's who said so.
fn calls(ask: &Ask) -> Vec<Call> {
    let prompt = ask.prompt.to_lowercase();
    let most = match ask.turn {
        Turn::User if prompt.contains(CUE_FOR_ALL) => ask.tools.len(),
        Turn::User if prompt.contains(CUE) => 1,
        _ => 0,
    };
    let call = |(index, tool): (usize, &ask::Tool)| {
        let id = format!("{:016x}", fnv(format!("{index} {prompt}").as_bytes()));
        let id = format!("call_{}", &id[..CALL_DIGITS]);
        Call { id, name: tool.name.clone(), arguments: sample(&tool.parameters) }
    };
    ask.tools.iter().take(most).enumerate().map(call).collect()
}
