//! A way from the test to one TCP port on a host's loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::namespace::Namespace;

/// Listens on the machine's loopback and passes connections on to the same port of a host's. So what a
/// node tells of its address holds on both sides, and nothing that is cut is in between.
pub struct Door {
    addr: SocketAddr,
    close: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Opens one.
    pub(super) fn into(namespace: &Namespace) -> Self {
        let outside = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        outside.set_nonblocking(true).expect("a listener can be made asynchronous");
        let addr = outside.local_addr().expect("a bound listener has an address");
        let (close, closed) = oneshot::channel();
        let enter = namespace.entrance();
        let thread = std::thread::spawn(move || {
            // The listener stays where it was made; connections are made where the thread is.
            enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(async {
                tokio::select! {
                    _ = closed => (),
                    () = pass_on(outside, addr) => (),
                }
            });
        });
        Self { addr, close: Some(close), thread: Some(thread) }
    }

    /// Where it listens, and what it leads to.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

async fn pass_on(outside: std::net::TcpListener, to: SocketAddr) {
    let outside = TcpListener::from_std(outside).expect("the runtime takes the listener");
    loop {
        let (mut from, _) = outside.accept().await.expect("connections can be accepted");
        tokio::spawn(async move {
            // Where nobody listens, whoever has come sees the connection end.
            let Ok(mut into) = TcpStream::connect(to).await else { return };
            tokio::io::copy_bidirectional(&mut from, &mut into).await.ok();
        });
    }
}
