//! Streams that break, in every dialect: whoever breaks them, the client's last frame says so in the words of its dialect,
//! and a stream that has ended well is never said to have broken.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::scripted::{End, Framing, Say, Scripted};
use crate::stage::{Dialect, Keys, Way, by, gate, gate_before, named, says, speaking};
use crate::support::Gate;
use crate::support::http::{Answer, Client};

const CLOSED: &str = "Ollama closed the connection before its answer was complete";

/// A whole stream as this route has it, frame by frame, with characters of many bytes in it.
fn frames(way: Way) -> Vec<String> {
    let lines = |lines: &[Value]| lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>();
    let data = |event: &Value| format!("data: {event}\n\n");
    let event = |event: &Value| format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap());
    match way.name {
        "generate" => lines(&[
            json!({"model": "m", "response": "世界", "done": false}),
            json!({"model": "m", "response": " é𝄞", "done": false}),
            json!({"model": "m", "response": "", "done": true, "done_reason": "stop", "eval_count": 2}),
        ]),
        "chat" => lines(&[
            json!({"model": "m", "message": {"role": "assistant", "content": "世界"}, "done": false}),
            json!({"model": "m", "message": {"role": "assistant", "content": " é𝄞"}, "done": false}),
            json!({"model": "m", "message": {"role": "assistant", "content": ""}, "done": true, "eval_count": 2}),
        ]),
        "responses" => [
            json!({"type": "response.created", "response": {"id": "r", "status": "in_progress"}}),
            json!({"type": "response.output_text.delta", "delta": "世界"}),
            json!({"type": "response.output_text.delta", "delta": " é𝄞"}),
            json!({"type": "response.completed", "response": {"id": "r", "usage": {"output_tokens": 2}}}),
        ]
        .iter()
        .map(event)
        .collect(),
        "messages" => [
            json!({"type": "message_start", "message": {"id": "a", "usage": {"input_tokens": 5, "output_tokens": 0}}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "世界"}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " é𝄞"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}),
            json!({"type": "message_stop"}),
        ]
        .iter()
        .map(event)
        .collect(),
        name => {
            let choice = |text: &str| match name {
                "completions" => json!({"index": 0, "text": text, "finish_reason": null}),
                _ => json!({"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": null}),
            };
            let chunk = |text: &str| data(&json!({"id": "c", "model": "m", "choices": [choice(text)]}));
            vec![chunk("世界"), chunk(" é𝄞"), "data: [DONE]\n\n".to_owned()]
        }
    }
}

fn content_type(way: Way) -> &'static str {
    if way.dialect == Dialect::Ollama { "application/x-ndjson" } else { "text/event-stream" }
}

/// What the gate puts behind whole frames; its text.
#[track_caller]
fn told(way: Way, frame: &str, status: u16) -> String {
    let data = match (way.name, way.dialect) {
        (_, Dialect::Ollama) => frame.strip_suffix('\n'),
        ("responses", _) | (_, Dialect::Anthropic) => {
            frame.strip_prefix("event: error\ndata: ").and_then(|rest| rest.strip_suffix("\n\n"))
        }
        _ => frame.strip_prefix("data: ").and_then(|rest| rest.strip_suffix("\n\n")),
    };
    let data = data.unwrap_or_else(|| panic!("{way:?}: no frame of an error: {frame:?}"));
    assert!(!data.contains('\n'), "{way:?}: one frame alone: {frame:?}");
    let body: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{way:?}: {error}: {data}"));
    if way.name == "responses" {
        assert_eq!((&body["type"], &body["code"]), (&json!("error"), &json!("server_error")), "{body}");
        assert_eq!(body["message"], body["error"]["message"], "{body}");
    }
    says(way, &body, status)
}

/// Where a stream is cut: at its begin, in front of each frame and after it, inside each, inside characters.
fn places(frames: &[String]) -> Vec<usize> {
    let (mut places, mut at) = (Vec::new(), 0);
    for frame in frames {
        places.extend([at, at + 1, at + frame.len() / 2, at + frame.len() - 1]);
        places.extend(
            frame.char_indices().filter(|(_, letter)| letter.len_utf8() > 2).map(|(inside, _)| at + inside + 2),
        );
        at += frame.len();
    }
    places
}

/// A client's answer to a request for a stream of which the backend says this.
#[track_caller]
fn through(backend: &Scripted, client: &mut Client, way: Way, (text, framing, end): (&[u8], Framing, End)) -> Answer {
    let pieces = if text.is_empty() { Vec::new() } else { vec![text.to_vec()] };
    backend.says(Say { framing, end, ..Say::stream(content_type(way), pieces) });
    let answer = client.ask(&way.streamed("go")).unwrap_or_else(|error| panic!("{way:?}: {error}"));
    assert_eq!(answer.status, 200, "{way:?}: {}", answer.text());
    answer
}

const ENDS: [(Framing, End); 4] = [
    (Framing::Chunked, End::Well),
    (Framing::Chunked, End::Close),
    (Framing::Chunked, End::Reset),
    (Framing::Open, End::Well),
];

#[test]
fn a_stream_that_is_cut_anywhere_ends_with_an_error_behind_whole_frames() {
    let backend = Scripted::start();
    let gate = gate(&backend.url(), &["--breaker-failures", "0"]).start();
    let mut client = Client::connect(gate.address());
    for way in speaking() {
        let frames = frames(way);
        let whole = frames.concat();
        for cut in places(&frames) {
            for (framing, end) in ENDS {
                let answer = through(&backend, &mut client, way, (&whole.as_bytes()[..cut], framing, end));
                let case = format!("{} cut at {cut} ({framing:?}, {end:?}): {:?}", way.name, answer.text());
                let text = String::from_utf8(answer.body).expect(&case);
                // A reset may overtake what came before it, frame by frame.
                let passed: String = frames.iter().take_while(|frame| text.contains(frame.as_str())).cloned().collect();
                if end != End::Reset {
                    let due = frames.iter().scan(0, |at, frame| {
                        *at += frame.len();
                        Some(*at)
                    });
                    assert_eq!(passed.len(), due.take_while(|at| *at <= cut).last().unwrap_or(0), "{case}");
                }
                let last = text.strip_prefix(&passed).expect(&case);
                assert_eq!(told(way, last, 502), CLOSED, "{case}");
            }
        }
    }
}

#[test]
fn a_stream_that_ended_well_has_not_broken_whatever_its_connection_does() {
    let backend = Scripted::start();
    let gate = gate(&backend.url(), &["--breaker-failures", "0", "--chunk-timeout", "200ms"]).start();
    let mut client = Client::connect(gate.address());
    for way in speaking() {
        let whole = frames(way).concat();
        // What else follows a reset is not for the gate to see.
        let ends = ENDS.into_iter().filter(|(_, end)| *end != End::Reset);
        for (framing, end) in ends.chain([(Framing::Chunked, End::Silence)]) {
            let answer = through(&backend, &mut client, way, (whole.as_bytes(), framing, end));
            assert_eq!(answer.text(), whole, "{} ({framing:?}, {end:?})", way.name);
        }
    }
    // Nor when its own time is over, or the gate's.
    let times = ["--connect-timeout", "300ms", "--request-timeout", "300ms"];
    let bounded = gate_before(&[&backend.url()], &times).start();
    let mut client = Client::connect(bounded.address());
    for way in speaking() {
        let whole = frames(way).concat();
        let answer = through(&backend, &mut client, way, (whole.as_bytes(), Framing::Chunked, End::Silence));
        assert_eq!(answer.text(), whole, "{}", way.name);
    }
    let times = ["--graceful-timeout", "100ms", "--stream-timeout", "200ms"];
    let leaving = gate_before(&[&backend.url()], &times).start();
    let begun: Vec<_> = speaking()
        .map(|way| {
            let whole = frames(way).concat().into_bytes();
            backend.says(Say { end: End::Silence, ..Say::stream(content_type(way), vec![whole.clone()]) });
            let mut client = Client::connect(leaving.address());
            client.send(&way.streamed("go").bytes()).unwrap();
            assert_eq!((client.head().unwrap().0, client.chunk().unwrap().unwrap()), (200, whole), "{way:?}");
            (way, client)
        })
        .collect();
    leaving.signal(Signal::SIGTERM);
    for (way, mut client) in begun {
        assert_eq!(client.chunk().unwrap(), None, "{way:?}");
    }
}

#[test]
fn what_the_backend_says_of_an_error_is_said_once() {
    let backend = Scripted::start();
    let gate = gate(&backend.url(), &["--breaker-failures", "0"]).start();
    let mut client = Client::connect(gate.address());
    for way in speaking() {
        let first = &frames(way)[..2].concat();
        let error = match (way.name, way.dialect) {
            (_, Dialect::Ollama) => "{\"error\":\"an error was encountered\"}\n",
            ("responses", _) => {
                "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"x\"}}}\n\n"
            }
            (_, Dialect::Anthropic) => {
                "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"api_error\",\"message\":\"x\"}}\n\n"
            }
            _ => "data: {\"error\":{\"message\":\"x\",\"type\":\"api_error\"}}\n\n",
        };
        for (framing, end) in ENDS.into_iter().filter(|(_, end)| *end != End::Reset) {
            let said = format!("{first}{error}");
            let answer = through(&backend, &mut client, way, (said.as_bytes(), framing, end));
            assert_eq!(answer.text(), said, "{} ({framing:?}, {end:?})", way.name);
        }
    }
}

#[test]
fn an_error_that_ollama_swallows_is_told() {
    let backend = Scripted::start();
    let gate = gate(&backend.url(), &["--breaker-failures", "0"]).start();
    let mut client = Client::connect(gate.address());
    for way in speaking().filter(|way| way.dialect != Dialect::Ollama) {
        // Under /v1 an error in the middle of a stream comes as a piece without a text or a model, or not at all.
        let empty = match way.name {
            "completions" => "data: {\"id\":\"\",\"model\":\"\",\"choices\":[{\"text\":\"\",\"index\":0}]}\n\n",
            "chat_completions" => {
                "data: {\"id\":\"\",\"model\":\"\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n"
            }
            _ => "",
        };
        let said = format!("{}{empty}", frames(way)[..2].concat());
        let answer = through(&backend, &mut client, way, (said.as_bytes(), Framing::Chunked, End::Well));
        let text = answer.text();
        let last = text.strip_prefix(&said).unwrap_or_else(|| panic!("{way:?}: {text}"));
        assert_eq!(told(way, last, 502), CLOSED);
    }
}

/// All streams at once, each of which has brought one frame.
#[track_caller]
fn all_begun(backend: &Scripted, gate: &Gate) -> Vec<(Way, Client)> {
    let begin = |way: Way| {
        let first = frames(way)[0].clone();
        backend.says(Say { end: End::Silence, ..Say::stream(content_type(way), vec![first.clone().into_bytes()]) });
        let mut client = Client::connect(gate.address());
        client.send(&way.streamed("go").bytes()).unwrap();
        assert_eq!(client.head().unwrap().0, 200, "{way:?}");
        assert_eq!(client.chunk().unwrap().unwrap(), first.as_bytes(), "{way:?}");
        (way, client)
    };
    speaking().map(begin).collect()
}

/// The last frame of each says this.
#[track_caller]
fn all_told(streams: Vec<(Way, Client)>, status: u16, text: &str) {
    for (way, mut client) in streams {
        let last = client.chunk().unwrap().unwrap_or_else(|| panic!("{way:?} just ended"));
        assert_eq!(told(way, std::str::from_utf8(&last).unwrap(), status), text, "{way:?}");
        assert_eq!(client.chunk().unwrap(), None, "{way:?}");
    }
}

#[test]
fn who_waits_too_long_for_a_next_frame_is_told() {
    let backend = Scripted::start();
    let late = gate(&backend.url(), &["--chunk-timeout", "300ms"]).start();
    all_told(all_begun(&backend, &late), 504, "Ollama sent nothing more within 0.3 s (chunk_timeout)");
    let bounded = gate(&backend.url(), &["--connect-timeout", "300ms", "--request-timeout", "800ms"]).start();
    let text = "the request was not answered within 0.8 s (request_timeout)";
    all_told(all_begun(&backend, &bounded), 504, text);
}

#[test]
fn streams_that_outlast_a_leaving_gate_are_told() {
    let backend = Scripted::start();
    let times = ["--graceful-timeout", "100ms", "--stream-timeout", "200ms"];
    let mut gate = gate(&backend.url(), &times).start();
    let streams = all_begun(&backend, &gate);
    gate.signal(Signal::SIGTERM);
    all_told(streams, 503, "this server is being replaced, try again");
    assert_eq!(gate.ends_with_code(), 0);
}

#[test]
fn counts_that_the_gate_asked_for_are_all_that_is_missing() {
    let (backend, keys) = (Scripted::start(), Keys::new());
    let (counted, plain) = (keys.make("counted", "--tokens 1000000/hour"), keys.make("plain", ""));
    let gate = gate(&backend.url(), &[&keys.flag()]).start();
    let mut client = Client::connect(gate.address());
    let usage = "data: {\"id\":\"c\",\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\"total_tokens\":7}}\n\n";
    for way in ["chat_completions", "completions"].map(named) {
        let frames = frames(way);
        let (last, before) = frames.split_last().unwrap();
        let all = format!("{}{usage}{last}", before.concat());
        let (mut unasked, mut asking) = (way.body("m", "go"), way.body("m", "go"));
        unasked["stream"] = json!(true);
        asking["stream"] = json!(true);
        asking["stream_options"] = json!({"include_usage": true});
        // A completion's stream that was asked for counts has some in each event, which cannot be taken out.
        let is_asked = way.name == "chat_completions";
        for (key, body, is_stripped) in [
            (&counted, &unasked, is_asked),
            (&counted, &asking, false),
            (&plain, &unasked, false),
            (&plain, &asking, false),
        ] {
            for size in [1, 11, all.len()] {
                let pieces = all.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
                backend.says(Say::stream(content_type(way), pieces));
                let answer = client.ask(&by(key, &way.with(&body.to_string(), "m"))).unwrap();
                let due = if is_stripped { frames.concat() } else { all.clone() };
                assert_eq!(answer.text(), due, "{} in pieces of {size}: {body}", way.name);
                let sent: Value = serde_json::from_str(&backend.last().body).unwrap();
                let asks = sent["stream_options"]["include_usage"] == true;
                assert_eq!(asks, is_stripped || body == &asking, "{sent}");
            }
        }
    }
}
