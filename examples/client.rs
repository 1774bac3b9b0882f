//! An application that counts visitors, over HTTP: it reads, writes, compares before it writes, and goes through
//! many keys page by page.
//!
//! ```text
//! aspen-node &
//! cargo run --example client -- http://127.0.0.1:4600
//! ```
//!
//! It takes the addresses of several members, too, and goes on with the others when one does not answer.

#![allow(clippy::print_stdout, reason = "it says what it did")]

use anyhow::{Context, ensure};
use aspen::kv::client::{Address, KvClient};
use aspen::kv::types::{
    Compare, CompareOp, CompareTarget, Key, KeyRange, KeyValue, Revision, Txn, TxnOp, Value,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let addresses: Vec<Address> =
        std::env::args().skip(1).map(|given| given.parse()).collect::<Result<_, _>>()?;
    ensure!(!addresses.is_empty(), "usage: client ADDRESS...");
    for line in run(&KvClient::builder().addresses(addresses).build()?).await? {
        println!("{line}");
    }
    Ok(())
}

/// Does all of it, and says what came of it.
///
/// # Errors
/// Those of the cluster, and that somebody else changes the same keys.
pub async fn run(client: &KvClient) -> anyhow::Result<Vec<String>> {
    let mut said = Vec::new();

    let name = Key::new("visitors/name")?;
    let written = client.put(name.clone(), Value::new("front door")?).await?;
    let found = client.get(name.clone()).await?.context("it has just been written")?;
    ensure!(found.mod_revision == written.revision, "somebody else writes it, too");
    said.push(format!("{} is {}", text(name.as_bytes()), text(found.value.as_bytes())));

    let counter = Key::new("visitors/count")?;
    for _ in 0..3 {
        count_one(client, &counter).await?;
    }
    let count = client.get(counter).await?.context("it has been counted")?;
    said.push(format!("{} visitors, in {} writes", text(count.value.as_bytes()), count.version));

    let visitors: Vec<(Key, Value)> = (0..2_500)
        .map(|number| Ok((Key::new(format!("visitor/{number:04}"))?, Value::new("here")?)))
        .collect::<anyhow::Result<_>>()?;
    // Each call is one write, all of whose keys have the same revision.
    for some in visitors.chunks(100) {
        client.set_multi(some.iter().cloned()).await?;
    }
    said.push(format!("{} keys begin with visitor/", all(client, b"visitor/").await?.len()));

    // A call deletes so many keys at most.
    let mut deleted = 0;
    loop {
        let done = client.delete_prefix("visitor").await?;
        deleted += done.deleted;
        if !done.more {
            break;
        }
    }
    said.push(format!("{deleted} keys are deleted"));
    Ok(said)
}

/// Adds one to a number, whoever else does the same: it is only written if it is still what was read.
async fn count_one(client: &KvClient, counter: &Key) -> anyhow::Result<()> {
    loop {
        let found = client.get(counter.clone()).await?;
        // A key that is not there was changed at revision 0.
        let changed_at = found.as_ref().map_or(Revision(0), |kv| kv.mod_revision);
        let count: u64 = found.map_or(Ok(0), |kv| text(kv.value.as_bytes()).parse())?;
        let is_unchanged = Compare {
            key: counter.clone(),
            op: CompareOp::Equal,
            target: CompareTarget::ModRevision(changed_at),
        };
        let next = TxnOp::Put { key: counter.clone(), value: Value::new((count + 1).to_string())?, lease: 0 };
        let txn = Txn { compare: vec![is_unchanged], success: vec![next], failure: vec![] };
        // An error whose outcome is unknown ends this: counting again might count twice.
        if client.txn(txn).await?.succeeded {
            return Ok(());
        }
    }
}

/// All keys with a prefix. A page has a bounded number of keys, so the next one begins behind its last.
async fn all(client: &KvClient, prefix: &[u8]) -> anyhow::Result<Vec<KeyValue>> {
    let (mut found, mut start) = (Vec::new(), prefix.to_vec());
    loop {
        let page = client.range(KeyRange::Span { start: start.clone().into(), end: end_of(prefix) }).await?;
        found.extend(page.range.kvs);
        let Some(last) = found.last().filter(|_| page.range.more) else { return Ok(found) };
        start = [last.key.as_bytes(), &[0]].concat();
    }
}

/// The first key behind all with this prefix, whose last byte is not the greatest there is.
fn end_of(prefix: &[u8]) -> Option<bytes::Bytes> {
    let (last, before) = prefix.split_last()?;
    Some([before, &[last + 1]].concat().into())
}

fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
