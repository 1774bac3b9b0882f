//! The processor time that nodes have used, by their own account in `/metrics`.
//!
//! # Tiger Style
//! Each node answers within [`limits::BENCH_FIGURES_TIMEOUT_MS`], and a page has at most
//! [`limits::BENCH_FIGURES_MAX_BYTES`].

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::OperationError;
use super::http::HttpNodes;
use crate::kv::client::Address;
use crate::limits;

const FIGURE: &str = "process_cpu_seconds_total ";

/// Seconds of processor time of all nodes since each was started.
///
/// # Errors
/// If a node does not say, or not in time.
pub async fn used_s(nodes: &HttpNodes) -> Result<f64, OperationError> {
    let mut used_s = 0.0;
    for address in &nodes.addresses {
        let bound = Duration::from_millis(limits::BENCH_FIGURES_TIMEOUT_MS);
        let asked = tokio::time::timeout(bound, of_node(nodes, address)).await;
        used_s += asked.unwrap_or_else(|_| {
            Err(OperationError(format!("{address}/metrics: no answer within {} ms", bound.as_millis())))
        })?;
    }
    Ok(used_s)
}

async fn of_node(nodes: &HttpNodes, address: &Address) -> Result<f64, OperationError> {
    let failed = |error: &dyn std::fmt::Display| OperationError(format!("{address}/metrics: {error}"));
    let stream = TcpStream::connect(address.authority()).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    tokio::spawn(connection);
    let mut request = Request::get("/metrics").header(header::HOST, address.authority());
    if let Some(token) = &nodes.token {
        request = request.header(header::AUTHORIZATION, token.header());
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).expect("checked parts make a request");
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let body = Limited::new(response.into_body(), limits::BENCH_FIGURES_MAX_BYTES);
    let body = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let value = text.lines().find_map(|line| line.strip_prefix(FIGURE)?.trim().parse().ok());
    value.ok_or_else(|| failed(&"no process_cpu_seconds_total"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_node_that_takes_the_connection_and_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let nodes = HttpNodes { addresses: vec![address], token: None, cluster_id: None };
        tokio::time::pause();
        let error = used_s(&nodes).await.unwrap_err();
        assert!(error.0.ends_with("/metrics: no answer within 2000 ms"), "{error}");
    }
}
