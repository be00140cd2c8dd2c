//! The echo personality answers as it was recorded: same status, headers that matter, JSON and completeness.

use ollama_sim::Config;
use serde_json::Value;

use crate::support::{Answer, Client, Running};

#[test]
fn recorded_prompts_are_answered_as_recorded() {
    let running = Running::new(Config::echo());
    let path = format!("{}/tests/data/echo.jsonl", env!("CARGO_MANIFEST_DIR"));
    let cases = std::fs::read_to_string(path).unwrap();
    assert_eq!(cases.lines().count(), 67);
    for case in cases.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let body = case["body"].as_str().unwrap();
        let wanted = &case["answer"];
        let mut client = Client::connect(running.address);
        let (path, length) = (case["path"].as_str().unwrap(), body.len());
        let head = format!("POST {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\nContent-Length: {length}");
        client.send(format!("{head}\r\n\r\n{body}").as_bytes());
        let (bytes, _) = client.rest();
        let whole = Answer::parse(&bytes);
        assert_eq!(whole.is_some(), wanted["whole"].as_bool().unwrap(), "{body}");
        match whole {
            Some((answer, _)) => compare(body, &answer, wanted),
            None if wanted["status"].is_null() => assert_eq!(bytes, b"", "{body}"),
            None => {
                let text = String::from_utf8(bytes).unwrap();
                let (head, part) = text.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("Content-Length: 1000\r\n"), "{head}");
                assert_eq!(part, wanted["body"].as_str().unwrap(), "{body}");
            }
        }
    }
}

fn compare(body: &str, answer: &Answer, wanted: &Value) {
    assert_eq!(u64::from(answer.status()), wanted["status"].as_u64().unwrap(), "{body}");
    assert_eq!(answer.header("Content-Type"), wanted["content_type"].as_str(), "{body}");
    assert_eq!(answer.header("Location"), wanted["location"].as_str(), "{body}");
    assert_eq!(values(&answer.body()), values(wanted["body"].as_str().unwrap()), "{body}");
}

/// The JSON of each line; a text where it is none.
fn values(body: &str) -> Vec<Value> {
    body.split('\n').map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into())).collect()
}

#[test]
fn chats_are_echoed_too() {
    let running = Running::new(Config::echo());
    let body = r#"{"model":"any","messages":[{"role":"user","content":"two words"}],"stream":false}"#;
    let answer = running.post("/api/chat", body).answer().json();
    assert_eq!(answer["message"]["content"].as_str().unwrap().trim_end(), "echo: two words");
}
