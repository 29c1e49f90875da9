//! The `tiltmeter` program.

fn main() -> std::process::ExitCode {
    tiltmeter::cli::main(std::env::args_os(), tiltmeter::cli::execute)
}
