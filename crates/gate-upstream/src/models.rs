//! Which model answers when nobody names one: the newest that the backend lists.

use std::cell::RefCell;
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

/// The newest model by `modified_at`, asked for when first needed.
#[derive(Default)]
pub struct NewestModel {
    known: RefCell<Option<(Instant, Rc<str>)>>,
    /// The last failure. Whoever was waiting then shares it, instead of failing once more after its own wait.
    failed: RefCell<Option<(Instant, Rejection)>>,
    /// Held by the one request that asks, so that the others wait for its answer instead of asking too.
    asking: Mutex<()>,
}

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
    /// Its name.
    ///
    /// # Errors
    /// [`Rejection::NoModel`] when the list is empty, or what the backend failed with.
    pub async fn name(&self, backend: &Backend) -> Result<Rc<str>, Rejection> {
        if let Some(name) = self.fresh() {
            return Ok(name);
        }
        let came = Instant::now();
        let _asking = self.asking.lock().await;
        if let Some(name) = self.fresh() {
            return Ok(name);
        }
        if let Some((_, why)) = self.failed.borrow().as_ref().filter(|(at, _)| *at >= came) {
            return Err(why.clone());
        }
        let name = match ask(backend).await {
            Ok(name) => name,
            Err(why) => {
                self.failed.replace(Some((Instant::now(), why.clone())));
                return Err(why);
            }
        };
        let before = self.known.replace(Some((Instant::now(), Rc::clone(&name))));
        if before.is_none_or(|(_, old)| old != name) {
            log::info!("requests that name no model go to {name}, the newest that {backend} lists");
        }
        Ok(name)
    }

    fn fresh(&self) -> Option<Rc<str>> {
        let known = self.known.borrow();
        let (asked_at, name) = known.as_ref()?;
        (asked_at.elapsed() < FRESH_FOR).then(|| Rc::clone(name))
    }
}

async fn ask(backend: &Backend) -> Result<Rc<str>, Rejection> {
    let list = list(backend).await?;
    let name = newest(&list).map_err(|error| Rejection::BackendBroken {
        what: Breakage::NotJson,
        cause: format!("the list of models: {error}"),
    })?;
    name.map(Into::into).ok_or(Rejection::NoModel)
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

/// Newest first by time, whatever zone each is written in; a time that cannot be read is the oldest.
fn newest(list: &[u8]) -> Result<Option<String>, serde_json::Error> {
    let tags: Tags = serde_json::from_slice(list)?;
    let when = |listed: &Listed| listed.modified_at.parse::<Timestamp>().ok();
    Ok(tags.models.unwrap_or_default().into_iter().max_by_key(when).map(|listed| listed.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_by_time_not_by_text() {
        let list = br#"{"models":[
            {"name":"old","modified_at":"2026-11-23T09:52:43.947898733Z"},
            {"name":"new","modified_at":"2026-11-23T03:00:00.5-07:00"},
            {"name":"undated"}]}"#;
        assert_eq!(newest(list).unwrap().as_deref(), Some("new"));
        assert_eq!(newest(br#"{"models":[]}"#).unwrap(), None);
        assert_eq!(newest(br#"{"models":null}"#).unwrap(), None);
        assert!(newest(b"<html>").is_err());
    }
}
