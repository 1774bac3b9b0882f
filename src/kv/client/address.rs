//! Where members listen, and which of them to ask first.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Mutex;

use hyper::Uri;
use hyper::http::uri::Authority;

/// The address of a member's HTTP API: `http://host:port`, or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(Authority);

/// A string that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is no address of a node: {problem}")]
pub struct ParseAddressError {
    given: String,
    problem: &'static str,
}

impl FromStr for Address {
    type Err = ParseAddressError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let error = |problem| ParseAddressError { given: given.to_owned(), problem };
        let trimmed = given.trim();
        if trimmed.starts_with("https://") {
            let problem =
                "nodes speak plain http; for TLS, run a proxy or a tunnel beside this client and name that";
            return Err(error(problem));
        }
        let rest = trimmed.strip_prefix("http://").unwrap_or(trimmed);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let authority =
            rest.parse::<Authority>().map_err(|_| error("it must be like http://127.0.0.1:4600"))?;
        if authority.as_str().contains('@') {
            return Err(error("it must hold no credentials; a token comes from a file"));
        }
        match authority.port_u16() {
            None | Some(0) => Err(error("it needs a port, as in http://127.0.0.1:4600")),
            Some(_) if authority.host().is_empty() => Err(error("it needs a host")),
            Some(_) => Ok(Self(authority)),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let authority = address.to_string().parse().expect("a socket address is an authority");
        Self(authority)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0)
    }
}

impl Address {
    /// Host and port.
    pub fn authority(&self) -> &str {
        self.0.as_str()
    }

    pub(super) fn uri(&self, path: &str) -> Uri {
        Uri::builder()
            .scheme("http")
            .authority(self.0.clone())
            .path_and_query(path)
            .build()
            .expect("a checked authority and a fixed path make a URI")
    }

    fn is_loopback(&self) -> bool {
        let host = self.0.host().trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// The addresses of a client, the one that answered last in front.
///
/// # Tiger Style
/// Holds what the client was given and at most one more, where the leader was said to be.
#[derive(Debug)]
pub(super) struct Targets {
    given: Vec<Address>,
    preferred: Mutex<Address>,
}

impl Targets {
    pub(super) fn new(given: Vec<Address>) -> Option<Self> {
        let preferred = Mutex::new(given.first()?.clone());
        Some(Self { given, preferred })
    }

    /// All addresses in the order to try them.
    pub(super) fn in_order(&self) -> Vec<Address> {
        let preferred = self.preferred().clone();
        // Round-robin from the preferred one, so that clients of a lost member spread as they do.
        let at = self.given.iter().position(|address| *address == preferred);
        let start = at.map_or(0, |at| at + 1);
        let (before, after) = self.given.split_at(start);
        let others = after.iter().chain(before).filter(|address| **address != preferred).cloned();
        std::iter::once(preferred.clone()).chain(others).collect()
    }

    /// This one answered: ask it first from now on.
    pub(super) fn prefer(&self, address: &Address) {
        let mut preferred = self.preferred();
        if *preferred != *address {
            *preferred = address.clone();
        }
    }

    /// This one did not answer: back to the ones that were given.
    pub(super) fn avoid(&self, address: &Address) {
        let mut preferred = self.preferred();
        if *preferred == *address {
            let at = self.given.iter().position(|given| given == address);
            let next = at.map_or(0, |at| (at + 1) % self.given.len());
            *preferred = self.given[next].clone();
        }
    }

    fn preferred(&self) -> std::sync::MutexGuard<'_, Address> {
        self.preferred.lock().expect("no code panics while it holds this lock")
    }
}

/// Where `from` says that the leader listens, if it can be meant: a loopback or an unspecified address
/// of another machine would name this one, and hand the token to whatever listens here.
pub(super) fn hinted(from: &Address, http_addr: SocketAddr) -> Option<Address> {
    let ip = http_addr.ip();
    let usable = http_addr.port() != 0 && !ip.is_unspecified() && (!ip.is_loopback() || from.is_loopback());
    usable.then(|| http_addr.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_taken_with_and_without_a_scheme() {
        for text in ["http://127.0.0.1:4600", "127.0.0.1:4600", " http://127.0.0.1:4600/ "] {
            assert_eq!(address(text).to_string(), "http://127.0.0.1:4600");
        }
        assert_eq!(address("[::1]:4600").to_string(), "http://[::1]:4600");
        assert_eq!(address("node-a.example:80").uri("/read"), "http://node-a.example:80/read");
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_sentence() {
        for (text, problem) in [
            ("", "must be like"),
            ("127.0.0.1", "needs a port"),
            ("https://127.0.0.1:4600", "plain http"),
            ("http://a:b@127.0.0.1:4600", "no credentials"),
            ("http://127.0.0.1:4600/path", "must be like"),
            ("127.0.0.1:99999", "needs a port"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn address_that_failed_is_asked_last() {
        let (a, b, c) = (address("a:1"), address("b:1"), address("c:1"));
        let targets = Targets::new(vec![a.clone(), b.clone(), c.clone()]).unwrap();
        assert_eq!(targets.in_order(), [a.clone(), b.clone(), c.clone()]);
        targets.avoid(&a);
        assert_eq!(targets.in_order(), [b.clone(), c.clone(), a.clone()]);
        let elsewhere = address("d:1");
        targets.prefer(&elsewhere);
        assert_eq!(targets.in_order(), [elsewhere.clone(), a.clone(), b, c]);
        targets.avoid(&elsewhere);
        assert_eq!(targets.in_order()[0], a);
    }

    #[test]
    fn loopback_hint_of_another_machine_is_not_followed() {
        let hint = "127.0.0.1:4600".parse().unwrap();
        assert_eq!(hinted(&address("10.0.0.1:4600"), hint), None);
        assert_eq!(hinted(&address("localhost:4601"), hint), Some(address("127.0.0.1:4600")));
        assert_eq!(hinted(&address("10.0.0.1:4600"), "0.0.0.0:4600".parse().unwrap()), None);
    }
}
