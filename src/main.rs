//! Owns the process: its arguments go in, its exit code comes out.
//! Must not know: anything but the command line.

fn main() -> std::process::ExitCode {
    tiltmeter::cli::main(std::env::args_os(), tiltmeter::cli::execute)
}
