//! Where a command reads from and prints to, and how bytes look there.

use std::io::{self, Read, Write};

use comfy_table::{Table, presets};
use serde::Serialize;

use super::error::CliError;
use crate::kv::json::{Encoding, ErrorForm, FormError, KeyValueForm};
use crate::kv::types::KeyValue;

/// Characters of a value that a table shows.
const CELL_MAX_CHARS: usize = 60;

/// The three standard streams.
pub struct Terminal<'a> {
    /// Where input comes from.
    pub stdin: &'a mut dyn Read,
    /// Where results go.
    pub stdout: &'a mut dyn Write,
    /// Where errors go.
    pub stderr: &'a mut dyn Write,
    /// Whether a person sees the results at once.
    pub is_interactive: bool,
}

impl Terminal<'_> {
    pub(super) fn line(&mut self, text: &str) -> Result<(), CliError> {
        Ok(writeln!(self.stdout, "{text}")?)
    }

    /// Something that a person should know, beside the results.
    pub(super) fn note(&mut self, text: &str) {
        writeln!(self.stderr, "aspen: {text}").ok();
    }

    /// The bytes and nothing else, but for a line end where a person's prompt would follow.
    pub(super) fn bare(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.stdout.write_all(bytes)?;
        if self.is_interactive && !bytes.ends_with(b"\n") {
            self.stdout.write_all(b"\n")?;
        }
        Ok(())
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), CliError> {
        self.line(&serde_json::to_string(value).expect("what is printed is JSON"))
    }

    pub(super) fn table(
        &mut self,
        header: &[&str],
        rows: impl IntoIterator<Item = Vec<String>>,
    ) -> Result<(), CliError> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header.to_vec()).add_rows(rows);
        self.line(&table.trim_fmt())
    }

    pub(super) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.stdout.flush()?)
    }

    /// Says what went wrong. There is nobody left to tell if that fails.
    pub(super) fn complain(&mut self, error: &CliError, json: bool) {
        let body = error.body();
        if json {
            let text = serde_json::to_string(&ErrorForm { error: body }).expect("an error is JSON");
            writeln!(self.stderr, "{text}").ok();
        } else {
            writeln!(self.stderr, "aspen: {error}\n  {}", body.action).ok();
        }
    }
}

/// Something with keys and values in it, as JSON that says how they are encoded.
#[derive(Debug, Serialize)]
pub(super) struct Encoded<T> {
    #[serde(flatten)]
    form: T,
    encoding: Encoding,
}

impl<T> Encoded<T> {
    /// As text if that can say it, or else in base64.
    pub(super) fn new(form: impl Fn(Encoding) -> Result<T, FormError>) -> Result<Self, FormError> {
        match form(Encoding::Utf8) {
            Err(FormError::NotUtf8 { .. }) => {
                Ok(Self { form: form(Encoding::Base64)?, encoding: Encoding::Base64 })
            }
            form => Ok(Self { form: form?, encoding: Encoding::Utf8 }),
        }
    }
}

pub(super) fn encoded_kv(kv: &KeyValue) -> Result<Encoded<KeyValueForm>, FormError> {
    Encoded::new(|encoding| KeyValueForm::new(kv, encoding, &"kv"))
}

/// Bytes as a person can read them, on one line.
pub(super) fn readable(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains(char::is_control) => text.to_owned(),
        _ => bytes.escape_ascii().to_string(),
    }
}

/// The same, cut to what a table takes.
pub(super) fn cell(bytes: &[u8]) -> String {
    let text = readable(bytes);
    match text.char_indices().nth(CELL_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// All of an input, or one byte more than `max_bytes`, which tells that there is too much.
pub(super) fn read_up_to(input: &mut dyn Read, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    input.take(max_bytes as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
