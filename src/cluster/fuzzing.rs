//! What must hold of messages to and from agents, whatever is in them: a target of `fuzz/`.
//!
//! The frames around them are those of `ractor_cluster`, whose own decoder cannot be called alone.

use ractor::message::SerializedMessage;
use ractor::{BytesConvertable, Message};
use tokio::runtime::{Builder, Runtime};

use super::messages::{AgentAnswer, AgentMessage, Packed};
use crate::kv::types::{AgentError, AgentRequest, NodeId};
use crate::storage::fuzzing::Seeds;

/// A call, an answer, or what is packed in one; the first byte says which.
///
/// A message that makes no sense is an error for its receiver. What makes sense survives another way.
pub(crate) fn wire_actor(input: &[u8]) -> bool {
    let Some((&kind, bytes)) = input.split_first() else { return false };
    match kind {
        b'c' => is_call(bytes),
        b'q' => survives::<AgentRequest>(bytes),
        b'a' => survives::<AgentAnswer>(bytes),
        _ => false,
    }
}

/// Runs work that leaves tasks behind, which pass replies on, and ends them.
fn with_tasks<T>(work: impl FnOnce() -> T) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().build().expect("a runtime needs little");
    }
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let outcome = work();
            tokio::task::yield_now().await;
            outcome
        })
    })
}

fn is_call(args: &[u8]) -> bool {
    with_tasks(|| {
        let (reply, _receiver) = ractor::concurrency::oneshot();
        let call = SerializedMessage::Call {
            variant: "Ask".to_owned(),
            args: args.to_vec(),
            reply: reply.into(),
            metadata: None,
        };
        AgentMessage::deserialize(call).is_ok_and(|AgentMessage::Ask(Packed(request), _)| request.is_ok())
    })
}

fn survives<T>(bytes: &[u8]) -> bool
where
    T: Clone + std::fmt::Debug + PartialEq + serde::Serialize + serde::de::DeserializeOwned,
{
    let Packed(Ok(value)) = Packed::<T>::from_bytes(bytes.to_vec()) else { return false };
    let again = Packed::<T>::from_bytes(Packed::new(value.clone()).into_bytes());
    assert_eq!(again.0.as_ref(), Ok(&value), "a message changes on its way");
    true
}

pub(crate) fn actor_seeds() -> Seeds {
    let request = AgentRequest::TransferLeader { to: Some(NodeId(3)) };
    let args = with_tasks(|| {
        let (reply, _receiver) = ractor::concurrency::oneshot();
        let call = AgentMessage::Ask(Packed::new(request.clone()), reply.into());
        match call.serialize() {
            Ok(SerializedMessage::Call { args, .. }) => args,
            _ => panic!("a request is sent as a call"),
        }
    });
    let answer: AgentAnswer = Err(AgentError::NotLeading { node_id: NodeId(1), leader: Some(NodeId(2)) });
    let of = |kind: u8, bytes: &[u8]| [&[kind][..], bytes].concat();
    vec![
        ("call", of(b'c', &args)),
        ("request", of(b'q', &Packed::new(request).into_bytes())),
        ("filter", of(b'q', &Packed::new(AgentRequest::SetLogFilter { filter: None }).into_bytes())),
        ("answer", of(b'a', &Packed::new(answer).into_bytes())),
    ]
}
