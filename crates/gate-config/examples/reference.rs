//! Prints the reference file: `cargo run -p gate-config --example reference > config/ollama-gate.toml`.

fn main() {
    print!("{}", gate_config::reference_file());
}
