//! The HTTP API as bytes on a socket, for requests that no proper client would send.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::{Value, json};

use super::node::Node;
use super::{PATIENCE, wait_until};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Everything in front of the body.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    fn parse(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The body, which must be JSON, of a request that must have succeeded.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.json()
    }
}

/// A connection on which a read does not wait for ever.
pub fn connect(addr: SocketAddr) -> TcpStream {
    try_connect(addr).expect("the HTTP port is open")
}

fn try_connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends bytes and reads until the other side closes.
pub fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(addr);
    stream.write_all(bytes).expect("the node takes the bytes");
    // The node may have closed already, which is fine.
    stream.shutdown(Shutdown::Write).ok();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the node answers in time and closes");
    answer
}

/// Sends one request, with header lines that each end in `\r\n`.
pub fn request(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> Answer {
    try_request(addr, method, path, headers, body).expect("the node answers in time and closes")
}

fn try_request(addr: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Answer> {
    let mut stream = try_connect(addr)?;
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Answer::parse(&text).ok_or_else(|| io::Error::other(format!("no HTTP: {text}")))
}

impl Node {
    /// `GET`.
    pub fn get(&self, path: &str) -> Answer {
        request(self.http(), "GET", path, "", b"")
    }

    /// `POST` of JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string())
    }

    /// `POST` of JSON to a node that may be gone before it answers.
    pub fn try_post(&self, path: &str, body: &Value) -> io::Result<Answer> {
        let headers = "content-type: application/json\r\n";
        try_request(self.http(), "POST", path, headers, body.to_string().as_bytes())
    }

    /// `POST` of what claims to be JSON.
    pub fn post_text(&self, path: &str, body: &str) -> Answer {
        request(self.http(), "POST", path, "content-type: application/json\r\n", body.as_bytes())
    }

    /// Writes a key, which must succeed.
    pub fn put(&self, key: &str, value: &str) {
        self.post("/write", &json!({ "put": { "key": key, "value": value } })).ok();
    }

    /// The value of a key, by a linearizable read, which must succeed.
    pub fn value(&self, key: &str) -> Option<String> {
        let found = self.post("/read", &json!({ "get": { "key": key } })).ok();
        found["kvs"].get(0).map(|kv| kv["value"].as_str().expect("a value is a string").to_owned())
    }

    /// Starts the node and waits until it takes reads and writes.
    pub fn start_serving(&mut self) {
        self.start();
        self.wait_until_ready();
    }

    /// Waits until the node takes reads and writes.
    pub fn wait_until_ready(&mut self) {
        let addr = self.http();
        wait_until("the node serves", || {
            self.assert_running();
            try_request(addr, "GET", "/readyz", "", b"").is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Waits until the node, which may have refused writes for want of room, takes them again.
    pub fn wait_until_writable(&self) {
        let body = json!({ "put": { "key": "is-writable", "value": "" } });
        wait_until("writes are taken again", || {
            self.try_post("/write", &body).is_ok_and(|answer| answer.status == 200)
        });
    }

    /// One of the node's figures, 0 if it has not been counted yet.
    pub fn figure(&self, name: &str) -> f64 {
        let page = self.get("/metrics").body;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }
}
