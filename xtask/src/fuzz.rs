//! Fuzzing with libFuzzer, on the stable compiler. The workspace's own crates are compiled with counters of
//! coverage, their dependencies without.
//!
//! Cargo can call a wrapper of the compiler for the workspace's crates alone. This program is also that wrapper,
//! which adds the flags.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::shell;

/// The variable that tells this program to act as the compiler's wrapper.
const WRAPPED: &str = "LATTICE_FUZZ_WRAPPER";

/// Compiler flags that make LLVM count edges and observe comparisons, which libFuzzer needs.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// How long all targets together are fuzzed unless the command says otherwise, in seconds.
const SECONDS: u64 = 60;
/// How many inputs each target tries in CI, from one seed: what CI finds is found again by running it again.
const CI_RUNS: u64 = 50_000;
const CI_SEED: u64 = 1;
/// The targets whose inputs each take milliseconds, and how many of them CI tries.
const CI_RUNS_SLOW: [(&str, u64); 1] = [("sync", 500)];
/// The suffix of a corpus file.
const CORPUS_SUFFIX: &str = ".hex";
const INPUTS_MAX: usize = 100;
/// The largest input that is tried, in bytes.
const INPUT_BYTES_MAX: u64 = 4096;
/// The most memory of a target in MiB, and the most time for one input in seconds.
const MEMORY_MIB_MAX: u64 = 2048;
const INPUT_SECONDS_MAX: u64 = 10;

const USAGE: &str = "\
cargo xtask fuzz [--seconds N] [--minimize] [TARGET…]

Runs the corpus of each target and then searches on from a fresh seed and from what was found before, N seconds for all
of them together (60). CI tries the same inputs each time. An input that fails is left in target/fuzz/TARGET. With --minimize what was found goes into the corpus, without what adds nothing.
";

/// Runs the compiler in place of this process, if this process is its wrapper. Returns `None` if it is not, and an
/// error if the compiler does not start.
pub fn wrapped() -> Option<std::io::Error> {
    std::env::var_os(WRAPPED)?;
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next()?;
    let arguments: Vec<OsString> = arguments.collect();
    let mut command = Command::new(compiler);
    command.args(&arguments);
    // Coverage needs libFuzzer, which is not linked into programs that run at compile time.
    let at_compile_time = arguments
        .iter()
        .any(|argument| argument == "proc-macro" || argument == "build_script_build");
    if !at_compile_time && arguments.iter().any(|argument| argument == "--crate-name") {
        command.args(COVERAGE);
    }
    Some(command.exec())
}

/// Where a search ends.
#[derive(Debug, Clone, Copy)]
enum Search {
    /// After so many seconds.
    Seconds(u64),
    /// After so many inputs, which follow from the seed and the corpus.
    Runs { number: u64, seed: u64 },
}

/// Builds the fuzzer and tries the inputs of CI.
///
/// # Errors
/// When the fuzzer does not build, or an input fails.
pub(crate) fn ci() -> Result<()> {
    let corpus = shell::root().join("host/fuzz/corpus");
    let fuzzer = build()?;
    for target in targets(&corpus)? {
        let slow = CI_RUNS_SLOW.iter().find(|(slow, _)| *slow == target);
        let search = Search::Runs {
            number: slow.map_or(CI_RUNS, |(_, runs)| *runs),
            seed: CI_SEED,
        };
        shell::step(&format!("fuzz {target}"), || {
            fuzz(&fuzzer, &corpus, &target, search, false)
        })?;
    }
    Ok(())
}

/// Builds the fuzzer and searches with it.
///
/// # Errors
/// When the fuzzer does not build, or an input fails.
pub fn run(arguments: &[String]) -> Result<()> {
    let mut seconds = SECONDS;
    let mut minimize = false;
    let mut wanted = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--seconds" => {
                let number = arguments.next().and_then(|number| number.parse().ok());
                seconds = number.context("--seconds takes a number")?;
            }
            "--minimize" => minimize = true,
            "--help" => {
                print!("{USAGE}");
                return Ok(());
            }
            option if option.starts_with('-') => bail!("there is no option {option}\n{USAGE}"),
            target => wanted.push(target.to_owned()),
        }
    }
    let corpus = shell::root().join("host/fuzz/corpus");
    let mut targets = targets(&corpus)?;
    for name in &wanted {
        ensure!(
            targets.contains(name),
            "there is no target {name}: {}",
            targets.join(", ")
        );
    }
    if !wanted.is_empty() {
        targets = wanted;
    }
    let fuzzer = build()?;
    for target in &targets {
        let each = Search::Seconds((seconds / targets.len() as u64).max(1));
        shell::step(&format!("fuzz {target}"), || {
            fuzz(&fuzzer, &corpus, target, each, minimize)
        })?;
    }
    Ok(())
}

/// The names of the targets. Each has a corpus file of its name.
fn targets(corpus: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(corpus).context("the corpus")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        names.extend(name.strip_suffix(CORPUS_SUFFIX).map(str::to_owned));
    }
    names.sort();
    Ok(names)
}

/// Writes the inputs of a corpus, which are lines of hexadecimal digits, to files of their own.
fn unpack(corpus: &Path, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    let text = std::fs::read_to_string(corpus).with_context(|| corpus.display().to_string())?;
    for (number, line) in text.lines().enumerate() {
        let input = unhex(line)
            .with_context(|| format!("{}:{} is no input", corpus.display(), number + 1))?;
        std::fs::write(directory.join(format!("kept-{number}")), input)?;
    }
    Ok(())
}

/// Writes the shortest files of a directory to a corpus.
fn pack(directory: &Path, corpus: &Path) -> Result<()> {
    let mut inputs = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        inputs.push(std::fs::read(entry?.path())?);
    }
    inputs.sort_by_key(|input| (input.len(), input.clone()));
    inputs.dedup();
    inputs.truncate(INPUTS_MAX);
    let line = |input: &Vec<u8>| -> String {
        let digits = input.iter().map(|byte| format!("{byte:02x}"));
        digits.chain(["\n".to_owned()]).collect()
    };
    std::fs::write(corpus, inputs.iter().map(line).collect::<String>())?;
    Ok(())
}

fn unhex(line: &str) -> Option<Vec<u8>> {
    let byte = |at: usize| u8::from_str_radix(line.get(at..at + 2)?, 16).ok();
    (0..line.len()).step_by(2).map(byte).collect()
}

fn build() -> Result<PathBuf> {
    let directory = shell::target_dir().join("fuzz");
    shell::step("build the fuzzer", || {
        std::fs::create_dir_all(&directory)?;
        let wrapper = directory.join("wrapper");
        shell::copy_own_program(&wrapper)?;
        let mut cargo = shell::cargo();
        cargo
            .current_dir(shell::root())
            .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
            .env(WRAPPED, "1")
            .args(["build", "--workspace", "--bin", "lattice-fuzz"]);
        shell::run(&mut cargo)?;
        // The next ordinary build replaces the fuzzer, so it is copied.
        let built = shell::target_dir().join("debug/lattice-fuzz");
        std::fs::copy(&built, directory.join("lattice-fuzz")).context("the fuzzer")?;
        Ok(())
    })?;
    Ok(directory.join("lattice-fuzz"))
}

fn fuzz(fuzzer: &Path, corpus: &Path, target: &str, search: Search, minimize: bool) -> Result<()> {
    let corpus = corpus.join(format!("{target}{CORPUS_SUFFIX}"));
    let directory = shell::target_dir().join("fuzz").join(target);
    let (kept, mut found) = (directory.join("kept"), directory.join("found"));
    if kept.exists() {
        std::fs::remove_dir_all(&kept)?;
    }
    if let Search::Runs { .. } = search {
        // What other searches found would lead this one elsewhere.
        found = directory.join("found-by-seed");
        if found.exists() {
            std::fs::remove_dir_all(&found)?;
        }
    }
    unpack(&corpus, &kept)?;
    std::fs::create_dir_all(&found)?;
    let command = |options: &[String]| {
        let mut command = Command::new(fuzzer);
        command
            .env("LATTICE_FUZZ_TARGET", target)
            .args(options)
            .arg(format!("-artifact_prefix={}/failed-", directory.display()))
            .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command
    };
    let mut search = match search {
        Search::Seconds(seconds) => vec![format!("-max_total_time={seconds}")],
        Search::Runs { number, seed } => vec![format!("-runs={number}"), format!("-seed={seed}")],
    };
    search.extend([
        format!("-max_len={INPUT_BYTES_MAX}"),
        "-verbosity=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    let ended = shell::run(command(&search).arg(&found).arg(&kept));
    ended.with_context(|| {
        format!(
            "{target}: the input lies in {}; `LATTICE_FUZZ_TARGET={target} {} FILE` runs it again",
            directory.display(),
            fuzzer.display()
        )
    })?;
    if minimize {
        shell::run(command(&["-merge=1".to_owned()]).arg(&kept).arg(&found))?;
        pack(&kept, &corpus)?;
    }
    Ok(())
}
