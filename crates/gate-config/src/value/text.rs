//! Names and paths: kept as text, checked only for what could not work anywhere.
//!
//! Whether a user exists or a file can be opened is for the process that uses them.

use std::path::{Path, PathBuf};

use super::Remedy;

/// `PATH_MAX` without its closing zero byte.
const PATH_BYTES_MAX: usize = 4_095;

/// `LOGIN_NAME_MAX` without its closing zero byte.
const NAME_BYTES_MAX: usize = 255;

/// Ollama refuses longer parts of a name; a full name has four.
const MODEL_BYTES_MAX: usize = 4 * 80;

/// Where the access log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// To standard output.
    Stdout,
    /// To this file, opened again on request.
    File(PathBuf),
}

pub(crate) fn access_log(text: &str) -> Result<AccessLog, Remedy> {
    match text.trim() {
        "off" => Ok(AccessLog::Off),
        "-" => Ok(AccessLog::Stdout),
        path => file(path).map(AccessLog::File).map_err(|remedy| remedy + ", or `-` for standard output, or `off`"),
    }
}

pub(crate) fn access_log_text(log: &AccessLog) -> String {
    match log {
        AccessLog::Off => "off".to_owned(),
        AccessLog::Stdout => "-".to_owned(),
        AccessLog::File(path) => path.display().to_string(),
    }
}

/// A path; `None` for empty text.
pub(crate) fn path(text: &str) -> Result<Option<PathBuf>, Remedy> {
    if text.trim().is_empty() { Ok(None) } else { file(text.trim()).map(Some) }
}

pub(crate) fn path_text(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

/// A user or a group, by name or number; `None` for empty text.
pub(crate) fn account(text: &str) -> Result<Option<String>, Remedy> {
    let text = text.trim();
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // The kernel reads the largest number as "leave it as it is".
    let number_works = !is_number || text.parse::<u32>().is_ok_and(|number| number != u32::MAX);
    let name_works = text.len() <= NAME_BYTES_MAX
        && !text.starts_with('-')
        && !text.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '/'));
    match text {
        "" => Ok(None),
        _ if number_works && name_works => Ok(Some(text.to_owned())),
        _ => Err("write a name without blanks, or a number below 4294967295".to_owned()),
    }
}

/// A model as Ollama names them; `None` for empty text.
pub(crate) fn model(text: &str) -> Result<Option<String>, Remedy> {
    let text = text.trim();
    let works = text.len() <= MODEL_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ':' | '/' | '@'));
    match text {
        "" => Ok(None),
        _ if works => Ok(Some(text.to_owned())),
        _ => Err("write a model's name such as `llama3.2` or `qwen3:8b`".to_owned()),
    }
}

pub(crate) fn name_text(name: Option<&str>) -> String {
    name.unwrap_or_default().to_owned()
}

fn file(text: &str) -> Result<PathBuf, Remedy> {
    let works = !text.is_empty() && text.len() <= PATH_BYTES_MAX && !text.contains(char::is_control);
    works
        .then(|| PathBuf::from(text))
        .ok_or_else(|| format!("write a path of at most {PATH_BYTES_MAX} bytes without control characters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_logs() {
        assert_eq!(access_log("off"), Ok(AccessLog::Off));
        assert_eq!(access_log(" - "), Ok(AccessLog::Stdout));
        assert_eq!(access_log("./off"), Ok(AccessLog::File("./off".into())));
        for text in ["", "a\nb", "a\0b"] {
            assert!(access_log(text).unwrap_err().ends_with("or `off`"), "{text:?}");
        }
        for text in ["off", "-", "/var/log/gate log"] {
            assert_eq!(access_log_text(&access_log(text).unwrap()), text);
        }
    }

    #[test]
    fn paths() {
        assert_eq!(path(""), Ok(None));
        assert_eq!(path("/run/gate.pid"), Ok(Some("/run/gate.pid".into())));
        assert!(path(&"x".repeat(4_095)).is_ok());
        assert!(path(&"x".repeat(4_096)).is_err());
        assert!(path("a\u{7f}").is_err());
    }

    #[test]
    fn accounts() {
        for text in ["www-data", "1000", "0", "user@domain", "4294967294"] {
            assert_eq!(account(text), Ok(Some(text.to_owned())), "{text}");
        }
        assert_eq!(account(" "), Ok(None));
        for text in ["a b", "a:b", "-1", "4294967295", "99999999999", "a,b", &"x".repeat(256)] {
            assert!(account(text).is_err(), "{text}");
        }
    }

    #[test]
    fn models() {
        for text in ["llama3.2", "qwen3:8b", "hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", "_x"] {
            assert_eq!(model(text), Ok(Some(text.to_owned())), "{text}");
        }
        assert_eq!(model(""), Ok(None));
        for text in ["a b", "a,b", "-a", "/a", "ä", "a\"b", &"x".repeat(321)] {
            assert!(model(text).is_err(), "{text}");
        }
    }
}
