//! Settings as text: valid TOML, with the layer that set each value beside it.

use std::fmt::Write;

use figment::value::Value;

use super::Loaded;
use super::keys::KEYS;

impl Loaded {
    /// Every setting with the layer that set it. The outcome is a configuration file with the same
    /// meaning.
    pub fn render(&self) -> String {
        let mut text = String::from("# The settings in force, and what set each of them.\n");
        let mut open_table = "";
        for key in KEYS {
            let (table, name) = key.name.split_once('.').unwrap_or(("", key.name));
            if table != open_table {
                open_table = table;
                write!(text, "\n[{table}]\n").expect("writing to a string succeeds");
            }
            match self.values.get(key.name) {
                Some((value, origin)) => writeln!(text, "{name} = {} # {origin}", toml(value)),
                None => writeln!(text, "# {name} is not set"),
            }
            .expect("writing to a string succeeds");
        }
        text
    }

    /// One line for a configuration that is fine.
    pub fn summary(&self) -> String {
        let config = &self.config;
        let node = config.node_id.map_or_else(|| "node".to_owned(), |id| format!("node {id}"));
        format!(
            "configuration OK: {node}, data in {}, HTTP on {}, iroh on {}, {} peer(s)",
            config.data_dir.display(),
            config.http_addr,
            config.iroh_addr,
            config.peers.len()
        )
    }
}

/// A value as TOML writes it.
pub(super) fn toml(value: &Value) -> String {
    toml::Value::try_from(value).map_or_else(|_| format!("{value:?}"), |value| value.to_string())
}

/// The same, cut to what fits into a message.
pub(super) fn short(value: &Value) -> String {
    const MAX_CHARS: usize = 80;
    let text = toml(value);
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}
