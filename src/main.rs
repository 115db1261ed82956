//! The program: parses, runs, and says how it ended.

use std::io::{self, Write as _};
use std::process::ExitCode;

use dockercache::commands::exit::Exit;
use dockercache::report::{Reporter, output};
use dockercache::{cli, commands};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a closed pipe is none either.
            if error.use_stderr() {
                let _ = io::stderr().write_all(b"dockercache: ");
            }
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2).into();
        }
    };
    dockercache::engine::client::process::pass_signals_on();
    match commands::run(cli) {
        Ok(exit) => match output::failure() {
            Some(kind) => {
                Reporter::new(false).error(format!("the result is not complete: {kind}"));
                Exit::Io.into()
            }
            None => exit.into(),
        },
        Err(failure) => {
            let reporter = Reporter::new(false);
            if failure.exit == Exit::Ok {
                reporter.warn(&failure.message);
            } else {
                reporter.error(&failure.message);
            }
            if let Some(hint) = failure.hint {
                reporter.info(format!("hint: {hint}"));
            }
            failure.exit.into()
        }
    }
}
