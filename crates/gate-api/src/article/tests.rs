use super::*;
use crate::json::{DEPTH_MAX, INTEGER_DIGITS_MAX};

const RECORDED: &str = include_str!("../../tests/data/fastapi-bodies.tsv");
const JSON: Option<&[u8]> = Some(b"application/json");

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().as_chunks::<2>().0;
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Status and text: what is asked of Ollama, or the 422's body.
fn outcome(content_type: Option<&[u8]>, body: &[u8]) -> (u16, String) {
    match ArticleRequest::from_body(content_type, body) {
        Ok(request) => (200, String::from_utf8(request.upstream_body("llama3.2:1b")).unwrap()),
        Err(Rejection::Invalid { detail }) => (422, format!("{{\"detail\":{detail}}}")),
        Err(Rejection::Unreadable) => (400, String::new()),
        Err(other) => panic!("{other:?} for {:?}", String::from_utf8_lossy(body)),
    }
}

#[test]
fn every_recorded_body_gives_what_fastapi_gave_to_the_byte() {
    let mut count = 0;
    for line in RECORDED.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let content_type = (fields[0] != "-").then(|| unhex(fields[0]));
        let body = unhex(fields[1]);
        // Where the original broke on writing its answer or its request, the client is told that its body is at fault.
        let status = if fields[2] == "500" { 400 } else { fields[2].parse().unwrap() };
        // The recorded 400 has a fixed body, rendered elsewhere.
        let text = if status == 400 { String::new() } else { String::from_utf8(unhex(fields[3])).unwrap() };
        let shown = String::from_utf8_lossy(&body);
        assert_eq!(outcome(content_type.as_deref(), &body), (status, text), "{content_type:?} {shown}");
        count += 1;
    }
    assert!(count > 300, "{count} cases");
}

#[test]
fn the_articles_own_example_gets_its_two_complaints() {
    let body = br#"{"prompt": "What is Json?", "format": "", "options": ""}"#;
    let expected = concat!(
        r#"{"detail":[{"type":"value_error","loc":["body","format"],"#,
        r#""msg":"Value error, Format must be either 'json' or 'text'","input":"","ctx":{"error":{}}},"#,
        r#"{"type":"dict_type","loc":["body","options"],"msg":"Input should be a valid dictionary","input":""}]}"#,
    );
    assert_eq!(outcome(JSON, body), (422, expected.to_owned()));
}

#[test]
fn only_json_content_types_are_read_as_json() {
    let is = |content_type: &str| is_json(content_type.as_bytes());
    for content_type in [
        "application/json",
        "APPLICATION/JSON",
        "application/json; charset=utf-8",
        "application/json;",
        " application/json\t; a=\"/\"",
        "application/vnd.api+json",
        "application/x+JSON",
        "application/+json",
    ] {
        assert!(is(content_type), "{content_type}");
    }
    for content_type in [
        "",
        ";application/json",
        "json",
        "text/json",
        "application/json, text/plain",
        "application /json",
        "application/ json",
        "application/json/",
        "application//json",
        "application/jsonp",
        "application/json+x",
        "\"application/json\"",
        "multipart/form-data; boundary=application/json",
    ] {
        assert!(!is(content_type), "{content_type}");
    }
    // A no-break space in Latin-1 is a blank to Python.
    assert!(is_json(b"application/json\xA0"));
}

#[test]
fn a_body_that_no_reader_can_take_is_unreadable() {
    let deep = |levels: usize| format!("{{\"prompt\":{}{}}}", "[".repeat(levels), "]".repeat(levels)).into_bytes();
    assert_eq!(outcome(JSON, &deep(100)).0, 422);
    assert_eq!(outcome(JSON, &deep(500)).0, 422);
    assert_eq!(outcome(JSON, &deep(DEPTH_MAX)).0, 400);
    assert_eq!(outcome(JSON, &deep(100_000)).0, 400);
    assert_eq!(outcome(JSON, &b"[".repeat(100_000)).0, 400);
    let number = |digits: usize| format!("{{\"prompt\":\"hi\",\"x\":{}}}", "1".repeat(digits)).into_bytes();
    assert_eq!(outcome(JSON, &number(INTEGER_DIGITS_MAX)).0, 200);
    assert_eq!(outcome(JSON, &number(INTEGER_DIGITS_MAX + 1)).0, 400);
    assert_eq!(outcome(JSON, b"{\"prompt\":\"\xE9\"}").0, 400);
    assert_eq!(outcome(Some(b"text/plain"), b"\xE9").0, 400);
}

#[test]
fn a_long_wrong_value_comes_back_whole() {
    let text = "x".repeat(100_000);
    let (status, answer) = outcome(JSON, format!("{{\"prompt\":[\"{text}\"]}}").as_bytes());
    assert_eq!(status, 422);
    assert!(answer.contains(&format!("\"input\":[\"{text}\"]")));
}

#[test]
fn an_items_prompt_is_sent_as_it_is() {
    let request = ArticleRequest::from_item("a \"b\"\n\u{7f}\u{2028}\u{FFFD}\u{1}".to_owned());
    assert_eq!((request.format(), request.options()), (Format::Text, None));
    assert_eq!(
        String::from_utf8(request.upstream_body("m\"x")).unwrap(),
        "{\"model\":\"m\\\"x\",\"prompt\":\"a \\\"b\\\"\\n\u{7f}\u{2028}\u{FFFD}\\u0001\",\"stream\":false}"
    );
}

#[test]
fn a_plain_prompt_is_not_copied() {
    let request = ArticleRequest::from_body(JSON, br#"{"prompt":"hi","format":"json","options":{"a":1e3}}"#).unwrap();
    assert!(matches!(request.prompt, Cow::Borrowed("hi")));
    assert_eq!((request.format(), request.options()), (Format::Json, Some(r#"{"a":1000.0}"#)));
}

#[test]
fn only_the_response_is_taken_from_ollamas_answer() {
    let check = |upstream: &str, expected: Option<&str>| {
        let answer = answer_body(upstream.as_bytes()).map(|answer| String::from_utf8(answer).unwrap());
        assert_eq!(answer.as_deref(), expected, "{upstream}");
    };
    check(
        r#"{"model":"m","response":"hi","done":true,"context":[1,2],"total_duration":5}"#,
        Some(r#"{"response":"hi"}"#),
    );
    check(r#" {"response":"" , "x":{"response":"no"}} "#, Some(r#"{"response":""}"#));
    check(r#"{"response":null}"#, Some(r#"{"response":null}"#));
    check(r#"{"response":"one","response":"two"}"#, Some(r#"{"response":"two"}"#));
    check(r#"{"r\u0065sponse":"hi"}"#, Some(r#"{"response":"hi"}"#));
    check(
        r#"{"response":"h\u00e9llo \ud83d\ude80 \"q\" \\ \u0001\t\n\r\b\f \u007f\u2028 \u003c/script\u003e"}"#,
        Some("{\"response\":\"héllo 🚀 \\\"q\\\" \\\\ \\u0001\\t\\n\\r\\b\\f \u{7f}\u{2028} </script>\"}"),
    );
    check(
        &format!("{{\"context\":{}{},\"response\":\"hi\"}}", "[".repeat(5000), "]".repeat(5000)),
        Some(r#"{"response":"hi"}"#),
    );
    for refused in [
        "",
        "{}",
        "null",
        "[]",
        "\"response\"",
        "[{\"response\":\"hi\"}]",
        "{\"response\":7}",
        "{\"response\":[\"hi\"]}",
        "{\"response\":{}}",
        "{\"response\":true}",
        "{\"Response\":\"hi\"}",
        "{\"response\":\"hi\"",
        "{\"response\":\"hi\"}x",
        "{\"response\":\"hi\"}{}",
        "{\"response\":\"\\ud800\"}",
        "<html>",
    ] {
        check(refused, None);
    }
    assert_eq!(answer_body(b"{\"response\":\"\xFF\"}"), None);
}
