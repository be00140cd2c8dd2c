//! OpenAI's and Anthropic's routes: the same model behind each, with the same counts, slots and faults.

use ollama_sim::{Config, Model, Stage};
use serde_json::{Value, json};

use crate::support::{Answer, Ending, Running};

/// Every route that talks to a model, with what is asked as the prompt.
const ROUTES: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"];

/// A simulation whose model can do everything.
fn able() -> Running {
    let capabilities = ["completion", "tools", "thinking", "embedding"].map(str::to_owned).to_vec();
    let models = vec![Model { capabilities, ..Model::named("able:1") }, Model::named("llama3.2:1b")];
    Running::new(Config { models, ..Config::default() })
}

fn body(route: &str, prompt: &str) -> Value {
    let model = "llama3.2:1b";
    let messages = json!([{ "role": "user", "content": prompt }]);
    match route {
        "/v1/chat/completions" => {
            json!({"model": model, "messages": messages, "stream_options": {"include_usage": true}})
        }
        "/v1/completions" => json!({"model": model, "prompt": prompt, "stream_options": {"include_usage": true}}),
        "/v1/responses" => json!({ "model": model, "input": prompt }),
        _ => json!({ "model": model, "messages": messages, "max_tokens": 1000 }),
    }
}

fn streamed(route: &str, prompt: &str) -> String {
    let mut body = body(route, prompt);
    body["stream"] = json!(true);
    body.to_string()
}

/// The data of all events, without the mark at the end.
fn data(answer: &Answer) -> Vec<Value> {
    let body = answer.body();
    let data = body.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    data.map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// The text of an answer, in one piece or in pieces.
fn text(value: &Value) -> String {
    let delta = &value["delta"];
    [
        &value["choices"][0]["message"]["content"],
        &value["choices"][0]["delta"]["content"],
        &value["choices"][0]["text"],
        &value["output"][0]["content"][0]["text"],
        &value["content"][0]["text"],
        &delta["text"],
        delta,
    ]
    .iter()
    .filter_map(|text| text.as_str())
    .collect()
}

/// Prompt and answer in tokens, wherever they are told.
fn counts(value: &Value) -> Option<(u64, u64)> {
    let usage = [&value["usage"], &value["response"]["usage"]].into_iter().find(|usage| usage.is_object())?;
    let count = |names: [&str; 2]| names.iter().find_map(|name| usage[name].as_u64());
    Some((count(["prompt_tokens", "input_tokens"])?, count(["completion_tokens", "output_tokens"])?))
}

#[test]
fn every_route_says_and_counts_the_same() {
    let running = Running::new(Config::default());
    let native = running.ask_whole("one two").answer().json();
    let wanted = native["response"].as_str().unwrap();
    let counted = (native["prompt_eval_count"].as_u64().unwrap(), native["eval_count"].as_u64().unwrap());
    for route in ROUTES {
        let whole = running.post(route, &body(route, "one two").to_string()).answer();
        assert_eq!(whole.header("Content-Type"), Some("application/json"), "{route}");
        assert!(whole.body().ends_with("}\n"), "{route}");
        let whole = whole.json();
        assert_eq!((text(&whole).as_str(), counts(&whole)), (wanted, Some(counted)), "{route}");

        let stream = running.post(route, &streamed(route, "one two")).answer();
        assert_eq!(stream.header("Content-Type"), Some("text/event-stream"), "{route}");
        let events = data(&stream);
        let said: String = events.iter().map(text).collect();
        let told = events.iter().filter_map(counts).next_back();
        assert_eq!((said.as_str(), told), (wanted, Some(counted)), "{route}");
    }
    assert_eq!(running.sim.counters().requests_by_model["llama3.2:1b"], 9);
}

#[test]
fn streams_have_their_ends() {
    let running = Running::new(Config::default());
    let ends = ["data: [DONE]\n\n", "data: [DONE]\n\n", "\"type\":\"response.completed\"}\n\n", "message_stop\"}\n\n"];
    for (route, end) in ROUTES.into_iter().zip(ends) {
        let body = running.post(route, &streamed(route, "hi")).answer().body();
        assert!(body.ends_with(end), "{route}: {body}");
        let body = running.post(route, &streamed(route, "@sim:cut")).answer().body();
        assert!(!body.contains(end) && body.contains("demo"), "{route}: {body}");
    }
}

#[test]
fn what_clients_rely_on_beside_the_text_is_there() {
    let running = Running::new(Config::default());
    let events = |route| data(&running.post(route, &streamed(route, "hi")).answer());
    let pieces = events("/v1/completions");
    assert_eq!(counts(&pieces[0]), Some((0, 0)), "each piece has counts");
    assert!(counts(pieces.last().unwrap()).unwrap().1 > 20);
    for (number, event) in events("/v1/responses").iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    let messages = events("/v1/messages");
    assert_eq!(messages[messages.len() - 2]["delta"]["stop_reason"], "end_turn");
    let mut talk = body("/v1/chat/completions", "one two");
    talk["messages"] = json!([{"role": "system", "content": "a b c"}, {"role": "user", "content": "one two"}]);
    let answer = running.post("/v1/chat/completions", &talk.to_string()).answer().json();
    assert_eq!(counts(&answer).unwrap().0, 5, "all that is read counts");
}

#[test]
fn models_think_unless_told_not_to() {
    let running = able();
    for (think, wanted) in [(json!(null), true), (json!(true), true), (json!("low"), true), (json!(false), false)] {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let body = json!({"model": "able:1", "messages": messages, "stream": false, "think": think});
        let answer = running.post("/api/chat", &body.to_string()).answer().json();
        assert_eq!(answer["message"]["thinking"].is_string(), wanted, "{think}: {answer}");
    }
}

#[test]
fn failures_in_a_stream_are_swallowed_unless_told_to_tell() {
    let running = Running::new(Config::default());
    for (route, last) in ROUTES.into_iter().zip([Some(("", "")), Some(("", "")), None, None]) {
        let plain = data(&running.post(route, &streamed(route, "hi")).answer());
        let answer = running.post(route, &streamed(route, "@sim:error:5")).answer();
        assert!(
            !answer.body().contains("unexpected EOF") && !answer.body().contains("[DONE]"),
            "{route}: {}",
            answer.body()
        );
        let events = data(&answer);
        assert_eq!(events.len(), if last.is_some() { 6 } else { 5 }, "{route}");
        assert_eq!(text(&events[4]), text(&plain[4]), "{route}");
        if let Some(wanted) = last {
            assert_eq!((events[5]["model"].as_str().unwrap(), text(&events[5]).as_str()), wanted, "{route}");
        }
        let events = data(&running.post(route, &streamed(route, "@sim:error-event:5")).answer());
        let told = events.last().unwrap();
        assert!(events.len() == 6 && (told["error"].is_object() || told["type"] == "error"), "{route}: {told}");
        let answer = running.post(route, &body(route, "@sim:error").to_string()).answer();
        assert_eq!((answer.status(), answer.json()["error"]["type"].as_str()), (500, Some("api_error")), "{route}");
    }
}

#[test]
fn events_break_inside() {
    let running = Running::new(Config::default());
    for route in ROUTES {
        let answer = running.post(route, &streamed(route, "@sim:cut-mid-line:4")).answer();
        assert!(answer.chunks.len() == 5 && !answer.body().ends_with("\n\n"), "{route}: {}", answer.body());
        let (bytes, ending) = running.post(route, &streamed(route, "@sim:reset:mid-chunk:2")).rest();
        assert_eq!(ending, Ending::Reset, "{route}");
        assert!(!bytes.ends_with(b"\n\n\r\n"), "{route}");
        let split = running.post(route, &streamed(route, "@sim:split")).answer();
        assert!(split.chunks.iter().all(|chunk| chunk.len() <= 5), "{route}");
        let said: String = data(&split).iter().map(text).collect();
        assert!(said.contains("demo model"), "{route}: {said}");
    }
}

#[test]
fn clients_that_leave_are_noticed_on_every_route() {
    let running = Running::new(Config::default());
    for (index, route) in ROUTES.into_iter().enumerate() {
        let mut client = running.post(route, &streamed(route, "@sim:endless"));
        client.until("demo");
        running.wait("the request", |counters| counters.generating == 1);
        drop(client);
        let counters = running.wait("the notice", |counters| counters.cancelled == index as u64 + 1);
        let last = counters.cancellations.last().unwrap();
        assert_eq!((last.route.as_str(), last.stage), (format!("POST {route}").as_str(), Stage::Sending));
    }
}

#[test]
fn errors_are_told_in_the_dialects_words() {
    let running = Running::new(Config::default());
    for route in ROUTES {
        let mut unknown = body(route, "hi");
        unknown["model"] = json!("nope");
        let cases = [
            (unknown.to_string(), 404, "not_found_error", "model 'nope' not found"),
            ("[]".to_owned(), 400, "invalid_request_error", "json: cannot unmarshal array into Go value of type "),
            (String::new(), 400, "invalid_request_error", "EOF"),
            (r#"{"stream":"yes"}"#.to_owned(), 400, "invalid_request_error", "json: cannot unmarshal string into "),
            (body(route, "@sim:status:429").to_string(), 429, "", "too many requests"),
            (body(route, "@sim:nope").to_string(), 400, "invalid_request_error", "fault \"nope\""),
        ];
        for (body, status, kind, wanted) in cases {
            let answer = running.post(route, &body).answer();
            let error = answer.json()["error"].clone();
            assert_eq!(answer.status(), status, "{route} {body}");
            assert!(error["message"].as_str().unwrap().starts_with(wanted), "{route} {body}: {error}");
            assert!(kind.is_empty() || error["type"] == kind, "{route} {body}: {error}");
            assert_eq!(error.get("code").is_some(), route != "/v1/messages", "{route} {body}: {error}");
        }
    }
}

#[test]
fn tools_are_called_when_the_last_word_is_a_users_who_says_so() {
    let running = able();
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": schema}});
    let ask = |prompt: &str, more: &[Value]| {
        let messages = [&[json!({"role": "user", "content": prompt})], more].concat();
        let tools = [tool("f"), tool("g")];
        let body = json!({"model": "able:1", "messages": messages, "tools": tools, "stream": false, "think": false});
        let message = running.post("/api/chat", &body.to_string()).answer().json()["message"].clone();
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        assert_eq!(calls.is_empty(), message["content"].as_str().unwrap().contains("demo"), "{message}");
        assert!(calls.iter().all(|call| call["function"]["arguments"] == json!({"a": 1})), "{message}");
        let names: Vec<_> = calls.iter().map(|call| call["function"]["name"].as_str().unwrap().to_owned()).collect();
        names.concat()
    };
    assert_eq!(ask("hello", &[]), "");
    assert_eq!(ask("Please USE the tool.", &[]), "f");
    assert_eq!(ask("use the tools", &[]), "fg");
    assert_eq!(ask("use the tool", &[json!({"role": "tool", "content": "use the tool"})]), "");
}

#[test]
fn calls_and_thoughts_come_in_each_dialects_form() {
    let running = able();
    let parameters = json!({"properties": {"a": {"type": "integer"}}});
    let messages = json!([{"role": "user", "content": "use the tool"}]);
    let openai = json!([{"type": "function", "function": {"name": "f", "parameters": parameters}}]);
    let cases = [
        (
            "/v1/chat/completions",
            json!({"model": "able:1", "messages": messages, "tools": openai}),
            ["/choices/0/message/reasoning", "/choices/0/message/tool_calls/0/function/arguments"],
            ("/choices/0/finish_reason", "tool_calls"),
        ),
        (
            "/v1/responses",
            json!({"model": "able:1", "input": "use the tool",
                   "tools": [{"type": "function", "name": "f", "parameters": parameters}]}),
            ["/output/0/summary/0/text", "/output/1/arguments"],
            ("/output/1/type", "function_call"),
        ),
        (
            "/v1/messages",
            json!({"model": "able:1", "messages": messages, "max_tokens": 99,
                   "tools": [{"name": "f", "input_schema": parameters}]}),
            ["/content/0/thinking", "/content/1/input"],
            ("/stop_reason", "tool_use"),
        ),
    ];
    for (route, mut body, [thought, arguments], (end, wanted)) in cases {
        let whole = running.post(route, &body.to_string()).answer().json();
        let at = |path: &str| whole.pointer(path).unwrap_or_else(|| panic!("{route} {path}: {whole}"));
        assert!(at(thought).as_str().unwrap().contains("answer"), "{route}: {whole}");
        assert_eq!(at(arguments).as_str().unwrap_or("{\"a\":1}"), "{\"a\":1}", "{route}");
        assert_eq!(at(end), wanted, "{route}");
        body["stream"] = json!(true);
        let stream = running.post(route, &body.to_string()).answer().body();
        assert!(stream.contains("{\\\"a\\\":1}") && stream.contains(wanted) && stream.contains("user"), "{stream}");
    }
}

#[test]
fn messages_think_even_for_models_that_cannot() {
    let running = Running::new(Config::default());
    let mut thinking = body("/v1/messages", "hi");
    thinking["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    let answer = running.post("/v1/messages", &thinking.to_string()).answer();
    assert_eq!((answer.status(), &answer.json()["content"][0]["type"]), (200, &json!("text")));
    let mut reasoning = body("/v1/chat/completions", "hi");
    reasoning["reasoning_effort"] = json!("low");
    let answer = running.post("/v1/chat/completions", &reasoning.to_string()).answer();
    assert_eq!(answer.json()["error"]["message"], "\"llama3.2:1b\" does not support thinking");
}

#[test]
fn limits_on_tokens_are_kept_where_ollama_keeps_them() {
    let running = Running::new(Config::default());
    for (route, limit, end) in [
        ("/v1/chat/completions", "max_tokens", "/choices/0/finish_reason"),
        ("/v1/completions", "max_tokens", "/choices/0/finish_reason"),
        ("/v1/responses", "max_output_tokens", "/status"),
        ("/v1/messages", "max_tokens", "/stop_reason"),
    ] {
        let mut limited = body(route, "hi");
        limited[limit] = json!(3);
        let answer = running.post(route, &limited.to_string()).answer().json();
        assert_eq!(counts(&answer), Some((1, 3)), "{route}");
        let wanted = if route == "/v1/messages" { "max_tokens" } else { "length" };
        assert_eq!(answer.pointer(end).unwrap(), if end == "/status" { "completed" } else { wanted }, "{route}");
    }
    let mut ignored = body("/v1/chat/completions", "hi");
    ignored["max_completion_tokens"] = json!(3);
    let answer = running.post("/v1/chat/completions", &ignored.to_string()).answer().json();
    assert!(counts(&answer).unwrap().1 > 20, "{answer}");
}

#[test]
fn embeddings_come_as_numbers_or_bytes() {
    let running = able();
    let ask = |more: Value| {
        let mut body = json!({"model": "able:1", "input": ["a b", "c"]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        running.post("/v1/embeddings", &body.to_string()).answer()
    };
    let native = running.post("/api/embed", r#"{"model":"able:1","input":["a b","c"]}"#).answer().json();
    let numbers = ask(json!({})).json();
    assert_eq!(numbers["data"][1]["embedding"], native["embeddings"][1]);
    assert_eq!((&numbers["usage"]["prompt_tokens"], &numbers["usage"]["total_tokens"]), (&json!(3), &json!(3)));
    assert_eq!(numbers["usage"]["prompt_tokens"], native["prompt_eval_count"]);
    let bytes = ask(json!({"encoding_format": "base64"})).json();
    // 8 floats of 4 bytes.
    assert_eq!(bytes["data"][0]["embedding"].as_str().unwrap().len(), 44);
    assert_eq!(ask(json!({"dimensions": 3})).json()["data"][0]["embedding"].as_array().unwrap().len(), 3);
    for (more, wanted) in [
        (json!({"input": []}), "invalid input"),
        (json!({"input": null}), "invalid input"),
        (json!({"input": [[1, 2]]}), "invalid input type"),
        (
            json!({"encoding_format": "hex"}),
            "Invalid value for 'encoding_format' = hex. Supported values: ['float', 'base64'].",
        ),
    ] {
        let answer = ask(more);
        assert_eq!((answer.status(), answer.json()["error"]["message"].as_str()), (400, Some(wanted)));
    }
}
