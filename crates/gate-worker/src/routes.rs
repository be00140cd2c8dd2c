//! Numbers for routes, so that a row of the scoreboard can say what a request asks for in a byte.
//!
//! Invariant: a number names the same route in every process of one version of the gate.

use gate_api::Route;

/// The number of a request that is still being read, or that no route takes.
pub(crate) const UNROUTED: u8 = 0;

static NAMES: [&str; 13] = [
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_its_own_name() {
        for (index, name) in NAMES.iter().enumerate().skip(1) {
            let (method, target) = name.split_once(' ').unwrap();
            let routed = gate_api::route(method, &target.replace("{prompt}", "hi")).unwrap();
            assert_eq!(usize::from(number(&routed)), index, "{name}");
        }
    }
}
