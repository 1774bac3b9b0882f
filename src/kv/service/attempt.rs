//! One attempt to have the leader serve a request, and when another one is harmless.

use std::time::Duration;

use tokio::time::Instant;

use crate::kv::types::{ClusterError, KvError};
use crate::limits;

/// How an attempt ended.
#[derive(Debug)]
pub(super) enum Attempt<T> {
    /// With an answer.
    Done(Result<T, ClusterError>),
    /// Certainly without effect.
    NotDelivered(String),
    /// Without an answer, so that it may have taken effect or may still do so.
    Unknown(String),
}

impl<T> Attempt<T> {
    /// Sorts a refusal by another node, or by Raft, by what it says about the request's fate.
    pub(super) fn of_refusal(error: ClusterError) -> Self {
        match error {
            ClusterError::Kv(KvError::OutcomeUnknown { .. }) => Self::Unknown(error.to_string()),
            ClusterError::Kv(ref kv) if kv.is_transient() => Self::NotDelivered(error.to_string()),
            other => Self::Done(Err(other)),
        }
    }

    pub(super) fn map<U>(self, f: impl FnOnce(T) -> U) -> Attempt<U> {
        match self {
            Self::Done(result) => Attempt::Done(result.map(f)),
            Self::NotDelivered(reason) => Attempt::NotDelivered(reason),
            Self::Unknown(reason) => Attempt::Unknown(reason),
        }
    }

    /// The result of a request that is not tried again.
    pub(super) fn into_result(self, waited_ms: u64) -> Result<T, ClusterError> {
        match self {
            Self::Done(result) => result,
            Self::NotDelivered(reason) => Err(KvError::NoQuorum { waited_ms: 0, reason }.into()),
            Self::Unknown(_) => Err(KvError::OutcomeUnknown { waited_ms }.into()),
        }
    }
}

/// The attempts of one request, within its bound.
pub(super) struct Retry {
    bound_ms: u64,
    ends_at: Instant,
    /// An earlier attempt may have taken effect.
    unknown: bool,
}

impl Retry {
    pub(super) fn within_ms(bound_ms: u64) -> Self {
        Self { bound_ms, ends_at: Instant::now() + Duration::from_millis(bound_ms), unknown: false }
    }

    pub(super) fn left_ms(&self) -> u64 {
        let left = self.ends_at.saturating_duration_since(Instant::now());
        u64::try_from(left.as_millis()).expect("the bound is some seconds").max(1)
    }

    /// Takes an attempt's end: the answer, or none after a pause if there is to be another attempt.
    pub(super) async fn settle<T>(
        &mut self,
        attempt: Attempt<T>,
        repeatable: bool,
    ) -> Result<Option<T>, ClusterError> {
        let reason = match attempt {
            // An earlier attempt that goes on somewhere is in the way of this one.
            Attempt::Done(Err(error @ ClusterError::ChangeInProgress)) if self.unknown => error.to_string(),
            Attempt::Done(Err(error)) => return Err(self.refusal(error)),
            Attempt::Done(Ok(answer)) => return Ok(Some(answer)),
            Attempt::NotDelivered(reason) => reason,
            Attempt::Unknown(reason) if repeatable => {
                self.unknown = true;
                reason
            }
            Attempt::Unknown(reason) => {
                tracing::debug!("a request is not tried again: {reason}");
                return Err(self.outcome_unknown());
            }
        };
        let pause = Duration::from_millis(limits::REQUEST_RETRY_INTERVAL_MS);
        if Instant::now() + pause >= self.ends_at {
            let no_quorum = KvError::NoQuorum { waited_ms: self.bound_ms, reason };
            return Err(if self.unknown { self.outcome_unknown() } else { no_quorum.into() });
        }
        tokio::time::sleep(pause).await;
        Ok(None)
    }

    /// What a refusal says about the request as a whole.
    pub(super) fn refusal(&self, error: ClusterError) -> ClusterError {
        // The session or the restore was known, there was room, or the node was a member, when an earlier attempt
        // took effect, if one did; whoever sent the request would take this refusal for a word about the only
        // attempt.
        let says_nothing_of_earlier_ones = matches!(
            error,
            ClusterError::UnknownNode { .. }
                | ClusterError::Kv(
                    KvError::SessionExpired { .. }
                        | KvError::DiskFull { .. }
                        | KvError::NoSuchRestore { .. }
                        | KvError::Removed { .. }
                )
        );
        if self.unknown && says_nothing_of_earlier_ones { self.outcome_unknown() } else { error }
    }

    fn outcome_unknown(&self) -> ClusterError {
        let waited_ms = self.bound_ms.saturating_sub(self.left_ms());
        KvError::OutcomeUnknown { waited_ms }.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::types::NodeId;

    fn unknown() -> Attempt<()> {
        Attempt::Unknown("cut off".to_owned())
    }

    #[tokio::test]
    async fn a_write_that_must_not_be_repeated_ends_with_its_first_unknown_outcome() {
        let mut retry = Retry::within_ms(1_000);
        let error = retry.settle(unknown(), false).await.unwrap_err();
        assert_eq!(error.code(), "outcome_unknown");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_may_have_taken_effect_never_ends_as_a_clean_failure() {
        let mut retry = Retry::within_ms(50);
        assert_eq!(retry.settle(unknown(), true).await, Ok(None));
        let error = loop {
            match retry.settle::<()>(Attempt::NotDelivered("no leader".to_owned()), true).await {
                Ok(answer) => assert_eq!(answer, None),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), "outcome_unknown");
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_session_is_no_clean_refusal_once_an_attempt_may_have_taken_effect() {
        let expired = || -> Attempt<()> {
            let error = KvError::SessionExpired { forgotten: crate::kv::types::Revision(7) };
            Attempt::Done(Err(error.into()))
        };
        let mut first = Retry::within_ms(1_000);
        assert_eq!(first.settle(expired(), true).await.unwrap_err().code(), "session_expired");
        let mut second = Retry::within_ms(1_000);
        assert_eq!(second.settle(unknown(), true).await, Ok(None));
        assert_eq!(second.settle(expired(), true).await.unwrap_err().code(), "outcome_unknown");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_an_earlier_attempt_may_have_made_is_not_refused_for_what_that_one_did() {
        let gone = || -> Attempt<()> { Attempt::Done(Err(ClusterError::UnknownNode { node_id: NodeId(3) })) };
        let busy = || -> Attempt<()> { Attempt::Done(Err(ClusterError::ChangeInProgress)) };
        let mut first = Retry::within_ms(1_000);
        assert_eq!(first.settle(gone(), true).await.unwrap_err().code(), "unknown_node");
        assert_eq!(first.settle(busy(), true).await.unwrap_err().code(), "change_in_progress");
        let mut second = Retry::within_ms(1_000);
        assert_eq!(second.settle(unknown(), true).await, Ok(None));
        assert_eq!(second.settle(busy(), true).await, Ok(None), "it waits for its own");
        assert_eq!(second.settle(gone(), true).await.unwrap_err().code(), "outcome_unknown");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_never_reached_a_leader_ends_as_no_quorum_within_its_bound() {
        let mut retry = Retry::within_ms(200);
        let started = Instant::now();
        let error = loop {
            match retry.settle::<()>(Attempt::NotDelivered("no leader".to_owned()), false).await {
                Ok(answer) => assert_eq!(answer, None),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), "no_quorum");
        assert!(started.elapsed() <= Duration::from_millis(200));
    }
}
