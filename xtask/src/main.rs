//! The workspace's own commands: `cargo xtask <command>`.

use std::process::ExitCode;

use anyhow::Result;
use xtask::{bench, ci, demo, diagrams, fuzz, shell, tidy, torture, tour};

const HELP: &str = "\
cargo xtask <command>

  setup            installs what a fresh machine lacks (Debian packages, compiler targets)
  plugins          builds the plugins into target/plugins
  test [ARG…]      sets up, builds, runs README's tour and `cargo test --workspace ARG…`
  demo             sets up, builds lattice alone, and shows two nodes that stay equal through crashes
  tour             runs README's tour alone
  bench [ARG…]     builds for release, and measures beside the machine's raw limits (`bench --help`)
  fuzz [ARG…]      searches for inputs that break a decoder (`fuzz --help`)
  torture [ARG…]   kills, stops, fills, cuts off and misleads real daemons, and checks that nothing is lost
                   ([--minutes N] [--seed S] [--release])
  tidy             checks the rules of the source tree
  invariants       writes docs/invariants.md from ARCHITECTURE.md and the tests
  diagrams         draws the pictures of docs/ from the texts beside them
  ci               formatting, tidy, rust-version, licences, lints, the embedded build, rustdoc, a minute of
                   fuzzing, two of torture, test
";

fn main() -> ExitCode {
    if let Some(error) = fuzz::wrapped() {
        eprintln!("xtask: the compiler does not start: {error}");
        return ExitCode::FAILURE;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some((command, rest)) = arguments.split_first() else {
        eprint!("{HELP}");
        return ExitCode::from(2);
    };
    let result = match command.as_str() {
        "test" => ci::test(rest),
        "bench" => bench::run(rest),
        "fuzz" => fuzz::run(rest),
        "torture" => torture::run(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        _ if !rest.is_empty() => {
            return usage(&format!(
                "`{command}` takes no arguments, found `{}`",
                rest.join(" ")
            ));
        }
        "setup" => ci::setup(),
        "plugins" => ci::plugins(),
        "tidy" => shell::step("tidy", || tidy::run(shell::root())),
        "invariants" => shell::step("invariants", || tidy::write_invariants(shell::root())),
        "diagrams" => shell::step("diagrams", || diagrams::draw(shell::root())),
        "ci" => ci::all(),
        "tour" => ci::ship().and_then(|()| shell::step("tour", || tour::run_readme(shell::root()))),
        "demo" => ci::ship().and_then(|()| run_demo()),
        other => return usage(&format!("there is no command `{other}`")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_demo() -> Result<()> {
    shell::step("demo", || demo::run(shell::root()))
}

fn usage(message: &str) -> ExitCode {
    eprintln!("xtask: {message}\n\n{HELP}");
    ExitCode::from(2)
}
