//! The messages that actors of different nodes send each other.
//!
//! The derive of `ractor_cluster` takes care of names and reply ports; what they hold goes as JSON. A
//! message that cannot be decoded must not end the actor that it is for, so decoding gives a result.

use ractor::{BytesConvertable, RpcReplyPort};
use ractor_cluster::RactorClusterMessage;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::kv::types::{AgentError, AgentReply, AgentRequest};

/// A value on its way between nodes, or what is wrong with one that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed<T>(pub Result<T, Undecodable>);

/// Bytes that are no value of the type that is expected: the other node runs another version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Undecodable(String);

impl<T> Packed<T> {
    /// A value to be sent.
    pub fn new(value: T) -> Self {
        Self(Ok(value))
    }
}

impl<T: Serialize + DeserializeOwned> BytesConvertable for Packed<T> {
    fn into_bytes(self) -> Vec<u8> {
        // What could not be decoded is not sent on; no bytes are no JSON either.
        self.0.map(|value| serde_json::to_vec(&value).expect("what is sent is JSON")).unwrap_or_default()
    }

    fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(serde_json::from_slice(&bytes).map_err(|error| Undecodable(error.to_string())))
    }
}

/// What an agent says.
pub type AgentAnswer = Result<AgentReply, AgentError>;

/// What an agent can be sent, by any member. The variant's name must stay stable.
#[derive(RactorClusterMessage)]
pub enum AgentMessage {
    /// A request.
    #[rpc]
    Ask(Packed<AgentRequest>, RpcReplyPort<Packed<AgentAnswer>>),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::types::NodeId;

    #[test]
    fn what_is_packed_arrives_and_nonsense_is_an_error() {
        let request = AgentRequest::TransferLeader { to: Some(NodeId(3)) };
        let bytes = Packed::new(request.clone()).into_bytes();
        assert_eq!(Packed::<AgentRequest>::from_bytes(bytes).0, Ok(request));
        for nonsense in [&b""[..], b"{", b"\xff\x00", br#"{"unknown":1}"#] {
            assert!(Packed::<AgentRequest>::from_bytes(nonsense.to_vec()).0.is_err(), "{nonsense:?}");
        }
        let refused: AgentAnswer = Err(AgentError::NotLeading { node_id: NodeId(1), leader: None });
        let bytes = Packed::new(refused.clone()).into_bytes();
        assert_eq!(Packed::<AgentAnswer>::from_bytes(bytes).0, Ok(refused));
    }
}
