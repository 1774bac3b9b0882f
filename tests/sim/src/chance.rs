//! All chance of a run, drawn from its seed. It must be asked inside the run alone.

use std::time::Duration;

use madsim::rand::{Rng, thread_rng};

/// Whether something happens that does so with this probability.
pub fn happens(probability: f64) -> bool {
    probability > 0.0 && thread_rng().gen_bool(probability.min(1.0))
}

/// A number from `from` on, below `to`; `from` where nothing lies between.
pub fn between(from: u64, to: u64) -> u64 {
    if from >= to { from } else { thread_rng().gen_range(from..to) }
}

/// A time within bounds in milliseconds.
pub fn millis(from: u64, to: u64) -> Duration {
    Duration::from_micros(between(from * 1_000, to * 1_000))
}

/// One of several.
pub fn one_of<T: Clone>(choices: &[T]) -> T {
    let index = usize::try_from(between(0, choices.len() as u64)).expect("an index fits");
    choices[index].clone()
}
