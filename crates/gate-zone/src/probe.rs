//! What the monitor last learned of the backend, in one word, so that it is never half written.

/// The monitor's last look at the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// No look yet.
    Unknown,
    /// It answered as Ollama does.
    Healthy,
    /// The connection was refused or could not be made.
    Unreachable,
    /// It did not answer in time.
    Silent,
    /// It answered with another status than 200.
    Status(u16),
    /// What it answered is not HTTP.
    NotHttp,
    /// It answered, and not as Ollama does.
    Foreign,
}

impl Probe {
    /// As a word of the zone; [`Probe::Unknown`] is 0.
    pub fn to_word(self) -> u64 {
        match self {
            Self::Unknown => 0,
            Self::Healthy => 1,
            Self::Unreachable => 2,
            Self::Silent => 3,
            Self::NotHttp => 4,
            Self::Foreign => 6,
            Self::Status(status) => 5 | u64::from(status) << 8,
        }
    }

    /// From a word of the zone. A word that means nothing reads as [`Probe::Unknown`].
    pub fn from_word(word: u64) -> Self {
        match word & 0xff {
            1 => Self::Healthy,
            2 => Self::Unreachable,
            3 => Self::Silent,
            4 => Self::NotHttp,
            6 => Self::Foreign,
            5 => Self::Status((word >> 8) as u16),
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_word() {
        let all = [Probe::Unknown, Probe::Healthy, Probe::Unreachable, Probe::Silent, Probe::NotHttp, Probe::Foreign];
        for probe in all.into_iter().chain([Probe::Status(503), Probe::Status(u16::MAX)]) {
            assert_eq!(Probe::from_word(probe.to_word()), probe);
        }
        assert_eq!(Probe::from_word(0), Probe::Unknown);
        assert_eq!(Probe::from_word(77), Probe::Unknown);
    }
}
