//! The compiling child process by itself, for tests of this crate; the `lattice` binary is its own.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    if arguments
        .next()
        .is_none_or(|first| first != lattice_runtime::COMPILE_ARGUMENT)
    {
        let _ = writeln!(
            std::io::stderr(),
            "usage: lattice-compile {} COMPONENT OUTPUT",
            lattice_runtime::COMPILE_ARGUMENT
        );
        return ExitCode::from(2);
    }
    lattice_runtime::compile_child_main(arguments)
}
