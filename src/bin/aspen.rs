//! The command line: arguments in, exit code out. What it does is in `aspen::cli`.

#![deny(missing_docs)]

use std::io::{BufWriter, IsTerminal};
use std::process::ExitCode;

use aspen::cli::{self, Cli, Terminal};
use clap::Parser;

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
    let terminal = Terminal {
        stdin: &mut stdin.lock(),
        is_interactive: stdout.is_terminal(),
        stdout: &mut BufWriter::new(stdout.lock()),
        stderr: &mut std::io::stderr(),
    };
    Ok(runtime.block_on(cli::run(cli, terminal)).into())
}
