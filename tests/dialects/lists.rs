//! Lists of models over several backends as one, for everybody and for keys that may see some of it.

use std::time::{Duration, SystemTime};

use ollama_sim::{Config, Fault, Rule};
use serde_json::{Value, json};

use crate::stage::{Keys, able, by, config, gate_before, named, refused};
use crate::support::http::{self, Answer, Request};
use crate::support::sim::Backend;
use crate::support::{self, Gate, wait_for};

/// A backend with these models, which changed so many seconds after the beginning of time.
fn backend(models: &[(&str, u64)]) -> Backend {
    let since = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
    let models = models.iter().map(|(name, at)| ollama_sim::Model { modified_at: since(*at), ..able(name) }).collect();
    Backend::start(Config { models, ..config(&[]) })
}

/// Three backends: `both` is on two of them in two versions, and each has a model of its own.
fn three() -> [Backend; 3] {
    [
        backend(&[("both:latest", 50), ("first:7b", 10)]),
        backend(&[("second:latest", 30), ("both:latest", 20)]),
        backend(&[("third:latest", 40)]),
    ]
}

fn before(backends: &[Backend; 3], arguments: &[&str]) -> Gate {
    let urls: Vec<_> =
        backends.iter().zip(["a", "b", "c"]).map(|(b, name)| format!("{} name={name}", b.url())).collect();
    let urls: Vec<_> = urls.iter().map(String::as_str).collect();
    gate_before(&urls, arguments).start()
}

const TAGS: &str = "/api/tags";
const PS: &str = "/api/ps";
const MODELS: &str = "/v1/models";

/// Names in a list, in its order.
#[track_caller]
fn names(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("content-type").unwrap().starts_with("application/json"), "{:?}", answer.headers);
    let list = answer.json();
    let (entries, key) = if list["object"] == "list" { (&list["data"], "id") } else { (&list["models"], "name") };
    let entries = entries.as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
}

/// Loads a model into a backend's memory, past the gate.
#[track_caller]
fn load(backend: &Backend, model: &str, keep_alive: &str) {
    let body = json!({"model": model, "keep_alive": keep_alive, "stream": false});
    assert_eq!(http::ask(backend.address, &Request::post("/api/generate", &body)).status, 200);
}

#[test]
fn lists_of_three_backends_are_one_and_show_a_key_what_it_may_name() {
    let (backends, keys) = (three(), Keys::new());
    load(&backends[0], "both", "10m");
    load(&backends[1], "both", "30m");
    load(&backends[2], "third", "20m");
    let all = keys.make("all", "");
    let some = keys.make("some", "--models first:*,third");
    let none = keys.make("none", "--models absent");
    let (open, keyed) = (before(&backends, &[]), before(&backends, &[&keys.flag()]));
    let every = ["both:latest", "third:latest", "second:latest", "first:7b"];
    let loaded = ["both:latest", "third:latest", "both:latest"];
    for (path, due) in [(TAGS, &every[..]), (MODELS, &every), (PS, &loaded)] {
        assert_eq!(names(&open.get(path)), due, "{path}");
        assert_eq!(names(&keyed.ask(&by(&all, &Request::get(path)))), due, "{path}");
        let visible: Vec<_> = due.iter().copied().filter(|name| ["first:7b", "third:latest"].contains(name)).collect();
        assert_eq!(names(&keyed.ask(&by(&some, &Request::get(path)))), visible, "{path}");
        let nothing = keyed.ask(&by(&none, &Request::get(path)));
        let envelope = if path == MODELS { "{\"object\":\"list\",\"data\":null}\n" } else { "{\"models\":[]}" };
        assert_eq!((nothing.status, nothing.text().as_str()), (200, envelope), "{path}");
        assert_eq!(keyed.get(path).status, 401, "{path}");
    }
    // Entries are those of the first that has them, as it wrote them.
    let tags = open.get(TAGS).json();
    let own: Value = http::ask(backends[0].address, &Request::get(TAGS)).json();
    assert_eq!(tags["models"][0], own["models"][0]);
    assert_eq!(tags["models"][3], own["models"][1]);
    // One backend, of which all may be seen: its list passes to the byte.
    let alone = gate_before(&[&backends[1].url()], &[]).start();
    for path in [TAGS, MODELS] {
        assert_eq!(alone.get(path).body, http::ask(backends[1].address, &Request::get(path)).body, "{path}");
    }
}

/// This backend answers, once the monitor has seen what each of them has.
#[track_caller]
fn tells(gate: &Gate, request: &Request, backend: &str) {
    wait_for(&format!("an answer of {backend}"), || {
        let answer = gate.ask(request);
        (answer.status == 200 && answer.header("x-gate-backend") == Some(backend)).then_some(())
    });
    assert_eq!(gate.ask(request).header("x-gate-backend"), Some(backend), "and no other");
}

#[test]
fn a_question_about_a_model_goes_to_one_that_has_it() {
    let (backends, keys) = (three(), Keys::new());
    let some = keys.make("some", "--models first:*,third");
    let (open, keyed) = (before(&backends, &[]), before(&backends, &[&keys.flag()]));
    for (model, backend) in [("first:7b", "a"), ("second", "b"), ("third", "c"), ("third:latest", "c"), ("SECOND", "b")]
    {
        for way in ["show", "model"].map(named) {
            tells(&open, &way.request(model, ""), backend);
            let request = by(&some, &way.request(model, ""));
            if model.eq_ignore_ascii_case("second") {
                assert_eq!(refused(way, &keyed.ask(&request), 404), format!("model '{model}' not found"));
            } else {
                tells(&keyed, &request, backend);
            }
        }
    }
    // What is nowhere looks like what may not be seen, to the byte.
    for way in ["show", "model"].map(named) {
        let told = |model: &str| {
            let answer = keyed.ask(&by(&some, &way.request(model, "")));
            let fields: Vec<_> =
                answer.headers.iter().filter(|(name, _)| !["date", "x-request-id"].contains(&&**name)).collect();
            format!("{} {fields:?} {}", answer.status, answer.text()).replace(model, "MODEL")
        };
        // Of one length, which is told too.
        assert_eq!(told("second"), told("absent"), "{way:?}");
    }
}

#[test]
fn a_backend_that_is_away_or_slow_leaves_the_others_models() {
    let [first, second, third] = three();
    let backends = [first, second, third];
    let gate = before(&backends, &["--connect-timeout", "1s"]);
    let path = |path: &str| Some(path.to_owned());
    // The monitor asks too, so there has to be enough for both.
    let slow = [TAGS, MODELS].map(|list| Rule {
        fault: "stall:before-head".parse::<Fault>().unwrap(),
        path: path(list),
        times: 99,
    });
    backends[2].sim.script(slow);
    std::thread::scope(|scope| {
        for list in [TAGS, MODELS] {
            let gate = &gate;
            scope.spawn(move || {
                assert_eq!(names(&gate.get(list)), ["both:latest", "second:latest", "first:7b"], "{list}");
            });
        }
    });
    let [first, second, third] = backends;
    drop(third);
    assert_eq!(names(&gate.get(TAGS)), ["both:latest", "second:latest", "first:7b"]);
    drop(first);
    // Of the two that had it, the other's is left.
    assert_eq!(names(&gate.get(MODELS)), ["second:latest", "both:latest"]);
    drop(second);
    for (list, way) in [(TAGS, named("show")), (MODELS, named("model"))] {
        assert_eq!(refused(way, &gate.get(list), 502), "Ollama could not be reached", "{list}");
    }
}

#[test]
fn a_list_shows_what_can_be_asked_for_and_leaves_out_what_is_no_list() {
    let (some, page) = (backend(&[("yes:latest", 2), ("no:latest", 1)]), backend(&[("gone:latest", 9)]));
    page.sim.script([Rule { times: 1000, path: Some(TAGS.into()), ..Fault::Html.into() }]);
    let gate = gate_before(&[&format!("{} name=a models=yes", some.url()), &page.url()], &[]).start();
    assert_eq!(names(&gate.get(TAGS)), ["yes:latest"]);
    assert_eq!(names(&gate.get(MODELS)), ["gone:latest", "yes:latest"]);
}

#[test]
fn who_names_no_model_gets_the_newest_that_is_open_to_him() {
    let backend = backend(&[("old:latest", 10), ("local:latest", 20), ("private:latest", 30), ("big:120b-cloud", 40)]);
    let keys = Keys::new();
    let [local, absent] = ["local", "absent"].map(|model| keys.make(model, &format!("--models {model}")));
    let gates = [&[][..], &[keys.flag()]].map(|more| {
        let own = ["--upstream", &backend.url(), "--limit", "none"].map(ToOwned::to_owned);
        support::gate(own.iter().chain(more)).start()
    });
    let [open, keyed] = &gates;
    let ask = Request::post("/ollama_generate/", &json!({"prompt": "hi"}));
    for (gate, request, due) in [(open, ask.clone(), "private:latest"), (keyed, by(&local, &ask), "local:latest")] {
        assert_eq!(gate.ask(&request).status, 200);
        let asked = backend.sim.counters().last_requests;
        let asked = asked.iter().rfind(|request| request.target == "/api/generate").unwrap();
        let body: Value = serde_json::from_str(&asked.body).unwrap();
        assert_eq!(body["model"], due);
    }
    let none = keyed.ask(&by(&absent, &ask));
    assert_eq!((none.status, none.text().contains("private")), (503, false), "{}", none.text());
}
