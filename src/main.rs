//! The program `pierhead`.

use std::process::ExitCode;

fn main() -> ExitCode {
    pierhead::cli::main(std::env::args_os(), std::env::vars_os())
}
