//! The newest warnings and errors, kept in memory for those who look for what is wrong.
//!
//! It must never keep more than the sentence: what stands beside it in fields may be anything.
//!
//! # Tiger Style
//! The newest [`limits::RECENT_PROBLEMS_MAX_COUNT`], each with the first
//! [`limits::RECENT_PROBLEM_MAX_BYTES`] of its sentence.

use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::limits;

/// A warning or an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// When it was logged.
    pub at: SystemTime,
    /// How bad it is.
    pub level: Level,
    /// The module that it is from.
    pub target: String,
    /// The sentence.
    pub message: String,
}

/// The newest problems. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RecentProblems(Arc<Mutex<VecDeque<Problem>>>);

impl RecentProblems {
    /// All that are kept, the oldest first.
    pub fn all(&self) -> Vec<Problem> {
        self.lock().iter().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Problem>> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}

impl<S: Subscriber> Layer<S> for RecentProblems {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut sentence = Sentence::default();
        event.record(&mut sentence);
        let target = event.metadata().target().to_owned();
        let mut problems = self.lock();
        if problems.len() == limits::RECENT_PROBLEMS_MAX_COUNT {
            problems.pop_front();
        }
        problems.push_back(Problem { at: SystemTime::now(), level, target, message: sentence.0 });
    }
}

/// The message of an event, cut to what is kept of it.
#[derive(Default)]
struct Sentence(String);

impl Visit for Sentence {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // An error says that the sentence is full.
            write!(self, "{value:?}").ok();
        }
    }
}

impl Write for Sentence {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = limits::RECENT_PROBLEM_MAX_BYTES - self.0.len();
        let end = text.floor_char_boundary(room);
        self.0.push_str(&text[..end]);
        if end == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;

    use super::*;

    #[test]
    fn the_newest_sentences_are_kept_without_their_fields() {
        let problems = RecentProblems::default();
        let _guard = tracing_subscriber::registry().with(problems.clone()).set_default();
        tracing::info!("all is well");
        tracing::warn!(token = "secret", "sentence {}", 0);
        tracing::error!("é{}", "é".repeat(limits::RECENT_PROBLEM_MAX_BYTES));
        let kept = problems.all();
        assert_eq!(kept.len(), 2);
        assert_eq!((kept[0].level, kept[0].message.as_str()), (Level::WARN, "sentence 0"));
        assert!(!format!("{kept:?}").contains("secret"));
        assert_eq!(kept[1].message.len(), limits::RECENT_PROBLEM_MAX_BYTES);

        for number in 1..=limits::RECENT_PROBLEMS_MAX_COUNT {
            tracing::warn!("sentence {number}");
        }
        let kept = problems.all();
        assert_eq!(kept.len(), limits::RECENT_PROBLEMS_MAX_COUNT);
        assert_eq!(kept[0].message, "sentence 1");
    }
}
