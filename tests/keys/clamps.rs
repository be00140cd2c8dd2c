//! What becomes of bodies: held to what their key may ask, and else byte for byte as they came.

use serde_json::json;

use crate::rig::{backend, keyed, told, with};
use crate::stage::{MODEL, generate, posts};
use crate::support::http::Request;
use crate::support::sim::Backend;

/// The body that the backend was sent last.
fn last(backend: &Backend) -> String {
    let requests = backend.sim.counters().last_requests;
    requests.iter().rev().find(|request| request.method == "POST").unwrap().body.clone()
}

/// Paths, bodies, and what a backend gets of them where the key's caps are 2048, 64, ten minutes, one image and two messages.
const TABLE: &[(&str, &str, &str)] = &[
    // Within all caps: every byte, odd spaces and unknown fields too.
    (
        "/api/generate",
        " {\"model\" :\"m\", \"zz\":[1.0,1e3 ] ,\"prompt\":\"\\u00e4 @\",\"options\":{\"num_ctx\":2048 , \"num_predict\":64},\"keep_alive\":\"10m\"}\n",
        "=",
    ),
    // Ollama takes 0 for no bound.
    (
        "/api/generate",
        "{\"model\":\"m\",\"prompt\":\"a\",\"options\":{\"num_predict\":0}}",
        "{\"model\":\"m\",\"prompt\":\"a\",\"options\":{\"num_predict\":64}}",
    ),
    (
        "/api/generate",
        "{\"model\":\"m\", \"prompt\":\"a\",\"options\":{ \"num_ctx\" : 131072,\"num_predict\":-1,\"seed\":1.50 }, \"x\":{}}",
        "{\"model\":\"m\", \"prompt\":\"a\",\"options\":{ \"num_ctx\" : 2048,\"num_predict\":64,\"seed\":1.50 }, \"x\":{}}",
    ),
    (
        "/api/generate",
        "{\"model\":\"m\",\"prompt\":\"a\"}",
        "{\"options\":{\"num_predict\":64},\"model\":\"m\",\"prompt\":\"a\"}",
    ),
    (
        "/api/chat",
        "{\"model\":\"m\",\"options\":{},\"keep_alive\":-1,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
        "{\"model\":\"m\",\"options\":{\"num_predict\":64},\"keep_alive\":\"600s\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
    ),
    (
        "/api/chat",
        "{\"model\":\"m\",\"options\":null,\"keep_alive\":\"24h\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
        "{\"model\":\"m\",\"options\":{\"num_predict\":64},\"keep_alive\":\"600s\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
    ),
    ("/api/generate", "{\"model\":\"m\",\"keep_alive\":0}", "{\"model\":\"m\",\"keep_alive\":\"600s\"}"),
    (
        "/api/embed",
        "{\"model\":\"m\",\"input\":[\"a\"],\"options\":{\"num_ctx\":9000},\"keep_alive\":0}",
        "{\"model\":\"m\",\"input\":[\"a\"],\"options\":{\"num_ctx\":2048},\"keep_alive\":\"600s\"}",
    ),
    (
        "/v1/chat/completions",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":65}",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":64}",
    ),
    (
        "/v1/chat/completions",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_completion_tokens\":9}",
        "{\"max_tokens\":9,\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_completion_tokens\":9}",
    ),
    (
        "/v1/chat/completions",
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"max_tokens\":64}",
        "=",
    ),
    ("/v1/completions", "{\"model\":\"m\",\"prompt\":\"a\"}", "{\"max_tokens\":64,\"model\":\"m\",\"prompt\":\"a\"}"),
    (
        "/v1/responses",
        "{\"model\":\"m\",\"input\":\"a\",\"max_output_tokens\":4096}",
        "{\"model\":\"m\",\"input\":\"a\",\"max_output_tokens\":64}",
    ),
    (
        "/v1/messages",
        "{\"model\":\"m\",\"max_tokens\":100000,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
        "{\"model\":\"m\",\"max_tokens\":64,\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}",
    ),
];

#[test]
fn a_backend_gets_what_the_key_may_ask_and_every_other_byte_as_it_came() {
    let backend = backend();
    let keys = ["--name held --num-ctx 2048 --num-predict 64 --keep-alive 10m --images 1 --messages 2", "--name free"];
    let (house, [held, free]) = keyed(&backend, keys, (8, &[]));
    let ask = |key: &str, path: &str, body: &str| {
        let request = Request::new("POST", path).header("Content-Type", "application/json").body(body.as_bytes());
        house.front.gate.ask(&with(key, &request))
    };
    for (path, body, wanted) in TABLE {
        let wanted = if *wanted == "=" { body } else { wanted };
        for (key, wanted) in [(&held, wanted), (&free, body)] {
            let answer = ask(key, path, body);
            assert_eq!(answer.status, 200, "{path} {body}: {}", answer.text());
            assert_eq!(last(&backend), *wanted, "{path}");
        }
    }
    // The article's requests too, which the gate writes itself.
    let article = json!({"prompt": "a", "options": {"num_predict": 4000, "num_ctx": 8192, "seed": 7}});
    assert_eq!(ask(&held, "/ollama_generate/", &article.to_string()).status, 200);
    let sent = last(&backend);
    let sent: serde_json::Value = serde_json::from_str(&sent).unwrap();
    assert_eq!(sent["options"], json!({"num_predict": 64, "num_ctx": 2048, "seed": 7}));
    assert_eq!(house.status_of(&held, &Request::get("/ollama_generate/hi")), 200);
    assert!(last(&backend).contains("\"num_predict\":64"), "{}", last(&backend));
    let before = posts(&backend);
    let message = json!({"role": "user", "content": "a"});
    for (path, body, limit) in [
        (
            "/api/generate",
            json!({"model": MODEL, "prompt": "a", "images": ["QUJD", "QUJD"]}),
            "2 images, and this API key may send 1",
        ),
        (
            "/api/chat",
            json!({"model": MODEL, "messages": [message, message, message]}),
            "3 messages, and this API key may send 2",
        ),
        ("/v1/chat/completions", json!({"model": MODEL, "messages": [message, message, message]}), "may send 2"),
        (
            "/v1/messages",
            json!({"model": MODEL, "max_tokens": 1, "messages": [message, message, message]}),
            "may send 2",
        ),
    ] {
        let answer = ask(&held, path, &body.to_string());
        assert_eq!(answer.status, 400, "{path}: {}", answer.text());
        assert!(told(&answer.json()).contains(limit), "{path}: {}", answer.text());
    }
    assert_eq!(posts(&backend), before, "nobody was asked");
    assert_eq!(house.status_of(&free, &generate(MODEL, "a")), 200);
}
