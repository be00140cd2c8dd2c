//! What a monitor asks beside the probe: the models that a backend lists, and those that it has in memory.
//!
//! Both are questions that Ollama answers without touching a model: nothing is loaded, kept or unloaded by them.
//!
//! Invariant: an answer is read up to a cap and for a bounded time, and whatever a backend says is a value here.

use std::fmt;
use std::time::Duration;

use gate_api::Rejection;
use http::StatusCode;
use serde::Deserialize;
use tokio::time::timeout;

use crate::ask::Ask;
use crate::backend::Backend;
use crate::body::ReadFailed;

/// The longest list of models read: some 8,000.
const LISTED_MAX: usize = 8 << 20;

/// The longest list of models in memory read: more than any machine holds at once.
const IN_MEMORY_MAX: usize = 1 << 20;

/// How long an answer may take to its end. Manifests are read from disk for it, and no model.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// Why a list could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// The backend has no such list: it answered, and with something else.
    NoList(String),
    /// It has no answer now: it cannot be reached, is late, or refuses for the moment.
    NotNow(String),
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoList(why) | Self::NotNow(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unread {}

#[derive(Deserialize)]
struct List {
    // Ollama writes null for an empty one. A list that is not there at all is another server's answer.
    #[serde(deserialize_with = "Option::deserialize")]
    models: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    name: String,
}

impl Backend {
    /// The names of the models that it lists.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn listed(&self) -> Result<Vec<String>, Unread> {
        self.names("/api/tags", LISTED_MAX).await
    }

    /// The names of the models that it has in memory. One that is still being loaded is not among them.
    ///
    /// # Errors
    /// See [`Unread`].
    pub async fn in_memory(&self) -> Result<Vec<String>, Unread> {
        self.names("/api/ps", IN_MEMORY_MAX).await
    }

    async fn names(&self, path: &'static str, max: usize) -> Result<Vec<String>, Unread> {
        let late = |_| Unread::NotNow(format!("no whole answer to {path} within {ANSWER_MAX:?}"));
        let said = timeout(ANSWER_MAX, self.said(path, max)).await.map_err(late)??;
        names(&said).map_err(|error| Unread::NoList(format!("{path} is no list of models: {error}")))
    }

    async fn said(&self, path: &'static str, max: usize) -> Result<bytes::Bytes, Unread> {
        let failed = |why: Rejection| Unread::NotNow(format!("{path}: {why}"));
        let exchange = self.send(&Ask::get(path)).await.map_err(failed)?;
        let status = exchange.head.status;
        let whole = match exchange.body.whole(max, ANSWER_MAX).await {
            Ok(whole) => whole,
            Err(ReadFailed::TooLarge) => return Err(Unread::NoList(format!("{path} has over {max} bytes"))),
            Err(other) => return Err(failed(other.rejection(max, ANSWER_MAX))),
        };
        match status {
            StatusCode::OK => Ok(whole),
            status if is_for_now(status) => Err(Unread::NotNow(format!("{path}: status {}", status.as_u16()))),
            status => Err(Unread::NoList(format!("{path}: status {}", status.as_u16()))),
        }
    }
}

/// Whether the same question may be answered later. A gate behind this one refuses so when it has no backend itself.
fn is_for_now(status: StatusCode) -> bool {
    match status {
        StatusCode::NOT_IMPLEMENTED => false,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => true,
        status => status.is_server_error(),
    }
}

/// The names in a list, in its order. Those that are no text for a terminal are left out: nobody can ask for them.
fn names(list: &[u8]) -> Result<Vec<String>, serde_json::Error> {
    let list: List = serde_json::from_slice(list)?;
    let names = list.models.unwrap_or_default().into_iter().map(|entry| entry.name);
    Ok(names.filter(|name| !name.is_empty() && !name.chars().any(char::is_control)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_lists() {
        let tags = br#"{"models":[{"name":"a:1","model":"a:1","size":9,"details":{"families":["x"]}},{"name":"b"},
            {"size":1},{"name":"\u001b[2J"},{"name":""}]}"#;
        assert_eq!(names(tags).unwrap(), ["a:1", "b"]);
        let ps = br#"{"models":[{"name":"a:1","expires_at":"2026-01-02T03:04:05Z","size_vram":0,"context_length":1}]}"#;
        assert_eq!(names(ps).unwrap(), ["a:1"]);
        for empty in ["{\"models\":[]}", "{\"models\":null}"] {
            assert_eq!(names(empty.as_bytes()).unwrap(), [] as [&str; 0]);
        }
    }

    #[test]
    fn another_servers_answer_is_no_list() {
        for other in ["{}", "[]", "<html>", "", "{\"data\":[]}", "{\"models\":{}}", "{\"models\":[{\"name\":7}]}"] {
            assert!(names(other.as_bytes()).is_err(), "{other}");
        }
    }

    #[test]
    fn some_refusals_are_for_now() {
        for (status, expected) in
            [(404, false), (405, false), (401, false), (501, false), (429, true), (408, true), (500, true), (503, true)]
        {
            assert_eq!(is_for_now(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
    }
}
