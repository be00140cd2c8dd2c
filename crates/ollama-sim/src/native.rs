//! `/api/generate` and `/api/chat`: the checks in Ollama's order, a slot, and then a text from the can.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::answer::{Answer, BUSY, Body, JSON};
use crate::ask::{self, Ask, Delivery, Form};
use crate::config::Personality;
use crate::contract::{self, Asked, Reply};
use crate::fault::Fault;
use crate::generation::{Generation, Length, Said, Stamp, tokens};
use crate::go;
use crate::residence::{Lease, Seat};
use crate::sim::Shared;
use crate::wire::Request;

/// What the demo model says.
const TEXT: &str = "Hello! I am the demo model of ollama-gate: a text from a can, no language model. Your request went \
                    through the gate, and a simulated Ollama answers it token by token, as a real one would ✓ Point \
                    the gate at a real Ollama and you get real answers.";
/// What it says when it must say JSON.
const JSON_TEXT: &str = r#"{"model": "demo", "answer": "I am the demo model of ollama-gate ✓", "real": false}"#;

/// Answers like Ollama.
pub(crate) async fn answer(shared: &Shared, form: Form, body: &[u8], fault: Fault) -> Answer {
    let started = Instant::now();
    let ask = match ask::parse(form, body) {
        Ok(ask) => ask,
        Err(text) => return Answer::error(400, &text),
    };
    if form == Form::Chat && ask.model.is_empty() {
        return Answer::error(400, "model is required");
    }
    let Some(seat) = shared.residence.seat(&ask.model).filter(|_| !ask.model.is_empty()) else {
        return Answer::error(404, &format!("model '{}' not found", ask.model));
    };
    seat.asked();
    if ask.empty && ask.keep_alive == Some(Duration::ZERO) {
        shared.residence.unload(seat);
        return notice(&ask, "unload");
    }
    if shared.config.personality == Personality::Demo
        && let Some(refusal) = refusal(&ask, seat)
    {
        return refusal;
    }
    let Ok(lease) = shared.residence.admit(seat, ask.wish()).await else {
        return Answer::error(503, BUSY);
    };
    if ask.empty {
        return notice(&ask, "load").holding(lease);
    }
    if let Some(text) = format_text(&ask) {
        return Answer::stream_error(500, &text).holding(lease);
    }
    let mut generation = match shared.config.personality {
        Personality::Demo => speak(&ask),
        Personality::Echo => contract::echo(form, &ask.model, &ask.prompt),
    };
    generation.started = started;
    generation.logprobs = ask.logprobs;
    timed(shared, &mut generation, seat, &lease);
    let answer = deliver(shared, generation, ask.delivery, fault).await;
    answer.holding(lease)
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
    let Ok(lease) = shared.residence.admit(seat, asked.wish()).await else {
        return Answer::error(503, BUSY);
    };
    let mut speech = match contract::reply(request.path(), &model, &asked).await {
        Reply::Odd(answer) => return answer.holding(lease),
        Reply::Speech(speech) => speech,
    };
    timed(shared, &mut speech.generation, seat, &lease);
    let answer = match speech.delivery {
        Delivery::Stream => deliver(shared, speech.generation, Delivery::Stream, fault).await,
        // In one piece it comes without the time of its tokens: it was recorded so.
        Delivery::Whole => {
            wait(speech.generation.prompt_time).await;
            Answer::new(200, JSON, Body::Full(speech.generation.object(speech.said)))
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
async fn deliver(shared: &Shared, mut generation: Generation, delivery: Delivery, fault: Fault) -> Answer {
    if shared.config.token_rate > 0 {
        generation.gap = Duration::from_secs(1) / shared.config.token_rate;
    }
    match fault {
        Fault::Endless => generation.length = Length::Endless,
        Fault::LongLine(size) => generation.tokens = vec!["x".repeat(size)],
        _ => {}
    }
    match (delivery, generation.length) {
        (Delivery::Stream, _) => Answer::stream(generation),
        // Nothing comes of a text without end until it ends.
        (Delivery::Whole, Length::Endless) => std::future::pending().await,
        (Delivery::Whole, Length::Finite) => {
            let spoken = generation.gap.saturating_mul(generation.tokens.len() as u32);
            wait(generation.prompt_time + spoken).await;
            let whole = Said::Text(generation.tokens.concat());
            Answer::new(200, JSON, Body::Full(generation.object(whole)))
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
    let generation = Generation { done_reason, ..Generation::new(ask.form, &ask.model, Vec::new()) };
    Answer::new(200, JSON, Body::Full(generation.notice()))
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

fn speak(ask: &Ask) -> Generation {
    let mut words = tokens(if ask.format.is_some() { JSON_TEXT } else { TEXT });
    let mut done_reason = "stop";
    if let Some(most) = ask.num_predict.filter(|most| *most < words.len()) {
        words.truncate(most);
        done_reason = "length";
    }
    Generation { done_reason, ..Generation::new(ask.form, &ask.model, words) }.prompted(&ask.prompt)
}
