//! The ways to misbehave, their names, and scripts of them. Names only: the sender and the routes act on them.
//!
//! A fault is written the same way in a script, in the header `x-sim-fault`, and at the start of a prompt behind
//! `@sim:`. A count of chunks that an answer does not reach strikes before its last line, so no answer dodges a fault.
//! An answer that is not streamed has one chunk.
//!
//! | text | what happens |
//! |---|---|
//! | `ok` | nothing; lets one request pass in a script |
//! | `refuse[:MS]` | the listener closes for that time (200), then this request is reset |
//! | `reset:POINT` | TCP reset |
//! | `stall:POINT` | silence until the client leaves |
//! | `close:POINT` | the connection ends without a reset |
//! | `cut[:N]` | a clean end after N lines (all but the last), without `done` |
//! | `cut-mid-line[:N]` | the same, after half of the next line |
//! | `error[:N]` | after N lines (1) the model fails, then a clean end; 500 when not streamed. Ollama tells an `{"error":…}` line under `/api`; under `/v1` it says an empty piece of text, or nothing, and no end |
//! | `error-event[:N]` | the same, told under `/v1` too, as an error event |
//! | `slow-head[:MS]` | the head byte by byte with that pause (2) |
//! | `garbage-head` | bytes that are not HTTP |
//! | `busy`, `status:CODE` | 503, or any status, with Ollama's error body |
//! | `html` | 502 with an HTML page |
//! | `wrong-json` | 200 with a body that is not JSON |
//! | `endless` | a stream without end |
//! | `split` | every line in many chunks, with boundaries inside characters |
//! | `long-line[:BYTES]` | one token of that size (1 MiB) |
//! | `delay[:MS]` | the answer comes that much later (100) |
//!
//! POINT is `before-head`, `mid-head`, `after-head`, `chunks:N` or `mid-chunk:N` (inside the chunk after N whole ones).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// The longest pause of a fault: beyond any deadline a test waits for.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest line: several times the 8 MB that Ollama's own client accepts.
const LINE_MAX: usize = 64 << 20;
/// How long the listener stays closed: long enough for several retries of a client.
const REFUSE: Duration = Duration::from_millis(200);
/// The pause between the bytes of a slow head: about half a second for the whole of it.
const DRIBBLE: Duration = Duration::from_millis(2);
/// A delay one can measure and a test can afford.
const DELAY: Duration = Duration::from_millis(100);
/// A line longer than any buffer a proxy starts with.
const LINE: usize = 1 << 20;

/// How a connection is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// TCP reset.
    Reset,
    /// Nothing more is sent until the client leaves.
    Stall,
    /// An orderly end of the connection, without the rest of the answer.
    Close,
}

/// Where in an answer a connection breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// After the request was read.
    BeforeHead,
    /// After half of the head.
    MidHead,
    /// After the head.
    AfterHead,
    /// After this many chunks.
    Chunks(usize),
    /// Inside the chunk that follows this many whole ones.
    MidChunk(usize),
}

/// One way to misbehave; the module's table says how each is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    Ok,
    /// The listener is closed for a time.
    Refuse(Duration),
    /// The connection breaks at a point.
    Break(Break, Point),
    /// The stream ends cleanly after this many lines.
    Cut(usize),
    /// The stream ends cleanly inside the line after this many.
    CutMidLine(usize),
    /// The model fails after this many lines, and it is told as Ollama does.
    ErrorLine(usize),
    /// The same, told in every dialect's own words.
    ErrorEvent(usize),
    /// The head comes byte by byte with this pause.
    SlowHead(Duration),
    /// Bytes that are not HTTP.
    GarbageHead,
    /// An error status.
    Status(u16),
    /// 502 with an HTML page.
    Html,
    /// 200 with a body that is not JSON.
    WrongJson,
    /// A stream without end.
    Endless,
    /// Chunk boundaries inside lines and characters.
    Split,
    /// One token of this many bytes.
    LongLine(usize),
    /// The answer comes this much later.
    Delay(Duration),
}

/// A text that names no fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultError {
    text: String,
    why: &'static str,
}

impl fmt::Display for FaultError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "fault {:?}: {}", self.text, self.why)
    }
}

impl std::error::Error for FaultError {}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (name, argument) = text.split_once(':').map_or((text, None), |(name, argument)| (name, Some(argument)));
        parse(name, argument).map_err(|why| FaultError { text: text.to_owned(), why })
    }
}

fn parse(name: &str, argument: Option<&str>) -> Result<Fault, &'static str> {
    let bare = |fault| if argument.is_none() { Ok(fault) } else { Err("takes no argument") };
    match name {
        "ok" => bare(Fault::Ok),
        "garbage-head" => bare(Fault::GarbageHead),
        "busy" => bare(Fault::Status(503)),
        "html" => bare(Fault::Html),
        "wrong-json" => bare(Fault::WrongJson),
        "endless" => bare(Fault::Endless),
        "split" => bare(Fault::Split),
        "refuse" => Ok(Fault::Refuse(pause(argument, REFUSE)?)),
        "slow-head" => Ok(Fault::SlowHead(pause(argument, DRIBBLE)?)),
        "delay" => Ok(Fault::Delay(pause(argument, DELAY)?)),
        "reset" => Ok(Fault::Break(Break::Reset, point(argument)?)),
        "stall" => Ok(Fault::Break(Break::Stall, point(argument)?)),
        "close" => Ok(Fault::Break(Break::Close, point(argument)?)),
        "cut" => Ok(Fault::Cut(count(argument, usize::MAX)?)),
        "cut-mid-line" => Ok(Fault::CutMidLine(count(argument, usize::MAX)?)),
        "error" => Ok(Fault::ErrorLine(count(argument, 1)?)),
        "error-event" => Ok(Fault::ErrorEvent(count(argument, 1)?)),
        "status" => match count(argument, 0)? {
            code @ 400..=599 => Ok(Fault::Status(code as u16)),
            _ => Err("a status is 400 to 599"),
        },
        "long-line" => match count(argument, LINE)? {
            size @ 1..=LINE_MAX => Ok(Fault::LongLine(size)),
            _ => Err("a line is 1 byte to 64 MiB long"),
        },
        _ => Err("there is no fault of this name"),
    }
}

fn count(argument: Option<&str>, default: usize) -> Result<usize, &'static str> {
    argument.map_or(Ok(default), |text| text.parse().map_err(|_| "a whole number must follow"))
}

fn pause(argument: Option<&str>, default: Duration) -> Result<Duration, &'static str> {
    let millis = argument.map_or(Ok(None), |text| text.parse().map(Some)).map_err(|_| "milliseconds must follow")?;
    match millis.map_or(default, Duration::from_millis) {
        span if span <= PAUSE_MAX => Ok(span),
        _ => Err("a pause is at most a minute long"),
    }
}

fn point(argument: Option<&str>) -> Result<Point, &'static str> {
    match argument.unwrap_or_default().split_once(':') {
        Some(("chunks", n)) => Ok(Point::Chunks(count(Some(n), 0)?)),
        Some(("mid-chunk", n)) => Ok(Point::MidChunk(count(Some(n), 0)?)),
        Some(_) => Err("only chunks and mid-chunk are counted"),
        None => match argument {
            Some("before-head") => Ok(Point::BeforeHead),
            Some("mid-head") => Ok(Point::MidHead),
            Some("after-head") => Ok(Point::AfterHead),
            _ => Err("before-head, mid-head, after-head, chunks:N or mid-chunk:N must follow"),
        },
    }
}

/// One step of a script: a fault for the next requests that match.
///
/// In JSON either the fault's text, or `{"fault": TEXT, "path": "/api/chat", "times": 2}`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RuleText")]
pub struct Rule {
    /// What happens.
    pub fault: Fault,
    /// The only path it is for; any when absent.
    pub path: Option<String>,
    /// How many requests it is for.
    pub times: u32,
}

impl From<Fault> for Rule {
    fn from(fault: Fault) -> Self {
        Self { fault, path: None, times: 1 }
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a rule is a fault's text or {\"fault\": TEXT, \"path\": PATH, \"times\": N}")]
enum RuleText {
    Short(String),
    Long(LongRule),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LongRule {
    fault: String,
    path: Option<String>,
    times: Option<u32>,
}

impl TryFrom<RuleText> for Rule {
    type Error = FaultError;

    fn try_from(text: RuleText) -> Result<Self, FaultError> {
        Ok(match text {
            RuleText::Short(fault) => Self::from(fault.parse::<Fault>()?),
            RuleText::Long(long) => {
                Self { fault: long.fault.parse()?, path: long.path, times: long.times.unwrap_or(1) }
            }
        })
    }
}

/// The text behind the last `"@sim:` of a request body, up to a space or the end of its string.
pub(crate) fn magic(body: &[u8]) -> Option<&str> {
    const MARK: &[u8] = b"\"@sim:";
    let start = body.windows(MARK.len()).rposition(|window| window == MARK)? + MARK.len();
    let length = body[start..].iter().position(|byte| !matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b':' | b'-'));
    std::str::from_utf8(&body[start..start + length.unwrap_or(body.len() - start)]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read() {
        let cases = [
            ("ok", Fault::Ok),
            ("refuse", Fault::Refuse(REFUSE)),
            ("refuse:5", Fault::Refuse(Duration::from_millis(5))),
            ("reset:before-head", Fault::Break(Break::Reset, Point::BeforeHead)),
            ("stall:mid-head", Fault::Break(Break::Stall, Point::MidHead)),
            ("close:after-head", Fault::Break(Break::Close, Point::AfterHead)),
            ("reset:chunks:3", Fault::Break(Break::Reset, Point::Chunks(3))),
            ("reset:mid-chunk:0", Fault::Break(Break::Reset, Point::MidChunk(0))),
            ("cut", Fault::Cut(usize::MAX)),
            ("cut-mid-line:2", Fault::CutMidLine(2)),
            ("error", Fault::ErrorLine(1)),
            ("error-event:4", Fault::ErrorEvent(4)),
            ("slow-head", Fault::SlowHead(DRIBBLE)),
            ("garbage-head", Fault::GarbageHead),
            ("busy", Fault::Status(503)),
            ("status:429", Fault::Status(429)),
            ("html", Fault::Html),
            ("wrong-json", Fault::WrongJson),
            ("endless", Fault::Endless),
            ("split", Fault::Split),
            ("long-line:9", Fault::LongLine(9)),
            ("delay:7", Fault::Delay(Duration::from_millis(7))),
        ];
        for (text, wanted) in cases {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        let cases = [
            ("", "no fault of this name"),
            ("nope", "no fault of this name"),
            ("ok:1", "takes no argument"),
            ("reset", "must follow"),
            ("reset:chunks", "must follow"),
            ("reset:chunks:x", "whole number"),
            ("stall:lines:1", "only chunks"),
            ("cut:-1", "whole number"),
            ("delay:60001", "at most a minute"),
            ("delay:x", "milliseconds"),
            ("status:200", "400 to 599"),
            ("status", "400 to 599"),
            ("long-line:67108865", "64 MiB"),
        ];
        for (text, wanted) in cases {
            let why = text.parse::<Fault>().unwrap_err().to_string();
            assert!(why.contains(wanted) && why.contains(&format!("{text:?}")), "{text}: {why}");
        }
    }

    #[test]
    fn rules_are_texts_or_objects() {
        let rules: Vec<Rule> =
            serde_json::from_str(r#"["busy",{"fault":"cut:1","path":"/api/chat","times":3},{"fault":"ok"}]"#).unwrap();
        let long = Rule { fault: Fault::Cut(1), path: Some("/api/chat".to_owned()), times: 3 };
        assert_eq!(rules, [Rule::from(Fault::Status(503)), long, Rule::from(Fault::Ok)]);
        for bad in [r#"["nope"]"#, r#"[{"fault":"ok","time":1}]"#, "[1]", "{}"] {
            assert!(serde_json::from_str::<Vec<Rule>>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_mark_of_a_body_counts() {
        let cases: [(&str, Option<&str>); 6] = [
            (r#"{"prompt":"hi"}"#, None),
            (r#"{"prompt":"hi @sim:cut"}"#, None),
            (r#"{"prompt":"@sim:cut"}"#, Some("cut")),
            (r#"{"prompt":"@sim:reset:chunks:2 hello"}"#, Some("reset:chunks:2")),
            (r#"{"messages":[{"content":"@sim:busy"},{"content":"@sim:cut:1\n"}]}"#, Some("cut:1")),
            ("\"@sim:", Some("")),
        ];
        for (body, wanted) in cases {
            assert_eq!(magic(body.as_bytes()), wanted, "{body}");
        }
    }
}
