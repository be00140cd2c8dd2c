//! The router against recorded answers of the article's stack, a table of our own, and hostile paths.

use proptest::prelude::*;
use serde_json::Value;

use super::{Route, decoded, exact, route};
use crate::rejection::{Dialect, Rejection};

/// Answers of the article's own stack, recorded over the wire.
const RECORDED: &str = include_str!("../../tests/route/corpus.jsonl");

/// Answers of a bare FastAPI 0.165 app (Starlette 1.10) with the article's two routes, asked without a socket: random
/// methods and targets around those routes.
const FASTAPI: &str = include_str!("../../tests/route/fastapi.jsonl");

/// Recorded cases where the gate does as Ollama does, since `/` is Ollama's here.
const OLLAMA_INSTEAD: [&str; 2] = ["not-found/root", "not-found/post-root"];

#[test]
fn recorded_cases() {
    let mut count = 0;
    for line in RECORDED.lines().chain(FASTAPI.lines()) {
        let case: Value = serde_json::from_str(line).unwrap();
        let name = case["name"].as_str().unwrap_or(line);
        if OLLAMA_INSTEAD.contains(&name) {
            continue;
        }
        count += 1;
        let expect = &case["expect"];
        let status = expect["status"].as_u64().unwrap();
        match route(case["method"].as_str().unwrap(), case["path"].as_str().unwrap()) {
            Ok(Route::ArticleItem { prompt }) => {
                assert_eq!(status, 200, "{name}");
                assert_eq!(expect["body_json"]["response"], format!("echo: {prompt}"), "{name}");
            }
            Ok(Route::ArticleBody) => assert_eq!(status, 200, "{name}"),
            Ok(other) => panic!("{name}: {other:?}"),
            Err((dialect, rejection)) => refused_as_recorded(name, expect, &rejection.answer(dialect)),
        }
    }
    assert!(count > 200, "the recorded cases are there");
}

fn refused_as_recorded(name: &str, expect: &Value, answer: &crate::Answer) {
    assert_eq!(u64::from(answer.status), expect["status"].as_u64().unwrap(), "{name}");
    assert_eq!(answer.content_type, expect["content_type"].as_str(), "{name}");
    if let Some(body) = expect.get("body_json") {
        assert_eq!(&serde_json::from_slice::<Value>(&answer.body).unwrap(), body, "{name}");
    }
    for (header, value) in expect["headers"].as_object().into_iter().flatten() {
        let ours = answer.headers.iter().find(|(name, _)| name == header).map(|(_, value)| value.as_str());
        match value.as_str() {
            // The recorded Location is absolute; scheme and host are put in front of ours later.
            Some(location) if header == "location" => assert!(location.ends_with(ours.unwrap()), "{name}: {ours:?}"),
            value => assert_eq!(ours, value, "{name}: {header}"),
        }
    }
}

fn item(prompt: &str) -> Route {
    Route::ArticleItem { prompt: prompt.to_owned() }
}

/// A refusal as its status and, where it has one, the first header's value.
fn check(method: &str, target: &str, expected: Result<Route, (u16, &str)>) {
    let got = route(method, target).map_err(|(dialect, rejection)| {
        let answer = rejection.answer(dialect);
        (answer.status, answer.headers.first().map_or(String::new(), |(_, value)| value.clone()))
    });
    assert_eq!(got, expected.map_err(|(status, value)| (status, value.to_owned())), "{method} {target}");
}

#[test]
fn articles_paths() {
    check("POST", "/ollama_generate/", Ok(Route::ArticleBody));
    check("POST", "/ollama_generate/?a=b", Ok(Route::ArticleBody));
    check("POST", "/%6Fllama_generate%2F", Ok(Route::ArticleBody));
    check("POST", "/ollama_generate/%0A", Ok(Route::ArticleBody));
    check("GET", "/ollama_generate/%0A", Ok(item("\n")));
    check("PUT", "/ollama_generate/%0A", Err((405, "POST")));
    check("GET", "/ollama_generate/", Err((405, "POST")));
    check("HEAD", "/ollama_generate/", Err((405, "POST")));
    check("get", "/ollama_generate/x", Err((405, "GET")));
    check("GET", "/%6Fllama_generate/hi", Ok(item("hi")));
    check("GET", "/ollama_generate/a%252Fb", Ok(item("a%2Fb")));
    check("GET", "/ollama_generate/a+b%20c", Ok(item("a+b c")));
    check("GET", "/ollama_generate/%FF", Ok(item("\u{fffd}")));
    check("GET", "/ollama_generate/%E2%82x", Ok(item("\u{fffd}x")));
    check("GET", "/ollama_generate/%zz", Ok(item("%zz")));
    check("GET", "/ollama_generate/100%", Ok(item("100%")));
    check("GET", "/ollama_generate/a?b=c/d", Ok(item("a")));
    check("GET", "/ollama_generate/..", Ok(item("..")));
    check("GET", "/ollama_generate/api", Ok(item("api")));
    check("GET", "http://gate.test/ollama_generate/hi?x", Ok(item("hi")));
    check("GET", "/ollama_generate//x", Err((404, "")));
    check("GET", "//ollama_generate/x", Err((404, "")));
}

#[test]
fn slashes_are_mended_as_the_articles_framework_does() {
    check("GET", "/ollama_generate", Err((307, "/ollama_generate/")));
    check("POST", "/ollama_generate?a=%7B|", Err((307, "/ollama_generate/?a=%7B%7C")));
    check("DELETE", "/ollama_generate/x/", Err((307, "/ollama_generate/x")));
    check("GET", "/ollama_generate/x//?q", Err((307, "/ollama_generate/x?q")));
    check("GET", "/ollama_generate/%C3%A9%20%0A/", Err((307, "/ollama_generate/%C3%A9%20%0A")));
    check("GET", "/ollama_generate/a%0d%0aset-cookie:x/", Err((307, "/ollama_generate/a%0D%0Aset-cookie:x")));
    check("GET", "/openapi.json/", Err((307, "/openapi.json")));
    check("GET", "/docs/", Err((307, "/docs")));
    check("GET", "/ollama_generate//", Err((404, "")));
}

#[test]
fn ollamas_paths() {
    check("POST", "/api/generate", Ok(Route::Generate));
    check("POST", "/api/ch%61t?x=y", Ok(Route::Chat));
    for (method, target, route) in [
        ("GET", "/api/tags", Route::Tags),
        ("HEAD", "/api/tags", Route::Tags),
        ("GET", "/api/ps", Route::Ps),
        ("GET", "/api/version", Route::Version),
        ("HEAD", "/api/version", Route::Version),
        ("GET", "/", Route::Root),
        ("HEAD", "/", Route::Root),
        ("GET", "http://gate.test", Route::Root),
        ("GET", "HTTP://gate.test?x=/", Route::Root),
    ] {
        check(method, target, Ok(route));
    }
    check("GET", "/api/generate", Err((405, "POST")));
    check("HEAD", "/api/ps", Err((405, "GET")));
    check("DELETE", "/api/tags", Err((405, "HEAD, GET")));
    check("POST", "/", Err((405, "HEAD, GET")));
    let (dialect, refused) = route("GET", "/api/generate").unwrap_err();
    assert_eq!((dialect, &refused.answer(dialect).body[..]), (Dialect::Ollama, &b"405 method not allowed"[..]));
}

#[test]
fn ollamas_closed_paths() {
    for target in [
        "/api/pull",
        "/api/%70ull",
        "/API/pull",
        "/API/generate",
        "/api/generate/",
        "/api//generate",
        "//api/generate",
        "/x/../api/pull",
        "/./api/pull",
        "/ollama_generate/../api/pull",
        "/ollama_generate/..%2Fapi%2Fpull",
        "/v1/chat/completions",
        "/V1/models",
        "/api/",
        "/api/blobs/sha256:00",
        "http://gate.test/api/delete",
        "http://gate.test//api/delete",
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let (dialect, refused) = route(method, target).unwrap_err();
            assert_eq!((dialect, refused.terms().status), (Dialect::Ollama, 403), "{method} {target}");
        }
    }
    for target in ["/api", "/v1", "/apix/pull", "/v10/x", "/api/../x", "/nope"] {
        check("POST", target, Err((404, "")));
    }
}

#[test]
fn the_gates_own_pages() {
    check("GET", "/healthz", Ok(Route::Healthz));
    check("HEAD", "/readyz", Ok(Route::Readyz));
    check("HEAD", "/openapi.json", Ok(Route::OpenApi));
    check("POST", "/healthz", Err((405, "HEAD, GET")));
    check("POST", "/docs", Err((405, "HEAD, GET")));
    assert!(matches!(route("GET", "/docs"), Ok(Route::Docs(_))));
    check("GET", "/metrics", Err((404, "")));
}

#[test]
fn a_path_as_it_stands_is_routed_as_it_is_decoded() {
    let fixed = ["/api/generate", "/api/chat", "/api/tags", "/api/ps", "/api/version", "/", "/healthz", "/readyz"];
    let pages = crate::docs::Page::ALL.map(crate::docs::Page::path);
    for target in [&fixed[..], &pages, &["/ollama_generate/", "/openapi.json"]].concat() {
        for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS", "get", "HEAD, GET", ""] {
            let short = exact(method, target).unwrap();
            assert_eq!(format!("{short:?}"), format!("{:?}", decoded(method, target)), "{method} {target}");
        }
    }
}

#[test]
fn targets_that_are_not_paths() {
    check("OPTIONS", "*", Err((404, "")));
    check("CONNECT", "gate.test:80", Err((404, "")));
    check("GET", "ftp://gate.test/", Err((404, "")));
    check("GET", "", Err((404, "")));
    for target in ["/ollama_generate/é", "/a b", "/a\r\nb", "/\u{7f}"] {
        let (dialect, refused) = route("GET", target).unwrap_err();
        assert_eq!(dialect, Dialect::Gate, "{target}");
        assert!(matches!(refused, Rejection::MalformedHead { .. }), "{target}");
    }
}

/// Pieces of paths that mean something to some router.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("/"),
        Just("//"),
        Just("%2f"),
        Just("%2F"),
        Just("."),
        Just(".."),
        Just("%2e"),
        Just("%2E%2e"),
        Just("api"),
        Just("%61pi"),
        Just("API"),
        Just("v1"),
        Just("V%31"),
        Just("pull"),
        Just("%70ull"),
        Just("generate"),
        Just("chat"),
        Just("tags"),
        Just("models"),
        Just("ollama_generate"),
        Just("docs"),
        Just("%"),
        Just("%25"),
        Just("%ff"),
        Just("%0A"),
        Just("?"),
        Just("x"),
        Just("http://h"),
    ]
    .prop_map(str::to_owned)
}

/// The path as the most lenient server could read it: decoded, slashes merged, dots resolved, lower case.
fn plainest(target: &str) -> String {
    let path = target.strip_prefix("http://").map(|rest| rest.find(['/', '?']).map_or("", |at| &rest[at..]));
    let raw = path.unwrap_or(target).split('?').next().unwrap().as_bytes();
    let mut bytes = Vec::new();
    let mut at = 0;
    while at < raw.len() {
        let hex = raw.get(at + 1..at + 3).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit));
        if let (b'%', Some(hex)) = (raw[at], hex) {
            bytes.push(u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap());
            at += 3;
        } else {
            bytes.push(raw[at]);
            at += 1;
        }
    }
    let decoded = String::from_utf8_lossy(&bytes).to_lowercase();
    let mut kept: Vec<&str> = Vec::new();
    for segment in decoded.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            other => kept.push(other),
        }
    }
    format!("/{}", kept.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn no_disguise_opens_a_closed_route(
        method in prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("DELETE")],
        slash in prop_oneof![Just("/"), Just("")],
        pieces in proptest::collection::vec(piece(), 0..9),
    ) {
        let target = format!("{slash}{}", pieces.concat());
        let plain = plainest(&target);
        let open = ["/api/generate", "/api/chat", "/api/tags", "/api/ps", "/api/version"].contains(&plain.as_str());
        if (plain.starts_with("/api/") || plain.starts_with("/v1/")) && !open {
            prop_assert!(route(method, &target).is_err(), "{method} {target} is {plain}");
        }
        if let Ok(found) = route(method, &target) {
            prop_assert_eq!(plain.starts_with("/api/"), found.dialect() == Dialect::Ollama && plain != "/");
        }
    }

    #[test]
    fn the_short_way_leads_where_the_long_way_leads(
        method in prop_oneof![Just("GET"), Just("POST"), Just("HEAD"), Just("DELETE")],
        pieces in proptest::collection::vec(piece(), 0..4),
    ) {
        let target = format!("/{}", pieces.concat());
        if let Some(short) = exact(method, &target) {
            prop_assert_eq!(format!("{short:?}"), format!("{:?}", decoded(method, &target)));
        }
    }

    #[test]
    fn any_target_is_answered(target in "\\PC{0,40}") {
        if let Err((dialect, rejection)) = route("GET", &target) {
            prop_assert!((300..500).contains(&rejection.answer(dialect).status), "{}: {}", target, rejection);
        }
    }

    #[test]
    fn a_redirect_is_one_header_line(tail in "[ -~]{0,20}") {
        if let Err((_, Rejection::Redirect { location })) = route("GET", &format!("/ollama_generate/{tail}/")) {
            prop_assert!(location.starts_with("/ollama_generate") && location.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
