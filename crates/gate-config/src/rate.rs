//! Rate strings: `10/minute`, `100/hour;10/second`, `5 per 2 seconds`.
//!
//! The grammar is the one of the Python library `limits`, so that a string which worked under slowapi means the same
//! here: `COUNT (/|per) [N] UNIT`, blanks free, letters of any case, several limits separated by `,`, `;` or `|`.
//! Three things differ: a string that does not parse is an error (there it quietly switches the limit off), counts and
//! windows are bounded, and the word `none` is the empty list.
//!
//! This module reads and prints rates; counting is not its business. The invariant: a [`Rate`] from [`parse_many`] has
//! an amount of at most [`AMOUNT_MAX`] and a window between one second and [`WINDOW_MAX`].

use std::fmt;
use std::time::Duration;

/// The largest count: what a limiter word can hold together with its tag and its window's end.
pub const AMOUNT_MAX: u64 = 1_000_000_000;

/// The longest window: a leap year, beyond which no limiter clock was designed to compare ends.
pub const WINDOW_MAX: Duration = Duration::from_secs(366 * 86_400);

/// What a string must look like, as the errors say it.
const GRAMMAR: &str = "`10/minute`, `5 per 2 seconds` or `100/hour;10/second` (units: second, minute, hour, day, month, \
                       year), or `none`";

/// So many requests in a window of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Requests that pass in one window; 0 refuses all of them.
    pub amount: u64,
    /// How many units the window lasts; at least 1.
    pub multiples: u64,
    /// What the window is counted in.
    pub unit: Unit,
}

/// What a window is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unit {
    /// One second.
    Second,
    /// 60 seconds.
    Minute,
    /// 60 minutes.
    Hour,
    /// 24 hours.
    Day,
    /// 30 days.
    Month,
    /// 360 days: twelve months, as `limits` counts them.
    Year,
}

/// Why a string is not a list of rates; the variants all blame the string.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RateError {
    /// The string does not follow the grammar.
    Grammar,
    /// The word where a unit belongs is not one.
    Unit(String),
    /// A count is above [`AMOUNT_MAX`].
    Amount,
    /// A window is longer than [`WINDOW_MAX`].
    Window,
}

/// Reads a list of rates, in the order written; `none` is the empty list.
///
/// # Errors
/// A [`RateError`] for a string outside the grammar or a number outside its bounds.
pub fn parse_many(text: &str) -> Result<Vec<Rate>, RateError> {
    if text.trim_matches(is_blank).eq_ignore_ascii_case("none") {
        return Ok(Vec::new());
    }
    let mut rest = Rest(text);
    let mut rates = vec![rest.rate()?];
    while !rest.0.is_empty() {
        rest.separator()?;
        rates.push(rest.rate()?);
    }
    Ok(rates)
}

impl Rate {
    /// How long one window lasts.
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.unit.seconds().saturating_mul(self.multiples))
    }

    /// The short spelling, which [`parse_many`] reads back: `10/minute`, `5/2 seconds`.
    pub fn short(&self) -> String {
        match self.multiples {
            1 => format!("{}/{}", self.amount, self.unit.name()),
            many => format!("{}/{many} {}s", self.amount, self.unit.name()),
        }
    }
}

/// The form that clients read when they are refused: `10 per 1 minute`.
impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} per {} {}", self.amount, self.multiples, self.unit.name())
    }
}

impl Unit {
    const ALL: [Self; 6] = [Self::Second, Self::Minute, Self::Hour, Self::Day, Self::Month, Self::Year];

    /// The length of one unit.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
            Self::Month => 30 * 86_400,
            Self::Year => 360 * 86_400,
        }
    }

    /// The unit's name in the singular.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Second => "second",
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// The unit that this word names, in any case, in the singular or with one `s`.
    fn named(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Self::ALL.into_iter().find(|unit| word.strip_prefix(unit.name()).is_some_and(|tail| matches!(tail, "" | "s")))
    }
}

impl fmt::Display for RateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grammar => write!(f, "write a rate like {GRAMMAR}"),
            Self::Unit(word) => write!(f, "`{word}` is no unit; write a rate like {GRAMMAR}"),
            Self::Amount => write!(f, "write a count of at most {AMOUNT_MAX}"),
            Self::Window => write!(f, "write a window of at most {} days", WINDOW_MAX.as_secs() / 86_400),
        }
    }
}

impl std::error::Error for RateError {}

/// The part of the string that is still to be read.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn rate(&mut self) -> Result<Rate, RateError> {
        self.take(is_blank);
        let amount = number(self.take(|c| c.is_ascii_digit())).ok_or(RateError::Grammar)?;
        self.take(is_blank);
        self.per()?;
        self.take(is_blank);
        // `limits` takes a 0 for a multiple that was left out.
        let multiples = number(self.take(|c| c.is_ascii_digit())).map_or(1, |typed| typed.max(1));
        self.take(is_blank);
        let word = self.take(|c| c.is_ascii_alphabetic());
        self.take(is_blank);
        if word.is_empty() {
            return Err(RateError::Grammar);
        }
        let unit = Unit::named(word).ok_or_else(|| RateError::Unit(word.to_owned()))?;
        let rate = Rate { amount, multiples, unit };
        match rate {
            Rate { amount, .. } if amount > AMOUNT_MAX => Err(RateError::Amount),
            _ if rate.window() > WINDOW_MAX => Err(RateError::Window),
            _ => Ok(rate),
        }
    }

    /// The `/` or the word `per` between a count and its window.
    fn per(&mut self) -> Result<(), RateError> {
        let length = match self.0.as_bytes() {
            [b'/', ..] => 1,
            [p, e, r, ..] if [p, e, r].map(u8::to_ascii_lowercase) == *b"per" => 3,
            _ => return Err(RateError::Grammar),
        };
        self.0 = &self.0[length..];
        Ok(())
    }

    /// What stands between two rates. The stray colon is a slip of the expression in `limits`, kept so that every
    /// string which works there works here.
    fn separator(&mut self) -> Result<(), RateError> {
        let rest = self.0.strip_prefix(':').unwrap_or(self.0);
        self.0 = rest.strip_prefix([',', ';', '|']).ok_or(RateError::Grammar)?;
        Ok(())
    }

    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }
}

/// A blank as Python sees it: Unicode's white space and the four ASCII separators.
fn is_blank(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A number that stops at the largest `u64` (far above every bound); `None` for no digits.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    Some(digits.bytes().fold(0, |sum: u64, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

#[cfg(test)]
mod tests;
