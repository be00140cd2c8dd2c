//! The load: `wrk` with one thread and a script of ours that says its figures in one line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::complaint::Complaint;
use crate::folder;
use crate::processes::Cpu;
use crate::seats::Seat;
use crate::started::Started;
use crate::tools::Tools;
use crate::upstream::MODEL;

/// One valid request of the article.
const ARTICLE: &str = r#"{"prompt":"Why is the sky blue?","format":"text","options":{"temperature":0.2}}"#;
/// How much longer than asked wrk may run.
const OVERTIME: Duration = Duration::from_secs(20);
/// The word before the figures.
const MARK: &str = "FIGURES ";

/// What is sent, over and over.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) path: &'static str,
    pub(crate) body: String,
    /// The API key that comes with it.
    pub(crate) key: Option<String>,
}

impl Request {
    /// The article's.
    pub(crate) fn of_article() -> Self {
        Self { path: "/ollama_generate/", body: ARTICLE.to_owned(), key: None }
    }

    /// One to Ollama for a whole answer.
    pub(crate) fn of_ollama(key: Option<String>) -> Self {
        let body = format!(r#"{{"model":"{MODEL}","prompt":"Why is the sky blue?","stream":false}}"#);
        Self { path: "/api/generate", body, key }
    }

    /// What wrk is told to send.
    fn script(&self) -> String {
        let Self { path: _, body, key } = self;
        let key =
            key.as_ref().map_or(String::new(), |key| format!("wrk.headers[\"Authorization\"] = \"Bearer {key}\"\n"));
        format!(
            r#"wrk.method = "POST"
wrk.body = [[{body}]]
wrk.headers["Content-Type"] = "application/json"
{key}done = function(summary, latency, requests)
  local broken = summary.errors
  io.write(string.format("{MARK}%d %d %d %d %d %d\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), broken.status,
    broken.connect + broken.read + broken.write + broken.timeout))
end
"#
        )
    }
}

/// What one run of wrk found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Answers of status 400 or above.
    pub(crate) refused: u64,
    /// Connections that failed, and requests that timed out.
    pub(crate) broken: u64,
}

/// wrk, ready to run.
#[derive(Debug)]
pub(crate) struct Wrk<'a> {
    tools: &'a Tools,
    room: PathBuf,
    request: Request,
}

impl<'a> Wrk<'a> {
    /// Writes the script.
    pub(crate) fn prepare(tools: &'a Tools, room: PathBuf, request: Request) -> Result<Self, Complaint> {
        folder::write(&script_in(&room), &request.script())?;
        Ok(Self { tools, room, request })
    }

    /// Loads a server, and says what wrk itself used of the processor.
    pub(crate) fn run(&self, port: u16, seconds: u32, connections: u32) -> Result<(Figures, Cpu), Complaint> {
        let mut command = self.tools.seats.command(Seat::Load, &self.tools.wrk);
        command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"]).arg(script_in(&self.room));
        command.arg(format!("http://127.0.0.1:{port}{}", self.request.path));
        let wrk = Started::spawn("wrk", command, &self.room.join("output"))?;
        let (said, cpu) = wrk.finish(Duration::from_secs(seconds.into()) + OVERTIME)?;
        let figures = parse(&said).filter(|figures| figures.requests > 0);
        figures.map(|figures| (figures, cpu)).ok_or_else(|| Complaint::Program { name: "wrk".to_owned(), said })
    }
}

fn script_in(room: &Path) -> PathBuf {
    room.join("load.lua")
}

/// The line that our script wrote; times in it are microseconds.
fn parse(said: &str) -> Option<Figures> {
    let line = said.lines().find_map(|line| line.strip_prefix(MARK))?;
    let numbers: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
    let [requests, duration, p50, p99, refused, broken] = numbers[..] else { return None };
    Some(Figures {
        requests,
        seconds: duration as f64 / 1e6,
        p50_ms: p50 as f64 / 1e3,
        p99_ms: p99 as f64 / 1e3,
        refused,
        broken,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_figures() {
        let said = "Running 5s test @ http://127.0.0.1:1/\n  Latency   1.0ms\nFIGURES 250000 5000000 640 1300 0 2\n";
        let expected = Figures { requests: 250_000, seconds: 5.0, p50_ms: 0.64, p99_ms: 1.3, refused: 0, broken: 2 };
        assert_eq!(parse(said), Some(expected));
        for bad in
            ["", "FIGURES", "FIGURES 1 2 3 4 5", "FIGURES 1 2 3 4 5 6 7", "FIGURES 1 2 3 4 5 -6", "unable to connect"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_script_sends_body_and_key() {
        for (request, key) in [
            (Request::of_article(), None),
            (Request::of_ollama(None), None),
            (Request::of_ollama(Some("og-1".to_owned())), Some("wrk.headers[\"Authorization\"] = \"Bearer og-1\"\n")),
        ] {
            let script = request.script();
            assert!(script.contains(&format!("[[{}]]", request.body)), "{script}");
            assert!(serde_json::from_str::<serde_json::Value>(&request.body).is_ok(), "{script}");
            assert_eq!(script.contains("Authorization"), key.is_some(), "{script}");
            assert!(key.is_none_or(|key| script.contains(key)), "{script}");
        }
    }
}
