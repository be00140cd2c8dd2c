//! The first five minutes with the gate.

mod support;

use serde_json::json;

#[test]
fn the_demo_answers() {
    let gate = support::gate(["--workers", "3", "--demo"]).start();
    let answer = gate.post("/ollama_generate/", &json!({"prompt": "Why is the sky blue?"}));
    assert_eq!(answer.status, 200);
    assert!(answer.json()["response"].as_str().is_some_and(|text| text.contains("demo")));
    assert_eq!(gate.workers().len(), 3);
}
