//! When a backend is asked what.
//!
//! It asks nothing, and knows no answer but for what follows from it: when the next question is due.
//!
//! Invariant: only a healthy backend is asked for its models.

use std::time::Duration;

use tokio::time::Instant;

use crate::spread::Spread;

/// How often a healthy backend is asked.
const HEALTHY_PAUSE: Duration = Duration::from_secs(2);

/// How often one is asked that is not: an operator who has just started Ollama watches `/readyz`.
const SICK_PAUSE: Duration = Duration::from_millis(250);

/// How often for the models in memory. Ollama answers from its own memory, in microseconds.
const IN_MEMORY_PAUSE: Duration = Duration::from_secs(1);

/// How often while it loads one, for which requests may wait.
const LOADING_PAUSE: Duration = Duration::from_millis(500);

/// How often for the models that it lists. Ollama reads all manifests from disk for it.
const LISTED_PAUSE: Duration = Duration::from_secs(10);

/// How soon for those when it has one in memory that it did not list, at most.
const NEW_MODEL_PAUSE: Duration = Duration::from_millis(500);

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Question {
    /// Does it answer as Ollama does?
    Health,
    /// What has it in memory?
    InMemory,
    /// Which models does it list?
    Listed,
}

/// What the answer to a question for models was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A list.
    List,
    /// It has no such list.
    NoList,
    /// None for now: it may not be healthy any more.
    NotNow,
}

/// When each question is due.
#[derive(Debug)]
pub(crate) struct Agenda {
    health: Instant,
    in_memory: Option<Instant>,
    listed: Option<Instant>,
    spread: Spread,
}

impl Agenda {
    /// Asks first for its health, and at once.
    pub(crate) fn new(now: Instant, spread: Spread) -> Self {
        Self { health: now, in_memory: None, listed: None, spread }
    }

    /// The next question, and when.
    pub(crate) fn next(&self) -> (Instant, Question) {
        let due = |at: Option<Instant>, question| at.map(|at| (at, question));
        let rest = [due(self.in_memory, Question::InMemory), due(self.listed, Question::Listed)];
        // Health goes first where two are due: what it says may make the others pointless.
        rest.into_iter().flatten().fold(
            (self.health, Question::Health),
            |first, other| {
                if other.0 < first.0 { other } else { first }
            },
        )
    }

    /// It was healthy: what it has is asked for at once where that is not known.
    pub(crate) fn healthy(&mut self, now: Instant) {
        self.health = now + self.spread.around(HEALTHY_PAUSE);
        self.in_memory.get_or_insert(now);
        self.listed.get_or_insert(now);
    }

    /// It has just become healthy: nothing that was known of it counts.
    pub(crate) fn recovered(&mut self, now: Instant) {
        self.sick(now);
        self.healthy(now);
    }

    /// It was not: nothing else is asked until it is.
    pub(crate) fn sick(&mut self, now: Instant) {
        self.health = now + self.spread.around(SICK_PAUSE);
        (self.in_memory, self.listed) = (None, None);
    }

    /// It was asked for the models in memory; `loading` says whether it is known to load one.
    pub(crate) fn asked_in_memory(&mut self, now: Instant, answer: Answer, loading: Loading) {
        let pause = match (answer, loading) {
            (Answer::NoList, _) => LISTED_PAUSE,
            (_, Loading::Yes) => LOADING_PAUSE,
            (_, Loading::No) => IN_MEMORY_PAUSE,
        };
        self.in_memory = Some(now + self.spread.around(pause));
        self.doubt(now, answer);
    }

    /// It was asked for the models that it lists.
    pub(crate) fn asked_listed(&mut self, now: Instant, answer: Answer) {
        let pause = if answer == Answer::NotNow { HEALTHY_PAUSE } else { LISTED_PAUSE };
        self.listed = Some(now + self.spread.around(pause));
        self.doubt(now, answer);
    }

    /// It has a model that it did not list.
    pub(crate) fn has_a_new_model(&mut self, now: Instant) {
        let soon = now + self.spread.within(NEW_MODEL_PAUSE);
        self.listed = self.listed.map(|at| at.min(soon));
    }

    /// Whoever has no answer is asked for its health soon.
    fn doubt(&mut self, now: Instant, answer: Answer) {
        if answer == Answer::NotNow {
            self.health = self.health.min(now + self.spread.within(SICK_PAUSE));
        }
    }
}

/// Whether a backend is known to load a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Loading {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(from: Instant, to: Instant) -> u128 {
        (to - from).as_millis()
    }

    #[test]
    fn the_sick_are_asked_for_nothing_else() {
        let now = Instant::now();
        let mut agenda = Agenda::new(now, Spread::new(1));
        assert_eq!(agenda.next(), (now, Question::Health));
        agenda.healthy(now);
        assert_eq!(agenda.next(), (now, Question::InMemory));
        agenda.sick(now);
        let (at, question) = agenda.next();
        assert!(question == Question::Health && (200..=300).contains(&ms(now, at)));
    }

    #[test]
    fn a_healthy_one_is_asked_for_all_at_its_pace() {
        let start = Instant::now();
        let mut agenda = Agenda::new(start, Spread::new(1));
        let mut counts = [0; 3];
        loop {
            let (now, question) = agenda.next();
            if ms(start, now) >= 100_000 {
                break;
            }
            counts[question as usize] += 1;
            match question {
                Question::Health => agenda.healthy(now),
                Question::InMemory => agenda.asked_in_memory(now, Answer::List, Loading::No),
                Question::Listed => agenda.asked_listed(now, Answer::List),
            }
        }
        let [health, in_memory, listed] = counts;
        assert!((48..=53).contains(&health), "{counts:?}");
        assert!((96..=105).contains(&in_memory), "{counts:?}");
        assert!((10..=11).contains(&listed), "{counts:?}");
    }

    #[test]
    fn answers_decide_when_it_is_asked_again() {
        let now = Instant::now();
        for (answer, loading, expected) in [
            (Answer::List, Loading::No, 875..=1125),
            (Answer::List, Loading::Yes, 437..=563),
            (Answer::NoList, Loading::Yes, 8750..=11250),
            (Answer::NotNow, Loading::No, 875..=1125),
        ] {
            let mut agenda = Agenda::new(now, Spread::new(1));
            agenda.healthy(now);
            agenda.asked_in_memory(now, answer, loading);
            assert!(expected.contains(&ms(now, agenda.in_memory.unwrap())), "{answer:?} {loading:?}");
            assert_eq!(ms(now, agenda.health) < 250, answer == Answer::NotNow, "{answer:?}");
        }
    }

    #[test]
    fn a_new_model_is_looked_for_soon() {
        let now = Instant::now();
        let mut agenda = Agenda::new(now, Spread::new(1));
        agenda.has_a_new_model(now);
        assert_eq!(agenda.listed, None, "not while it is sick");
        agenda.healthy(now);
        agenda.asked_listed(now, Answer::List);
        agenda.has_a_new_model(now);
        assert!(ms(now, agenda.listed.unwrap()) < 500);
    }
}
