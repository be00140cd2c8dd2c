//! The router against recorded answers of the article's stack, a table of our own, and hostile paths.

use proptest::prelude::*;
use serde_json::Value;

use super::{BlobMethod, Class, Route, decoded, exact, route};
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

const DIGEST: &str = "sha256:0123456789abcdefABCDEF0123456789abcdef0123456789abcdef0123456789";

/// The routes that need a backend, but for the article's: method, path, route, class, dialect and name.
fn backends() -> Vec<(&'static str, String, Route, Class, Dialect, &'static str)> {
    use Class::{Infer, Manage, Read};
    use Dialect::{Anthropic, Ollama, OpenAi};
    let blob = |method| Route::Blob { digest: DIGEST.to_owned(), method };
    let rows = [
        ("POST", "/api/generate", Route::Generate, Infer, Ollama, "generate"),
        ("POST", "/api/chat", Route::Chat, Infer, Ollama, "chat"),
        ("POST", "/api/embed", Route::Embed, Infer, Ollama, "embed"),
        ("POST", "/api/embeddings", Route::Embeddings, Infer, Ollama, "embeddings"),
        ("GET", "/api/tags", Route::Tags, Read, Ollama, "tags"),
        ("GET", "/api/ps", Route::Ps, Read, Ollama, "ps"),
        ("GET", "/api/version", Route::Version, Read, Ollama, "version"),
        ("POST", "/api/show", Route::Show, Read, Ollama, "show"),
        ("POST", "/v1/chat/completions", Route::ChatCompletions, Infer, OpenAi, "chat_completions"),
        ("POST", "/v1/completions", Route::Completions, Infer, OpenAi, "completions"),
        ("POST", "/v1/embeddings", Route::V1Embeddings, Infer, OpenAi, "v1_embeddings"),
        ("POST", "/v1/responses", Route::Responses, Infer, OpenAi, "responses"),
        ("POST", "/v1/messages", Route::Messages, Infer, Anthropic, "messages"),
        ("GET", "/v1/models", Route::Models, Read, OpenAi, "models"),
        ("GET", "/v1/models/m:1", Route::Model { name: "m:1".into() }, Read, OpenAi, "model"),
        ("POST", "/api/pull", Route::Pull, Manage, Ollama, "pull"),
        ("POST", "/api/push", Route::Push, Manage, Ollama, "push"),
        ("POST", "/api/create", Route::Create, Manage, Ollama, "create"),
        ("POST", "/api/copy", Route::Copy, Manage, Ollama, "copy"),
        ("DELETE", "/api/delete", Route::Delete, Manage, Ollama, "delete"),
        ("HEAD", "/api/blobs/@", blob(BlobMethod::Head), Manage, Ollama, "blobs"),
        ("POST", "/api/blobs/@", blob(BlobMethod::Post), Manage, Ollama, "blobs"),
    ];
    rows.into_iter().map(|(method, path, a, b, c, d)| (method, path.replace('@', DIGEST), a, b, c, d)).collect()
}

#[test]
fn a_backend_is_asked_as_the_client_asked() {
    for (method, path, found, class, dialect, name) in backends() {
        check(method, &path, Ok(found.clone()));
        assert_eq!((found.method(), found.path().as_ref()), (method, path.as_str()));
        assert_eq!((found.class(), found.dialect(), found.name()), (class, dialect, name));
        let (_, refused) = route("PATCH", &path).unwrap_err();
        let Rejection::MethodNotAllowed { allow } = refused else { panic!("{path}: {refused}") };
        assert!(allow.split(", ").any(|allowed| allowed == method), "{path}: {allow}");
    }
    for (found, path) in [(Route::ArticleBody, "/api/generate"), (item("x"), "/api/generate")] {
        let asked = (found.method(), found.path(), found.class());
        assert_eq!(asked, ("POST", path.into(), Class::Infer));
    }
    for target in ["/", "/docs", "/openapi.json", "/healthz", "/readyz"] {
        let page = route("GET", target).unwrap();
        assert_eq!((page.method(), page.path().as_ref(), page.class()), ("GET", target, Class::Open));
    }
}

#[test]
fn a_wrong_method_is_told_in_the_dialect_of_its_path() {
    check("GET", "/v1/chat/completions", Err((405, "POST")));
    check("HEAD", "/v1/models", Err((405, "GET")));
    check("DELETE", "/v1/models/m", Err((405, "GET")));
    check("GET", "/api/pull", Err((405, "POST")));
    check("POST", "/api/delete", Err((405, "DELETE")));
    check("GET", &format!("/api/blobs/{DIGEST}"), Err((405, "HEAD, POST")));
    let dialect = |target: &str| route("PUT", target).unwrap_err().0;
    assert_eq!(dialect("/v1/messages"), Dialect::Anthropic);
    assert_eq!(dialect("/v1/models/x"), Dialect::OpenAi);
    assert_eq!(dialect("/api/copy"), Dialect::Ollama);
}

#[test]
fn a_models_name_is_one_segment_and_goes_on_as_one() {
    for (target, name, path) in [
        ("/v1/models/gemma3:270m", "gemma3:270m", "/v1/models/gemma3:270m"),
        ("/v1/models/a%20b%3Fc%23d%25", "a b?c#d%", "/v1/models/a%20b%3Fc%23d%25"),
        ("/v1/models/...", "...", "/v1/models/..."),
        ("/%761/models/x?y=z", "x", "/v1/models/x"),
        ("/v1/models/%C3%A9%00", "é\0", "/v1/models/%C3%A9%00"),
    ] {
        let found = route("GET", target).unwrap();
        assert_eq!(found, Route::Model { name: name.to_owned() }, "{target}");
        assert_eq!(found.path(), path);
    }
    for target in ["/v1/models/ns%2Fm", "/v1/models/ns/m", "/v1/models/x%2F"] {
        assert!(!matches!(route("GET", target), Ok(Route::Model { .. })), "{target}");
    }
}

#[test]
fn what_v1_does_not_have_is_told_in_its_dialect() {
    let refused = |target: &str| {
        let (dialect, rejection) = route("POST", target).unwrap_err();
        (dialect, rejection.terms().status)
    };
    for target in ["/v1/nope", "/v1/models/ns/m", "/v1/messagesx", "/v1/%6Eope?x", "/v1/fine_tuning/jobs"] {
        assert_eq!(refused(target), (Dialect::OpenAi, 404), "{target}");
    }
    assert_eq!(refused("/v1/messages/count_tokens"), (Dialect::Anthropic, 404));
    for target in ["/v1/audio/transcriptions", "/v1/images/edits", "/v1/", "/v1//models", "/v1/models/.."] {
        assert_eq!(refused(target), (Dialect::OpenAi, 403), "{target}");
    }
    assert_eq!(refused("/v1/../api/pull"), (Dialect::OpenAi, 403));
    assert_eq!(refused("/v1/messages/../models"), (Dialect::Anthropic, 403));
}

#[test]
fn ollamas_closed_paths() {
    let short = format!("/api/blobs/{}", &DIGEST[..DIGEST.len() - 1]);
    let odd = format!("/api/blobs/{}g", &DIGEST[..DIGEST.len() - 1]);
    for target in [
        "/api/me",
        "/api/signout",
        "/api/user/keys/a",
        "/api/status",
        "/api/experimental/web_search",
        &short,
        &odd,
        "/API/pull",
        "/API/generate",
        "/api/generate/",
        "/api//generate",
        "//api/generate",
        "/x/../api/pull",
        "/./api/pull",
        "/ollama_generate/../api/pull",
        "/ollama_generate/..%2Fapi%2Fpull",
        "/V1/models",
        "//v1/models",
        "/api/",
        "/api/blobs/sha256:00",
        "http://gate.test//api/delete",
    ] {
        for method in ["GET", "POST", "DELETE", "HEAD"] {
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
    let backends = backends();
    let known: Vec<&str> =
        backends.iter().map(|row| row.1.as_str()).filter(|path| exact("GET", path).is_some()).collect();
    assert_eq!(known.len(), backends.len() - 3, "all but a model and a blob");
    for target in [&fixed[..], &known, &pages, &["/ollama_generate/", "/openapi.json"]].concat() {
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
        Just("messages"),
        Just("blobs"),
        Just(DIGEST),
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
        let is_theirs = plain.starts_with("/api/") || plain.starts_with("/v1/");
        if let Ok(found) = route(method, &target) {
            let is_asked = found.class() != Class::Open && found.dialect() != Dialect::Article;
            prop_assert_eq!(is_theirs, is_asked, "{} {} is {}", method, target, plain);
            if is_asked {
                // Whatever a backend is asked is what the most lenient reader of the client's path would ask.
                prop_assert_eq!(plainest(&found.path()), plain);
            }
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
