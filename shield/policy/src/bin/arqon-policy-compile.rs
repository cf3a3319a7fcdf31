//! The compile child by itself, for tests and for hosts that are not Shield.

fn main() -> std::process::ExitCode {
    arqon_policy::compile::child_main()
}
