//! Streams of numbered requests and their answers, many in a message, in whatever order they are ready.
//!
//! Nodes forward on such a stream what their clients ask, and clients ask on one. One end sends
//! ([`mod@line`]), the other answers ([`serve`]).
//!
//! # Tiger Style
//! A message with more than [`limits::FORWARD_BATCH_MAX_COUNT`] requests or answers is refused while it
//! is decoded.

pub(super) mod line;
pub(super) mod serve;

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::limits;

/// What takes up room in a message.
pub(super) trait Payload {
    /// Length of the keys, values or commands in it.
    fn payload_bytes(&self) -> usize;
}

/// Requests, each with a number of its own on its stream, or answers with the numbers of their requests.
#[derive(Debug, Serialize)]
pub(super) struct Numbered<T>(pub Vec<(u64, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Numbered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Bounded(PhantomData))
    }
}

struct Bounded<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
    type Value = Numbered<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} numbered messages", limits::FORWARD_BATCH_MAX_COUNT)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
        let mut batch = Vec::new();
        while let Some(numbered) = seq.next_element()? {
            if batch.len() == limits::FORWARD_BATCH_MAX_COUNT {
                return Err(S::Error::invalid_length(batch.len() + 1, &self));
            }
            batch.push(numbered);
        }
        Ok(Numbered(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_its_list_on_the_wire_and_may_not_be_longer_than_its_bound() {
        let longest: Vec<(u64, u8)> = (0..limits::FORWARD_BATCH_MAX_COUNT as u64).map(|n| (n, 7)).collect();
        let bytes = postcard::to_stdvec(&Numbered(longest.clone())).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&longest).unwrap());
        assert_eq!(postcard::from_bytes::<Numbered<u8>>(&bytes).unwrap().0, longest);

        let too_long = [&longest[..], &longest[..1]].concat();
        let bytes = postcard::to_stdvec(&too_long).unwrap();
        assert!(postcard::from_bytes::<Numbered<u8>>(&bytes).is_err());
    }
}
