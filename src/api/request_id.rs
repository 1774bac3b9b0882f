//! What a request is called in the answer and in the node's log.
//!
//! A client may name it, so that its own log and the node's are about the same request. Where it does not,
//! a request that fails gets a name.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::limits;

/// Where the name stands, in a request and in its answer.
pub(super) const HEADER: HeaderName = HeaderName::from_static("x-request-id");

/// The name of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The name that the client has given, if it can stand in a log.
    pub(super) fn sent(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(HEADER)?;
        let is_fit = (1..=limits::REQUEST_ID_MAX_BYTES).contains(&value.len())
            && value.as_bytes().iter().all(u8::is_ascii_graphic);
        is_fit.then(|| Self(value.clone()))
    }

    /// A name that no other request of this process has.
    pub(super) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", std::process::id());
        Self(HeaderValue::from_str(&name).expect("digits and a dash can stand in a header"))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().expect("a name is of visible ASCII")
    }
}

impl From<RequestId> for HeaderValue {
    fn from(RequestId(value): RequestId) -> Self {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(value: &[u8]) -> Option<RequestId> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
        RequestId::sent(&headers)
    }

    #[test]
    fn a_name_that_can_stand_in_a_log_is_kept() {
        assert_eq!(sent(b"deploy/7").unwrap().as_str(), "deploy/7");
        assert!(sent(&[b'a'; limits::REQUEST_ID_MAX_BYTES]).is_some());
    }

    #[test]
    fn a_name_that_is_empty_too_long_or_not_of_visible_ascii_is_left_out() {
        let long = [b'a'; limits::REQUEST_ID_MAX_BYTES + 1];
        for unfit in [&b""[..], b"two words", "\u{e9}".as_bytes(), b"a\tb", &long] {
            assert_eq!(sent(unfit), None, "{unfit:?}");
        }
    }

    #[test]
    fn new_names_differ() {
        assert_ne!(RequestId::new(), RequestId::new());
    }
}
