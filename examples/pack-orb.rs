//! Prints the packed orb: `cargo run --example pack-orb -- orb > orb.yml`.

#[path = "../tests/orb/pack.rs"]
mod pack;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let root = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("orb"), PathBuf::from);
    let packed = pack::pack(&root).and_then(|orb| {
        let text = serde_yaml::to_string(&orb).map_err(|error| error.to_string())?;
        io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
    });
    match packed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "pack-orb: {error}");
            ExitCode::FAILURE
        }
    }
}
