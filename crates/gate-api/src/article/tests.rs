use super::*;
use crate::frames::Stats;
use crate::json::{DEPTH_MAX, INTEGER_DIGITS_MAX};
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

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
        let answer = answer_body(upstream.as_bytes()).map(|(answer, _)| String::from_utf8(answer).unwrap());
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

#[test]
fn what_an_answer_says_of_its_making_is_read_with_it() {
    let documents = [
        r#"{"response":"a","done":true,"load_duration":7,"prompt_eval_count":3,"eval_count":0,"eval_duration":9}"#,
        r#"{"eval_count":5,"response":"\"load_duration\":1","options":{"eval_count":1}, "load_duration" : 7 ,"done":true}"#,
        r#"{"response":"a","prompt_eval_count":1.5,"eval_count":-1,"load_duration":"x","eval_duration":null,"done":true}"#,
        r#"{"\u0065val_count":5,"response":null,"done":true}"#,
    ];
    for document in documents {
        let (_, stats) = answer_body(document.as_bytes()).unwrap();
        assert_eq!(Some(stats), Stats::read(document.as_bytes()), "{document}");
    }
}

/// What `answer_body` is to give, by a general reader.
fn answer_by_serde(upstream: &[u8]) -> Option<Vec<u8>> {
    let Members(members) = serde_json::from_slice(upstream).ok()?;
    let mut response = None;
    for (_, value) in members.iter().filter(|(key, _)| key == "response") {
        response = Some(serde_json::from_str::<Option<String>>(value.get()).ok()?);
    }
    let mut out = String::from("{\"response\":");
    match response? {
        Some(text) => write_text(&text, &mut out),
        None => out.push_str("null"),
    }
    out.push('}');
    Some(out.into_bytes())
}

/// An object's members in order, repeats and all.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry()? {
            members.push(member);
        }
        Ok(Members(members))
    }
}

#[test]
fn an_answer_of_any_shape_is_judged_as_json() {
    let values = r#"
        [] [0] [00] [01] [10,0,7] [1,] [,1] [-1] [1.5e+3,-0.0E-1] [1.] [.5] [1e] - --1 +1 1x 1 -0 1.0 1E9
        [1,[2,{"a":[]}]] [1} {"a":1] {"a"} {"a":} {a:1} {"a":1,} {,} {"a":1}{ [1][ tru nul nulls NaN true false null
        "\u12g4" "\u12 "\ud800" "\q" "\ "open [[[[[1]]]]] [[[[[1]]]] [[[[[1]]]]]] {"a":{"b":{}}} {"a":{"b":{}}
        "é" "\"" "a\\" {"\q":1} {"\u0061":1} {"\ud800":1} ["a","b"] ["a" "b"] [true,false,null,"",{},[]]
    "#;
    for value in
        values.split_ascii_whitespace().chain(["", "[ ]", "{ }", "[1 ,2]", "{\"a\" : [ 1 , true ] }", "\"a\nb\""])
    {
        let mut judged = false;
        for document in [
            format!("{{\"response\":\"hi\",\"x\":{value}}}"),
            format!("{{\"x\":{value},\"response\":\"a\\nb\"}}"),
            format!("{{\"response\":{value}}}"),
            format!("{{{value}:1,\"response\":\"hi\"}}"),
            format!(" {{ \"x\" : {value} , \"response\" : null }} "),
        ] {
            let expected = answer_by_serde(document.as_bytes());
            assert_eq!(answer_body(document.as_bytes()).map(|(answer, _)| answer), expected, "{document}");
            judged |= expected.is_some();
        }
        assert_eq!(judged, serde_json::from_str::<IgnoredAny>(value).is_ok(), "{value}");
    }
}

#[test]
fn an_ordinary_body_is_read_in_one_pass_and_any_other_is_left() {
    for (body, is_ordinary) in [
        (r#"{"prompt":"Why is the sky blue?","format":"text","options":{"temperature":0.2}}"#, true),
        (r#"{"options": {"stop": "x", "seed": -7, "top_p": 0.9, "a": true}, "prompt": "é"}"#, true),
        (r#" { "prompt" : "hi" } "#, true),
        (r#"{"prompt":""}"#, false),
        (r#"{"prompt":"a\nb"}"#, false),
        (r#"{"prompt":"hi","format":null}"#, false),
        (r#"{"prompt":"hi","format":"xml"}"#, false),
        (r#"{"prompt":"hi","options":{}}"#, false),
        (r#"{"prompt":"hi","options":{"a":1,"a":2}}"#, false),
        (r#"{"prompt":"hi","options":{"a":1e5}}"#, false),
        (r#"{"prompt":"hi","options":{"a":-0}}"#, false),
        (r#"{"prompt":"hi","options":{"a":1.50}}"#, false),
        (r#"{"prompt":"hi","options":{"a":[1]}}"#, false),
        (r#"{"prompt":"hi","prompt":"ho"}"#, false),
        (r#"{"prompt":"hi","more":1}"#, false),
        (r#"{"prompt":"hi"}}"#, false),
        ("\u{feff}{\"prompt\":\"hi\"}", false),
    ] {
        assert_eq!(ordinary::read(body.as_bytes()).is_some(), is_ordinary, "{body}");
        let general = ArticleRequest::from_any_body(body.as_bytes());
        assert_eq!(outcome(JSON, body.as_bytes()).0 == 200, general.is_ok(), "{body}");
        assert_eq!(ArticleRequest::from_body(JSON, body.as_bytes()).ok(), general.ok(), "{body}");
    }
}

/// Values, and a few keys.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => "-?(0|[1-9][0-9]{0,17})(\\.[0-9]{1,16})?([eE][+-]?[0-9]{1,2})?",
        1 => "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,3})?",
        2 => "\"([^\"\\\\\\x00-\\x1f]|\\\\[\"\\\\/bfnrt]|\\\\u[0-9a-fA-F]{4}|[a-z ]{8}){0,6}\"",
        2 => "\"(prompt|format|options|response|json|text|a|b)\"",
        1 => "true|false|null|\\[\\]|\\{\\}|\\[1,2,30\\]",
    ]
}

/// Objects, mostly valid, with known keys and values that fit them more often than not.
fn bodies() -> impl Strategy<Value = String> {
    let options = prop::collection::vec(("\"[a-c]{1,2}\"", "[ \n]?", piece()), 0..10).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(key, blank, value)| format!("{key}:{blank}{value}")).collect();
        format!("{{{}}}", members.join(", "))
    });
    let member = prop_oneof![
        3 => ("\"(prompt|response)\"", "[ \n]?", "\"[a-z \u{e9}]{0,20}\""),
        1 => ("\"(prompt|response)\"", "[ \n]?", piece()),
        2 => ("\"format\"", "[ \n]?", "\"(json|text)\"|null|1"),
        3 => ("\"options\"", "[ \n]?", options),
        1 => (piece(), "[ \n]?", piece()),
    ];
    prop::collection::vec(member, 0..4).prop_map(|members| {
        let members: Vec<_> =
            members.iter().map(|(key, blank, value)| format!("{key}{blank}:{blank}{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn the_short_way_reads_what_the_long_way_reads(
        body in bodies(), at in any::<prop::sample::Index>(), damage in prop::option::of("[\\x00-\u{ff}]"),
    ) {
        let mut body = body;
        if let Some(damage) = damage {
            let places: Vec<_> = body.char_indices().map(|(place, _)| place).collect();
            body.insert_str(places[at.index(places.len())], &damage);
        }
        if let Some(request) = ordinary::read(body.as_bytes()) {
            prop_assert_eq!(ArticleRequest::from_any_body(body.as_bytes()).ok(), Some(request), "{}", body);
        }
        prop_assert_eq!(answer_body(body.as_bytes()).map(|(answer, _)| answer), answer_by_serde(body.as_bytes()), "{}", body);
    }

    #[test]
    fn ordinary_requests_mean_the_same_either_way(
        prompt in "[a-z\u{e9}\u{1f680} ]{1,30}", format in "json|text", number in any::<i64>(), fraction in 0..1_000_000_u32,
    ) {
        let whole = number >> (fraction % 64);
        let options = format!("{{\"a\": {whole}.{fraction}, \"b\": {whole}}}");
        let body = format!("{{\"prompt\": \"{prompt}\", \"format\": \"{format}\", \"options\": {options}}}");
        let general = ArticleRequest::from_any_body(body.as_bytes()).ok();
        prop_assert!(general.is_some());
        prop_assert_eq!(ArticleRequest::from_body(JSON, body.as_bytes()).ok(), general);
    }

    #[test]
    fn any_bytes_of_an_answers_text_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let document = [b"{\"response\":\"".as_slice(), &bytes, b"\"}"].concat();
        prop_assert_eq!(answer_body(&document).map(|(answer, _)| answer), answer_by_serde(&document));
    }
}
