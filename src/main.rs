use std::process::ExitCode;

fn main() -> ExitCode {
    loramill::cli::main()
}
