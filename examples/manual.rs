//! Writes what packages install beside the programs: completions for shells and pages of the manual.
//!
//! ```text
//! cargo run --example manual -- DIR
//! ```
//!
//! DIR is laid out like `share` below a prefix: `man/man1`, `bash-completion/completions`,
//! `zsh/site-functions` and `fish/vendor_completions.d`.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use aspen::cli::Cli;
use aspen::config::Flags;
use clap::{Command, CommandFactory};
use clap_complete::Shell;

fn main() -> anyhow::Result<()> {
    let Some(dir) = std::env::args_os().nth(1) else {
        bail!("name the directory to write to");
    };
    let dir = Path::new(&dir);
    // The daemon last: its page has the name of that for `aspen node`, and more to say.
    for command in [Cli::command(), Flags::command()] {
        pages(&command, &dir.join("man/man1"))?;
        for (shell, place) in [
            (Shell::Bash, "bash-completion/completions"),
            (Shell::Zsh, "zsh/site-functions"),
            (Shell::Fish, "fish/vendor_completions.d"),
        ] {
            completions(command.clone(), shell, &dir.join(place))?;
        }
    }
    Ok(())
}

/// A page for the program and one for each of its commands.
fn pages(command: &Command, dir: &Path) -> anyhow::Result<()> {
    make(dir)?;
    clap_mangen::generate_to(command.clone(), dir)
        .with_context(|| format!("cannot write pages to {}", dir.display()))
}

fn completions(mut command: Command, shell: Shell, dir: &Path) -> anyhow::Result<()> {
    make(dir)?;
    let name = command.get_name().to_owned();
    let written = clap_complete::generate_to(shell, &mut command, &name, dir)
        .with_context(|| format!("cannot write completions to {}", dir.display()))?;
    // bash looks for the program's name alone.
    if shell == Shell::Bash {
        fs::rename(&written, dir.join(&name))
            .with_context(|| format!("cannot rename {}", written.display()))?;
    }
    Ok(())
}

fn make(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}
