//! Numbers for routes, so that a row of the scoreboard can say what a request asks for in a byte.
//!
//! Invariant: a number names the same route in every process of one version of the gate.

use gate_api::Route;

/// The number of a request that is still being read, or that no route takes.
pub(crate) const UNROUTED: u8 = 0;

static NAMES: [&str; 29] = [
    "a request without a route",
    "POST /ollama_generate/",
    "GET /ollama_generate/{prompt}",
    "POST /api/generate",
    "POST /api/chat",
    "GET /api/tags",
    "GET /api/ps",
    "GET /api/version",
    "GET /",
    "GET /openapi.json",
    "GET /docs",
    "GET /healthz",
    "GET /readyz",
    "POST /api/embed",
    "POST /api/embeddings",
    "POST /api/show",
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /v1/models/{model}",
    "POST /v1/responses",
    "POST /v1/messages",
    "POST /api/pull",
    "POST /api/push",
    "POST /api/create",
    "POST /api/copy",
    "DELETE /api/delete",
    "POST /api/blobs/{digest}",
];

/// What the route numbers of [`gate_zone::InService`] mean: the number is the index.
pub fn route_names() -> &'static [&'static str] {
    &NAMES
}

/// A route's number.
pub(crate) fn number(route: &Route) -> u8 {
    match route {
        Route::ArticleBody => 1,
        Route::ArticleItem { .. } => 2,
        Route::Generate => 3,
        Route::Chat => 4,
        Route::Tags => 5,
        Route::Ps => 6,
        Route::Version => 7,
        Route::Root => 8,
        Route::OpenApi => 9,
        Route::Docs(_) => 10,
        Route::Healthz => 11,
        Route::Readyz => 12,
        Route::Embed => 13,
        Route::Embeddings => 14,
        Route::Show => 15,
        Route::ChatCompletions => 16,
        Route::Completions => 17,
        Route::V1Embeddings => 18,
        Route::Models => 19,
        Route::Model { .. } => 20,
        Route::Responses => 21,
        Route::Messages => 22,
        Route::Pull => 23,
        Route::Push => 24,
        Route::Create => 25,
        Route::Copy => 26,
        Route::Delete => 27,
        Route::Blob { .. } => 28,
    }
}

/// A route for each name, in their order.
#[cfg(test)]
pub(crate) fn samples() -> Vec<Route> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let sample = |name: &&str| {
        let (method, target) = name.split_once(' ').unwrap();
        let target = target.replace("{prompt}", "hi").replace("{model}", "m").replace("{digest}", &digest);
        gate_api::route(method, &target).unwrap()
    };
    NAMES.iter().skip(1).map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_its_own_name() {
        for (index, route) in samples().iter().enumerate() {
            assert_eq!(usize::from(number(route)), index + 1, "{}", NAMES[index + 1]);
        }
    }
}
