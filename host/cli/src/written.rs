//! `completions` and `man`: scripts and manual pages that clap generates from the definition of the command line.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::{Failure, Result};
use crate::output::Output;

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// Write a page for each command into this directory [default: print the first page]
    directory: Option<PathBuf>,
}

/// Runs `completions`.
pub(crate) fn completions(output: Output, args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lattice", &mut script);
    print(output, script)
}

/// Runs `man`.
pub(crate) fn man(output: Output, args: &ManArgs) -> Result<()> {
    match &args.directory {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            print(output, page)
        }
        Some(directory) => {
            let unwritable = |error: io::Error| {
                Failure::failed(format!(
                    "cannot write manual pages to {}: {error}",
                    directory.display()
                ))
            };
            std::fs::create_dir_all(directory).map_err(unwritable)?;
            clap_mangen::generate_to(Cli::command(), directory).map_err(unwritable)
        }
    }
}

fn print(output: Output, written: Vec<u8>) -> Result<()> {
    let text = String::from_utf8(written)
        .map_err(|error| Failure::failed(format!("generated text is no UTF-8: {error}")))?;
    output.text(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_manual_page() {
        let directory = tempfile::tempdir().expect("a directory");
        let output = Output::new(crate::output::Form::Text);
        let args = ManArgs {
            directory: Some(directory.path().join("man")),
        };
        man(output, &args).expect("written");
        let page = directory.path().join("man/lattice-store-join.1");
        let page = std::fs::read_to_string(page).expect("a page");
        assert!(page.contains("TOKEN"), "{page}");
        assert!(!directory.path().join("man/lattice-completions.1").exists());
    }
}
