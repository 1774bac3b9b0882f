//! The processor time that nodes have used, by their own account in `/metrics`.

use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::OperationError;
use super::http::HttpNodes;
use crate::kv::client::Address;

const FIGURE: &str = "process_cpu_seconds_total ";

/// Seconds of processor time of all nodes since each was started.
///
/// # Errors
/// If a node does not say.
pub async fn used_s(nodes: &HttpNodes) -> Result<f64, OperationError> {
    let mut used_s = 0.0;
    for address in &nodes.addresses {
        used_s += of_node(nodes, address).await?;
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
    let body = response.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    let value = text.lines().find_map(|line| line.strip_prefix(FIGURE)?.trim().parse().ok());
    value.ok_or_else(|| failed(&"no process_cpu_seconds_total"))
}
