//! Places for those who have yet to show who they are: so many in all, and fewer for one source, which
//! alone never takes them all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::gate::Source;

/// A number of places.
#[derive(Debug)]
pub(super) struct Places {
    room: Arc<Semaphore>,
    max: usize,
    of_source_max: usize,
    taken: Arc<Taken>,
}

/// How many places each source has. Those that have none are not in it.
type Taken = Mutex<HashMap<Source, usize>>;

/// Room for one more, whoever it is.
pub(super) type Room = OwnedSemaphorePermit;

/// A place that is taken while this is held.
#[derive(Debug)]
pub(super) struct Place {
    source: Source,
    taken: Arc<Taken>,
    // Dropped after the source has been counted down.
    _room: Room,
}

impl Places {
    /// So many in all, and so many of them for one source.
    pub(super) fn new(max: usize, of_source_max: usize) -> Self {
        Self { room: Arc::new(Semaphore::new(max)), max, of_source_max, taken: Arc::default() }
    }

    /// Whether half of all places, or of those for this source, are taken.
    pub(super) fn are_half_taken(&self, source: Source) -> bool {
        let of_source = lock(&self.taken).get(&source).copied().unwrap_or(0);
        self.room.available_permits() * 2 <= self.max || of_source * 2 >= self.of_source_max
    }

    /// Waits until there is room.
    pub(super) async fn room(&self) -> Room {
        self.room.clone().acquire_owned().await.expect("the semaphore is never closed")
    }

    /// A place, if there is one left for this source.
    pub(super) fn take(&self, source: Source) -> Option<Place> {
        let room = self.room.clone().try_acquire_owned().ok()?;
        self.take_in(room, source)
    }

    /// The same where there is room.
    pub(super) fn take_in(&self, room: Room, source: Source) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let of_source = taken.get(&source).copied().unwrap_or(0);
        if of_source >= self.of_source_max {
            return None;
        }
        taken.insert(source, of_source + 1);
        drop(taken);
        Some(Place { source, taken: self.taken.clone(), _room: room })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        let of_source = taken.get_mut(&self.source).expect("whoever has a place is counted");
        *of_source -= 1;
        if *of_source == 0 {
            taken.remove(&self.source);
        }
    }
}

fn lock(taken: &Taken) -> MutexGuard<'_, HashMap<Source, usize>> {
    taken.lock().expect("no code panics while it holds this lock")
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use futures::FutureExt;

    use super::*;

    fn source(number: u8) -> Source {
        Source::Ip(IpAddr::V4(Ipv4Addr::new(192, 0, 2, number)))
    }

    #[test]
    fn one_source_takes_its_part_and_leaves_the_rest_to_others() {
        let places = Places::new(4, 3);
        let mut first: Vec<Place> = (0..3).map(|_| places.take(source(1)).unwrap()).collect();
        assert!(places.take(source(1)).is_none());
        let other = places.take(source(2)).unwrap();
        assert!(places.take(source(3)).is_none(), "there are four");
        assert!(places.room().now_or_never().is_none());

        drop(first.pop());
        assert!(places.room().now_or_never().is_some());
        drop(places.take(source(3)).unwrap());
        drop((first, other));
        assert!(lock(&places.taken).is_empty(), "nothing is kept of those who have left");
    }

    #[test]
    fn they_are_half_taken_for_the_source_that_has_half_of_its_own_and_for_all_once_half_are_gone() {
        let places = Places::new(8, 4);
        let mut held = vec![places.take(source(1)).unwrap()];
        assert!(!places.are_half_taken(source(1)));
        held.push(places.take(source(1)).unwrap());
        assert!(places.are_half_taken(source(1)));
        assert!(!places.are_half_taken(source(2)));
        held.extend([places.take(source(2)).unwrap(), places.take(source(3)).unwrap()]);
        assert!(places.are_half_taken(source(4)));
    }
}
