//! Models that come and go: what one route makes, all others know.

use std::time::Duration;

use ollama_sim::{Config, Model};
use serde_json::json;

use crate::support::{Answer, Client, Running};

fn send(running: &Running, line: &str, body: &str) -> Answer {
    let mut client = Client::connect(running.address);
    let length = body.len();
    client.send(
        format!("{line} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
            .as_bytes(),
    );
    client.answer()
}

fn names(running: &Running) -> Vec<String> {
    let tags = running.get("/api/tags").json();
    let names: Vec<_> = tags["models"].as_array().unwrap().iter().map(|model| model["name"].clone()).collect();
    let models = running.get("/v1/models").json();
    let ids: Vec<_> =
        models["data"].as_array().map_or(Vec::new(), |list| list.iter().map(|one| one["id"].clone()).collect());
    assert_eq!(names, ids, "both lists are one");
    names.iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_pulled_model_answers_until_it_is_deleted() {
    let running = Running::new(Config::default());
    let ask = || running.post("/api/generate", r#"{"model":"fresh","prompt":"x","stream":false}"#).answer().status();
    assert_eq!(ask(), 404);
    let lines = running.post("/api/pull", r#"{"model":"fresh"}"#).answer().lines();
    assert_eq!(
        (&lines[0]["status"], &lines.last().unwrap()["status"]),
        (&json!("pulling manifest"), &json!("success"))
    );
    let done: Vec<_> = lines.iter().filter_map(|line| line["completed"].as_u64()).collect();
    assert!(done.is_sorted() && Some(&lines[1]["total"]) == done.last().map(|last| json!(last)).as_ref(), "{lines:?}");
    assert_eq!(names(&running), ["llama3.2:1b", "fresh:latest"]);
    assert_eq!(ask(), 200);
    assert_eq!(running.get("/api/ps").json()["models"][0]["name"], "fresh:latest");
    let gone = send(&running, "DELETE /api/delete", r#"{"name":"fresh"}"#);
    assert_eq!((gone.status(), gone.body().as_str(), gone.header("Content-Type")), (200, "", None));
    assert_eq!((ask(), names(&running)), (404, vec!["llama3.2:1b".to_owned()]));
    assert_eq!(running.get("/api/ps").json()["models"], json!([]), "it left memory");
    let again = send(&running, "DELETE /api/delete", r#"{"model":"fresh"}"#);
    assert_eq!((again.status(), again.json()), (404, json!({"error": "model 'fresh' not found"})));
}

#[test]
fn an_empty_library_lists_as_go_does() {
    let running = Running::new(Config { models: Vec::new(), ..Config::default() });
    assert_eq!(running.get("/v1/models").body(), "{\"object\":\"list\",\"data\":null}\n");
    assert_eq!(running.get("/api/tags").body(), r#"{"models":[]}"#);
}

#[test]
fn copies_and_creations_take_after_their_source() {
    let embedder = Model { capabilities: vec!["embedding".to_owned()], ..Model::named("e:1") };
    let running = Running::new(Config { models: vec![embedder], ..Config::default() });
    let copied = running.post("/api/copy", r#"{"source":"e:1","destination":"ns/copy:2"}"#).answer();
    assert_eq!((copied.status(), copied.body().as_str()), (200, ""));
    let made = running.post("/api/create", r#"{"model":"own","from":"e:1","system":"x","stream":false}"#).answer();
    assert_eq!(made.body(), r#"{"status":"success"}"#);
    assert_eq!(names(&running), ["e:1", "ns/copy:2", "own:latest"]);
    for model in ["ns/copy:2", "own"] {
        let shown = running.post("/api/show", &json!({ "model": model }).to_string()).answer().json();
        assert_eq!(shown["capabilities"], json!(["embedding"]), "{model}");
    }
    assert_eq!(running.get("/v1/models").json()["data"][1]["owned_by"], "ns");
    let pushed = running.post("/api/push", r#"{"model":"ns/copy:2"}"#).answer().lines();
    assert_eq!(pushed.last(), Some(&json!({"status": "success"})));
}

#[test]
fn blobs_are_known_once_they_are_uploaded() {
    let running = Running::new(Config::default());
    let digest = format!("sha256:{}", "ab".repeat(32));
    let path = format!("/api/blobs/{digest}");
    let create = json!({"model": "own", "files": {"x.gguf": digest}, "stream": false}).to_string();
    let head = || {
        let mut client = Client::connect(running.address);
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\n\r\n").as_bytes());
        String::from_utf8(client.rest().0).unwrap()[9..12].to_owned()
    };
    assert_eq!((head().as_str(), running.post("/api/create", &create).answer().status()), ("404", 400));
    assert_eq!([(); 2].map(|()| running.post(&path, "GGUF").answer().status()), [201, 200]);
    assert_eq!((head().as_str(), running.post("/api/create", &create).answer().status()), ("200", 200));
    assert_eq!(running.post("/api/blobs/sha256:xy", "").answer().status(), 400);
    assert_eq!(running.sim.counters().requests["POST /api/blobs/{digest}"], 3);
}

#[test]
fn what_cannot_be_done_is_told() {
    let running = Running::new(Config::default());
    for (line, body, status, wanted) in [
        ("POST /api/pull", "{}", 400, "invalid model name"),
        ("POST /api/push", r#"{"model":"nope"}"#, 404, "model 'nope' not found"),
        ("POST /api/create", r#"{"model":"a","from":"nope"}"#, 404, "model 'nope' not found"),
        ("POST /api/create", r#"{"model":"a"}"#, 400, "neither 'from' or 'files' was specified"),
        ("POST /api/copy", r#"{"source":"nope","destination":"a"}"#, 404, "model \"nope\" not found"),
        ("DELETE /api/delete", "", 400, "missing request body"),
        (
            "POST /api/pull",
            r#"{"model":1}"#,
            400,
            "json: cannot unmarshal number into Go struct field PullRequest.model of type string",
        ),
    ] {
        let answer = send(&running, line, body);
        assert_eq!((answer.status(), &answer.json()["error"]), (status, &json!(wanted)), "{line} {body}");
    }
    assert_eq!(names(&running), ["llama3.2:1b"]);
}

#[test]
fn a_replaced_model_is_loaded_anew() {
    let models = vec![Model { load_time: Duration::from_millis(1), ..Model::named("a:1") }, Model::named("b:1")];
    let running = Running::new(Config { models, ..Config::default() });
    let load = || running.post("/v1/completions", r#"{"model":"a:1","prompt":"x","max_tokens":1}"#).answer().status();
    assert_eq!((load(), load(), running.sim.counters().loads), (200, 200, 1));
    assert_eq!(running.post("/api/copy", r#"{"source":"b:1","destination":"a:1"}"#).answer().status(), 200);
    assert_eq!((load(), running.sim.counters().loads), (200, 2));
}

#[test]
fn new_models_have_memory_of_their_own_and_give_it_back() {
    let running = Running::new(Config { memory: 2, ..Config::default() });
    let load = |model: &str| {
        let body = json!({"model": model, "prompt": "x", "max_tokens": 1}).to_string();
        assert_eq!(running.post("/v1/completions", &body).answer().status(), 200, "{model}");
        let counters = running.sim.counters();
        (counters.loads, counters.swaps)
    };
    for model in ["a", "b", "c"] {
        running.post("/api/pull", &json!({ "model": model, "stream": false }).to_string()).answer();
    }
    assert_eq!((load("a"), load("b"), load("a")), ((1, 0), (2, 0), (2, 0)));
    assert_eq!(send(&running, "DELETE /api/delete", r#"{"model":"a"}"#).status(), 200);
    assert_eq!(load("c"), (3, 0), "there was room again");
}

#[test]
fn every_route_takes_slots_and_waits_for_them() {
    let running = Running::new(Config { slots: 1.try_into().unwrap(), queue: 0, ..Config::default() });
    let mut first = running.post("/v1/messages", &message("@sim:endless"));
    first.until("demo");
    for (route, body) in [
        ("/v1/chat/completions", r#"{"model":"llama3.2:1b","messages":[{"role":"user","content":"x"}]}"#.to_owned()),
        ("/v1/completions", r#"{"model":"llama3.2:1b","prompt":"x"}"#.to_owned()),
        ("/v1/responses", r#"{"model":"llama3.2:1b","input":"x"}"#.to_owned()),
        ("/v1/messages", message("x")),
    ] {
        assert_eq!(running.post(route, &body).answer().status(), 503, "{route}");
    }
    drop(first);
    running.wait("the slot", |counters| counters.in_flight == 0);
    assert_eq!(running.post("/v1/messages", &message("x")).answer().status(), 200);
    assert_eq!(running.sim.counters().generating_max, 2);
}

fn message(prompt: &str) -> String {
    let messages = json!([{ "role": "user", "content": prompt }]);
    json!({"model": "llama3.2:1b", "max_tokens": 9, "messages": messages, "stream": true}).to_string()
}
