//! What a node that founds a cluster with others waits for, as its status tells it.

use std::sync::{Arc, Mutex, MutexGuard};

/// A sentence that changes while a cluster is founded. Clones share it.
#[derive(Clone, Debug)]
pub struct FoundingProgress(Arc<Mutex<String>>);

impl FoundingProgress {
    /// Begins with a sentence.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(Arc::new(Mutex::new(sentence.into())))
    }

    /// What is waited for.
    pub fn sentence(&self) -> String {
        self.lock().clone()
    }

    /// Says something else; returns whether it is news.
    pub fn say(&self, sentence: &str) -> bool {
        let mut now = self.lock();
        let is_news = *now != sentence;
        sentence.clone_into(&mut now);
        is_news
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.0.lock().expect("no code panics while it holds this lock")
    }
}
