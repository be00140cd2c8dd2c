//! Values that are one word out of a few.
//!
//! The invariant: every variant has exactly one name, which is read in any case and printed as listed.

use super::Remedy;

/// One word out of a few.
pub trait Named: Copy + PartialEq + 'static {
    /// The words and what they mean, in the order in which help lists them.
    const NAMES: &'static [(&'static str, Self)];

    /// The word for this value.
    fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, value)| *value == self).map_or("", |(name, _)| name)
    }
}

/// How limits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Exactly so many requests in a window that opens with a client's first, as slowapi counts.
    FixedWindow,
    /// A burst of that many, then evenly spread.
    Gcra,
}

/// Whether a request that failed at one backend goes to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It does not.
    Never,
    /// It does if it surely did not run.
    Unsent,
    /// It does also if the backend failed before it began to answer, and so may have run it.
    Unanswered,
}

/// How the lines of the access log are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLogFormat {
    /// A JSON object.
    Json,
    /// The combined log format of the NCSA and Apache servers.
    Combined,
}

/// The least serious messages that are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// What the operator must act on.
    Error,
    /// What the operator should look at.
    Warn,
    /// What the operator may want to know.
    Info,
    /// What helps to find a fault in the gate.
    Debug,
}

impl Named for Strategy {
    const NAMES: &'static [(&'static str, Self)] = &[("fixed-window", Self::FixedWindow), ("gcra", Self::Gcra)];
}

impl Named for Retry {
    const NAMES: &'static [(&'static str, Self)] =
        &[("never", Self::Never), ("unsent", Self::Unsent), ("unanswered", Self::Unanswered)];
}

impl Named for AccessLogFormat {
    const NAMES: &'static [(&'static str, Self)] = &[("json", Self::Json), ("combined", Self::Combined)];
}

impl Named for LogLevel {
    const NAMES: &'static [(&'static str, Self)] =
        &[("error", Self::Error), ("warn", Self::Warn), ("info", Self::Info), ("debug", Self::Debug)];
}

pub(crate) fn choice<T: Named>(text: &str) -> Result<T, Remedy> {
    let found = T::NAMES.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<String> = T::NAMES.iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("write {}", names.join(" or "))
    })
}

pub(crate) fn choice_text<T: Named>(value: T) -> String {
    value.name().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Named + std::fmt::Debug>() {
        for (name, value) in T::NAMES {
            assert_eq!(value.name(), *name);
            assert_eq!(choice::<T>(&name.to_ascii_uppercase()).unwrap(), *value);
        }
        assert!(choice::<T>("").is_err());
    }

    #[test]
    fn every_name_is_read_back() {
        check::<Strategy>();
        check::<Retry>();
        check::<AccessLogFormat>();
        check::<LogLevel>();
    }

    #[test]
    fn the_remedy_lists_the_names() {
        assert_eq!(choice::<LogLevel>("trace"), Err("write `error` or `warn` or `info` or `debug`".to_owned()));
        assert_eq!(choice::<Strategy>("fixed_window"), Err("write `fixed-window` or `gcra`".to_owned()));
    }
}
