//! A wire that takes its time: a host's way to the switch, on which each packet is under way for a while.
//!
//! It is made of two network interfaces whose other ends are this process, so the kernel need know nothing of
//! delays. What is not carried yet when the wire goes is lost, as on any other.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use super::namespace::Namespace;

/// Where a process gets the other end of an interface.
pub const DEVICE: &str = "/dev/net/tun";

/// Longer than a packet with its Ethernet header.
const PACKET_MAX_BYTES: usize = 2_048;

/// A wire between two bridges. It goes when this is dropped.
pub struct Wire {
    ends: [String; 2],
    /// Where the ends are, as `ip` knows it.
    switch: String,
    carriers: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Lays it between two bridges of the switch, the first of which has no other. Packets take as long in
    /// either direction.
    pub fn lay(switch: &Namespace, bridges: [&str; 2], delay: Duration) -> Self {
        let [first, _] = bridges;
        let ends = [format!("{first}-here"), format!("{first}-there")];
        let [one, other] = ends.each_ref().map(|name| Arc::new(end(switch, name)));
        for (name, bridge) in ends.iter().zip(bridges) {
            switch.ip(&["link", "set", name, "master", bridge, "up"]);
        }
        let carriers = [carry(&one, &other, delay), carry(&other, &one, delay)];
        let carriers = carriers.into_iter().flatten().collect();
        Self { ends, switch: switch.name().to_owned(), carriers }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in &self.ends {
            // Whoever reads from it is told.
            super::namespace::ip(&["-n", &self.switch, "link", "del", name]).ok();
        }
        for carrier in self.carriers.drain(..) {
            carrier.join().expect("no code panics while it carries packets");
        }
    }
}

fn end(switch: &Namespace, name: &str) -> SyncDevice {
    let enter = switch.entrance();
    let make = move || {
        enter();
        DeviceBuilder::new().name(name).layer(Layer::L2).build_sync()
    };
    let made = std::thread::scope(|scope| scope.spawn(make).join().expect("the thread only makes a device"));
    made.expect("root may make a network interface")
}

/// Carries packets in one direction, one thread taking them up and one setting them down.
fn carry(from: &Arc<SyncDevice>, to: &Arc<SyncDevice>, delay: Duration) -> [JoinHandle<()>; 2] {
    let (sender, receiver) = channel();
    let (from, to) = (from.clone(), to.clone());
    [
        std::thread::spawn(move || take_up(&from, delay, &sender)),
        std::thread::spawn(move || set_down(&to, &receiver)),
    ]
}

fn take_up(from: &SyncDevice, delay: Duration, under_way: &Sender<(Instant, Vec<u8>)>) {
    let mut packet = [0; PACKET_MAX_BYTES];
    loop {
        match from.recv(&mut packet) {
            Ok(length) => {
                let sent = under_way.send((Instant::now() + delay, packet[..length].to_vec()));
                if sent.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The end is gone.
            Err(_) => return,
        }
    }
}

fn set_down(to: &SyncDevice, under_way: &Receiver<(Instant, Vec<u8>)>) {
    while let Ok((at, packet)) = under_way.recv() {
        // This is the delay.
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        // It is lost where the other end is gone or has no room.
        to.send(&packet).ok();
    }
}
