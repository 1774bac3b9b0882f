//! What a load consists of.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt};
use serde::Serialize;

/// Keys that one range reads.
pub const RANGE_KEYS: u64 = 100;

/// Bytes of a key behind its prefix.
pub const KEY_NUMBER_BYTES: usize = 10;

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Set a key.
    Put,
    /// Read a key, linearizably.
    Get,
    /// Read a key from what the asked node has.
    StaleGet,
    /// Read up to [`RANGE_KEYS`] keys, linearizably.
    Range,
    /// Set a key if it has not changed in version since long ago: a comparison and a put.
    Txn,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Put, Self::Get, Self::StaleGet, Self::Range, Self::Txn];

    /// Its name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::StaleGet => "stale-get",
            Self::Range => "range",
            Self::Txn => "txn",
        }
    }

    fn writes(self) -> bool {
        matches!(self, Self::Put | Self::Txn)
    }
}

/// Shares of the kinds, such as `put=10,get=90`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Kind, u32)>);

/// A string that is no mix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no mix of operations: it must be like put=10,get=90, of put, get, stale-get, range, txn")]
pub struct ParseMixError(String);

impl FromStr for Mix {
    type Err = ParseMixError;

    fn from_str(given: &str) -> Result<Self, Self::Err> {
        let error = || ParseMixError(given.to_owned());
        let mut shares = Vec::new();
        for part in given.split(',') {
            let (name, share) = part.trim().split_once('=').unwrap_or((part.trim(), "100"));
            let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name).ok_or_else(error)?;
            let share = share.parse::<u16>().map_err(|_| error())?;
            if shares.iter().any(|(other, _)| *other == kind) {
                return Err(error());
            }
            shares.push((kind, u32::from(share)));
        }
        if shares.iter().all(|(_, share)| *share == 0) {
            return Err(error());
        }
        Ok(Self(shares))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (kind, share)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}={share}", kind.name())?;
        }
        Ok(())
    }
}

impl Mix {
    /// The kinds that it has a share of.
    pub fn kinds(&self) -> impl Iterator<Item = Kind> {
        self.0.iter().filter(|(_, share)| *share > 0).map(|(kind, _)| *kind)
    }

    /// Whether it reads at all.
    pub fn reads(&self) -> bool {
        self.kinds().any(|kind| !kind.writes())
    }

    /// Draws a kind.
    pub fn draw(&self, rng: &mut impl Rng) -> Kind {
        let total = self.0.iter().map(|(_, share)| share).sum::<u32>();
        let mut drawn = rng.random_range(0..total);
        for (kind, share) in &self.0 {
            if drawn < *share {
                return *kind;
            }
            drawn -= share;
        }
        unreachable!("the drawn number is below the sum of the shares")
    }
}

/// A load.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Clients, each with one request under way.
    pub clients: usize,
    /// Connections that the clients share.
    pub connections: usize,
    /// Kinds of operations.
    pub mix: Mix,
    /// Bytes of a value.
    pub value_bytes: usize,
    /// Number of different keys.
    pub keys: u64,
    /// What the keys begin with.
    pub key_prefix: String,
    /// Time that is not measured, at the beginning.
    pub warmup: Duration,
    /// Time that is measured.
    pub duration: Duration,
    /// Operations a second of all clients together; as many as they get through if absent.
    pub rate: Option<f64>,
    /// Where chance begins.
    pub seed: u64,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Its kind.
    pub kind: Kind,
    /// The key; the first one of a range.
    pub key: String,
    /// What to set; empty for reads. Printable, so that text protocols carry it as it is.
    pub value: String,
}

impl Plan {
    /// The key of this number.
    pub fn key(&self, number: u64) -> String {
        format!("{}{number:0width$}", self.key_prefix, width = KEY_NUMBER_BYTES)
    }

    /// Draws an operation.
    pub fn draw(&self, rng: &mut SmallRng) -> Operation {
        let kind = self.mix.draw(rng);
        let key = self.key(rng.random_range(0..self.keys));
        let value = if kind.writes() { self.value(rng) } else { String::new() };
        Operation { kind, key, value }
    }

    /// Draws a value.
    pub fn value(&self, rng: &mut SmallRng) -> String {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut bytes = vec![0; self.value_bytes];
        rng.fill_bytes(&mut bytes);
        bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect()
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn a_mix_is_read_as_it_is_printed() {
        let mix: Mix = "put=10, get=90".parse().unwrap();
        assert_eq!(mix.to_string(), "put=10,get=90");
        assert_eq!("range".parse::<Mix>().unwrap().kinds().collect::<Vec<_>>(), [Kind::Range]);
        for nonsense in ["", "put", "push=1", "put=1,put=2", "put=0", "put=-1", "put=x"] {
            let is_ok = nonsense.parse::<Mix>().is_ok();
            assert_eq!(is_ok, nonsense == "put", "{nonsense}");
        }
    }

    #[test]
    fn operations_are_drawn_by_their_shares_within_the_keys() {
        let plan = Plan {
            clients: 1,
            connections: 1,
            mix: "put=25,get=75".parse().unwrap(),
            value_bytes: 16,
            keys: 10,
            key_prefix: "k/".to_owned(),
            warmup: Duration::ZERO,
            duration: Duration::from_secs(1),
            rate: None,
            seed: 1,
        };
        let mut rng = SmallRng::seed_from_u64(1);
        let drawn: Vec<Operation> = (0..4_000).map(|_| plan.draw(&mut rng)).collect();
        let puts = drawn.iter().filter(|operation| operation.kind == Kind::Put).count();
        assert!((900..1_100).contains(&puts), "{puts}");
        assert!(drawn.iter().all(|operation| operation.key.as_str() < "k/0000000010"));
        assert!(
            drawn
                .iter()
                .all(|operation| operation.value.len() == if operation.kind == Kind::Put { 16 } else { 0 })
        );
    }
}
