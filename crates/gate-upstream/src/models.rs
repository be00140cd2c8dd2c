//! Which models may answer when nobody names one: those that the backend lists, the newest first.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gate_api::Rejection;
use gate_api::rejection::Breakage;
use http::StatusCode;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::ask::Ask;
use crate::backend::Backend;

/// How long an answer holds. A model that was pulled or removed is noticed after this.
const FRESH_FOR: Duration = Duration::from_secs(30);

/// The largest list read: some 8,000 models.
const LIST_MAX: usize = 8 << 20;

/// Longest pause in the list: it is read from disk, no model has to be loaded.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The models by `modified_at`, asked for when first needed.
#[derive(Default)]
pub struct NewestModel {
    known: RefCell<Option<(Instant, Names)>>,
    /// The last failure. Whoever was waiting then shares it, instead of failing once more after its own wait.
    failed: RefCell<Option<(Instant, Rejection)>>,
    /// Held by the one request that asks, so that the others wait for its answer instead of asking too.
    asking: Mutex<()>,
}

/// Names of models, the newest first.
type Names = Rc<[Rc<str>]>;

#[derive(Deserialize)]
struct Tags {
    #[serde(default)]
    models: Option<Vec<Listed>>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    #[serde(default)]
    modified_at: String,
}

impl NewestModel {
    /// The name of the newest that `may_answer`.
    ///
    /// # Errors
    /// [`Rejection::NoModel`] when the list has none, or what the backend failed with.
    pub async fn name(&self, backend: &Backend, may_answer: impl Fn(&str) -> bool) -> Result<Rc<str>, Rejection> {
        let names = self.names(backend).await?;
        names.iter().find(|name| may_answer(name)).map(Rc::clone).ok_or(Rejection::NoModel)
    }

    async fn names(&self, backend: &Backend) -> Result<Names, Rejection> {
        if let Some(names) = self.fresh() {
            return Ok(names);
        }
        let came = Instant::now();
        let _asking = self.asking.lock().await;
        if let Some(names) = self.fresh() {
            return Ok(names);
        }
        if let Some((_, why)) = self.failed.borrow().as_ref().filter(|(at, _)| *at >= came) {
            return Err(why.clone());
        }
        let names = match ask(backend).await {
            Ok(names) => names,
            Err(why) => {
                self.failed.replace(Some((Instant::now(), why.clone())));
                return Err(why);
            }
        };
        let before = self.known.replace(Some((Instant::now(), Rc::clone(&names))));
        if let Some(newest) = names.first()
            && before.is_none_or(|(_, old)| old.first() != Some(newest))
        {
            log::info!(
                "requests that name no model go to {newest}, the newest that {backend} lists, where it is open to them"
            );
        }
        Ok(names)
    }

    fn fresh(&self) -> Option<Names> {
        let known = self.known.borrow();
        let (asked_at, names) = known.as_ref()?;
        (asked_at.elapsed() < FRESH_FOR).then(|| Rc::clone(names))
    }
}

async fn ask(backend: &Backend) -> Result<Names, Rejection> {
    let list = list(backend).await?;
    let names = newest_first(&list).map_err(|error| Rejection::BackendBroken {
        what: Breakage::NotJson,
        cause: format!("the list of models: {error}"),
    })?;
    if names.is_empty() { Err(Rejection::NoModel) } else { Ok(names) }
}

async fn list(backend: &Backend) -> Result<Bytes, Rejection> {
    let exchange = backend.send(&Ask::get("/api/tags")).await?;
    let status = exchange.head.status;
    let whole =
        exchange.body.whole(LIST_MAX, PAUSE_MAX).await.map_err(|failed| failed.rejection(LIST_MAX, PAUSE_MAX))?;
    if status != StatusCode::OK {
        let text = String::from_utf8_lossy(&whole).into_owned();
        return Err(Rejection::BackendStatus { status: status.as_u16(), text, retry_after: None });
    }
    Ok(whole)
}

/// By time, whatever zone each is written in; a time that cannot be read is the oldest.
fn newest_first(list: &[u8]) -> Result<Names, serde_json::Error> {
    let tags: Tags = serde_json::from_slice(list)?;
    let mut models = tags.models.unwrap_or_default();
    models.sort_by_cached_key(|listed| Reverse(listed.modified_at.parse::<Timestamp>().ok()));
    Ok(models.into_iter().map(|listed| listed.name.into()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_by_time_not_by_text() {
        let list = br#"{"models":[
            {"name":"undated"},
            {"name":"old","modified_at":"2026-11-23T09:52:43.947898733Z"},
            {"name":"new","modified_at":"2026-11-23T03:00:00.5-07:00"}]}"#;
        let names = newest_first(list).unwrap();
        assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["new", "old", "undated"]);
        assert!(newest_first(br#"{"models":[]}"#).unwrap().is_empty());
        assert!(newest_first(br#"{"models":null}"#).unwrap().is_empty());
        assert!(newest_first(b"<html>").is_err());
    }
}
