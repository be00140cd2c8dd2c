//! Answers have the shape of a real Ollama's: status, headers, key order, types, framing; errors to the byte.

use ollama_sim::{Config, Model};
use serde::Deserialize;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::support::{Answer, Client, Running};

/// A JSON value without its values: what is compared.
#[derive(Debug, PartialEq)]
enum Shape {
    Null,
    Bool(bool),
    Integer,
    Float,
    Text,
    /// The first item's shape.
    List(Option<Box<Shape>>),
    Object(Vec<(String, Shape)>),
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Outline;
        impl<'de> Visitor<'de> for Outline {
            type Value = Shape;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Shape, E> {
                Ok(Shape::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Shape, E> {
                Ok(Shape::Bool(value))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Shape, E> {
                Ok(Shape::Integer)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Shape, E> {
                Ok(Shape::Float)
            }

            fn visit_str<E>(self, _: &str) -> Result<Shape, E> {
                Ok(Shape::Text)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Shape, A::Error> {
                let first = items.next_element()?.map(Box::new);
                while items.next_element::<Shape>()?.is_some() {}
                Ok(Shape::List(first))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Shape::Object(members))
            }
        }
        from.deserialize_any(Outline)
    }
}

fn shape(json: &[u8]) -> Shape {
    serde_json::from_slice(json).unwrap_or_else(|why| panic!("{why}: {}", String::from_utf8_lossy(json)))
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/ollama/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn recorded(name: &str) -> Answer {
    Answer::parse(&read(&format!("{name}.http"))).unwrap().0
}

/// The headers with what differs from one moment and text to the next taken out.
fn comparable(answer: &Answer) -> Vec<(String, String)> {
    let blank = |(name, value): &(String, String)| match name.as_str() {
        "Date" | "Content-Length" => (name.clone(), String::new()),
        _ => (name.clone(), value.clone()),
    };
    answer.headers.iter().map(blank).collect()
}

fn request(case: &Value) -> String {
    let body = match &case["body"] {
        Value::Null => String::new(),
        Value::String(raw) => raw.clone(),
        value => value.to_string(),
    };
    let (method, path, length) = (case["method"].as_str().unwrap(), case["path"].as_str().unwrap(), body.len());
    format!("{method} {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

#[test]
fn every_recorded_answer_has_its_likeness() {
    let models = vec![Model::named("gemma3:270m"), Model::named("gemma3:copy")];
    let running = Running::new(Config { models, ..Config::default() });
    let cases = String::from_utf8(read("requests.jsonl")).unwrap();
    assert_eq!(cases.lines().count(), 45);
    for case in cases.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let name = case["name"].as_str().unwrap();
        let mut client = Client::connect(running.address);
        client.send(request(&case).as_bytes());
        if case["method"] == "HEAD" {
            let (bytes, _) = client.rest();
            let head = String::from_utf8(bytes).unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{name}: {head}");
            assert!(head.contains("\r\nContent-Length: 17\r\n"), "{name}: {head}");
            continue;
        }
        let (answer, wanted) = (client.answer(), recorded(name));
        assert_eq!(answer.status_line, wanted.status_line, "{name}");
        assert_eq!(comparable(&answer), comparable(&wanted), "{name}");
        compare_bodies(name, &answer, &wanted);
    }
}

/// The shapes of events, chunk by chunk, without repeats: how long the text is depends on the model.
fn events(answer: &Answer) -> Vec<Vec<(String, Shape)>> {
    let event = |text: &str| {
        let (name, data) = text.split_once("data: ").unwrap();
        (name.to_owned(), if data == "[DONE]" { Shape::Null } else { shape(data.as_bytes()) })
    };
    let chunk = |chunk: &Vec<u8>| {
        let text = std::str::from_utf8(chunk).unwrap();
        text.strip_suffix("\n\n").unwrap().split("\n\n").map(event).collect()
    };
    let mut chunks: Vec<_> = answer.chunks.iter().map(chunk).collect();
    chunks.dedup();
    chunks
}

/// A body whose name, which differs from one answer to the next, is blank.
fn anonymous(answer: &Answer) -> String {
    let body = answer.body();
    match body.split_once("\"req_") {
        Some((before, after)) => format!("{before}{}", &after[24..]),
        None => body,
    }
}

fn compare_bodies(name: &str, answer: &Answer, wanted: &Answer) {
    if answer.header("Content-Type") == Some("text/event-stream") {
        return assert_eq!(events(answer), events(wanted), "{name}");
    }
    let is_text = answer.header("Content-Type").is_some_and(|kind| kind.starts_with("text/"));
    if wanted.status() >= 400 || is_text || name == "version" {
        assert_eq!(answer.chunks.len(), wanted.chunks.len(), "{name}");
        return assert_eq!(anonymous(answer), anonymous(wanted), "{name}");
    }
    for (own, real) in [(answer.chunks.first(), wanted.chunks.first()), (answer.chunks.last(), wanted.chunks.last())] {
        assert_eq!(shape(own.unwrap()), shape(real.unwrap()), "{name}");
    }
    if answer.header("Transfer-Encoding").is_some() {
        for chunk in &answer.chunks {
            let end = chunk.iter().position(|byte| *byte == b'\n');
            assert_eq!(end, Some(chunk.len() - 1), "{name}: a chunk is a line");
        }
    }
}

#[test]
fn a_limited_text_is_as_long_as_asked_for() {
    let running = Running::new(Config::default());
    let body = r#"{"model":"llama3.2:1b","prompt":"x","options":{"num_predict":3}}"#;
    let lines = running.post("/api/generate", body).answer().lines();
    assert_eq!(lines.len(), 4);
    assert_eq!((&lines[3]["done_reason"], &lines[3]["eval_count"]), (&"length".into(), &3.into()));
}

#[test]
fn the_demo_text_says_what_it_is_streamed_and_whole() {
    let running = Running::new(Config::default());
    let streamed = running.ask("hi").answer().lines();
    let text: String = streamed.iter().map(|line| line["response"].as_str().unwrap()).collect();
    assert!(text.contains("demo model") && streamed.len() > 20, "{text}");
    let whole = running.ask_whole("hi").answer().json();
    assert_eq!((&whole["response"], &whole["done_reason"]), (&text.into(), &"stop".into()));
}

#[test]
fn json_formats_get_json() {
    let running = Running::new(Config::default());
    let body = r#"{"model":"llama3.2:1b","messages":[{"role":"user","content":"x"}],"format":"json","stream":false}"#;
    let answer = running.post("/api/chat", body).answer().json();
    let said: Value = serde_json::from_str(answer["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!(said["model"], "demo");
}

#[test]
fn embedding_models_embed() {
    let embedder = Model { capabilities: vec!["embedding".to_owned()], ..Model::named("e:1") };
    let running = Running::new(Config { models: vec![embedder], ..Config::default() });
    let answer = running.post("/api/embed", r#"{"model":"e:1","input":["a b","c"]}"#).answer();
    let order = r#"{"model":"","embeddings":[[0.5]],"total_duration":1,"load_duration":1,"prompt_eval_count":1}"#;
    assert_eq!(shape(&answer.chunks[0]), shape(order.as_bytes()));
    let vectors = answer.json()["embeddings"].clone();
    assert_eq!(vectors.as_array().unwrap().len(), 2);
    let norm: f64 = vectors[0].as_array().unwrap().iter().map(|x| x.as_f64().unwrap().powi(2)).sum();
    assert!((norm - 1.0).abs() < 1e-9, "{norm}");
    let old = running.post("/api/embeddings", r#"{"model":"e:1","prompt":"a b"}"#).answer().json();
    assert_eq!(old["embedding"], vectors[0]);
    let cases = [
        (r#"{"model":"nope","input":"x"}"#, 404, r#"{"error":"model \"nope\" not found, try pulling it first"}"#),
        (
            r#"{"model":"e:1","input":"x","truncate":1}"#,
            400,
            r#"{"error":"json: cannot unmarshal number into Go struct field EmbedRequest.truncate of type bool"}"#,
        ),
        (r#"{"model":"e:1","input":3}"#, 400, r#"{"error":"invalid input type"}"#),
    ];
    for (body, status, wanted) in cases {
        let answer = running.post("/api/embed", body).answer();
        assert_eq!((answer.status(), answer.body().as_str()), (status, wanted));
    }
}

#[test]
fn show_tells_what_a_model_can_do() {
    let running = Running::new(Config::default());
    let shown = running.post("/api/show", r#"{"model":"llama3.2:1b"}"#).answer().json();
    assert_eq!(shown["capabilities"], serde_json::json!(["completion"]));
    assert_eq!(shown["details"]["family"], "llama");
    assert_eq!(shown["model_info"]["llama.context_length"], 4096);
    assert_eq!(shown["model_info"]["tokenizer.ggml.tokens"], Value::Null);
    let shown = running.post("/api/show", r#"{"name":"llama3.2:1b","verbose":true}"#).answer().json();
    assert!(shown["model_info"]["tokenizer.ggml.tokens"].is_array(), "{shown}");
}

#[test]
fn other_methods_are_told_which_are_allowed() {
    let running = Running::new(Config::default());
    for (line, status, allow) in [
        ("POST /api/tags", 405, Some("GET, HEAD")),
        ("HEAD /api/ps", 405, Some("GET")),
        ("GET /api/chat", 405, Some("POST")),
        ("POST /api/nope", 404, None),
        ("GET /api/pull", 405, Some("POST")),
        ("POST /api/delete", 405, Some("DELETE")),
        ("GET /v1/messages", 405, Some("POST")),
        ("POST /v1/messages/count_tokens", 404, None),
        ("GET /v1/models/ns/m", 404, None),
        ("POST /v1/models/m", 405, Some("GET")),
        ("GET /api/blobs/sha256:00", 405, Some("HEAD, POST")),
        ("POST /api/elsewhere", 404, None),
        ("GET /api/version?x=1", 200, None),
    ] {
        let mut client = Client::connect(running.address);
        client.send(format!("{line} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n").as_bytes());
        let (bytes, _) = client.rest();
        let head = String::from_utf8(bytes).unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {head}");
        let told = head.lines().find_map(|line| line.strip_prefix("Allow: "));
        assert_eq!(told, allow, "{line}");
    }
}

#[test]
fn bodies_come_with_a_length_or_in_chunks() {
    let running = Running::new(Config::default());
    let mut client = Client::connect(running.address);
    let body = r#"{"model":"nope","prompt":"x"}"#;
    client.send(b"POST /api/generate HTTP/1.1\r\nHost: sim\r\nTransfer-Encoding: chunked\r\n");
    client.send(b"Expect: 100-continue\r\n\r\n");
    client.until("HTTP/1.1 100 Continue\r\n\r\n");
    for piece in body.as_bytes().chunks(7) {
        client.send(format!("{:x};ext=1\r\n{}\r\n", piece.len(), std::str::from_utf8(piece).unwrap()).as_bytes());
    }
    client.send(b"0\r\nOne: x\r\nTwo: y\r\n\r\nGET /api/version HTTP/1.1\r\nHost: sim\r\n\r\n");
    assert_eq!(client.answer().status(), 100);
    assert_eq!(client.answer().body(), r#"{"error":"model 'nope' not found"}"#);
    assert_eq!(client.answer().body(), r#"{"version":"0.0.0"}"#, "the next request is found behind the trailer");
}

#[test]
fn what_is_no_request_is_refused() {
    let running = Running::new(Config::default());
    for (bytes, status) in [
        ("nonsense\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        ("POST / HTTP/1.1\r\nContent-Length: 999999999999\r\n\r\n", 413),
    ] {
        let mut client = Client::connect(running.address);
        client.send(bytes.as_bytes());
        let answer = client.answer();
        assert_eq!((answer.status(), answer.header("Connection")), (status, Some("close")), "{bytes:?}");
    }
}

#[test]
fn old_clients_get_no_chunks() {
    let running = Running::new(Config::default());
    let mut client = Client::connect(running.address);
    let body = r#"{"model":"llama3.2:1b","prompt":"x","options":{"num_predict":1}}"#;
    client.send(format!("POST /api/generate HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    let (bytes, _) = client.rest();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.contains("Transfer-Encoding"), "{head}");
    assert!(body.lines().all(|line| line.starts_with("{\"model\"")) && body.lines().count() == 2, "{body}");
}
