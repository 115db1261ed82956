//! The program: parses, runs, and says how it ended.

use std::env;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use dockercache::commands::exit::Exit;
use dockercache::report::{Reporter, output};
use dockercache::{cli, commands, settings};

/// Commands that go on without settings, since no mistake of ours may fail a build.
const GO_ON: [&str; 4] = ["build", "buildx", "circleci", "compose"];

fn main() -> ExitCode {
    if let Err(exit) = read_settings() {
        return exit.into();
    }
    let cli = match cli::parse(env::args_os()) {
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

/// Starts the program again with the settings of `dockercache.yml` in its environment, if they are not
/// there yet. So they hold for all that reads the environment, and for every program that we run.
fn read_settings() -> Result<(), Exit> {
    let added = settings::additions(Path::new("."), &|name| env::var_os(name).is_some());
    let reason = match added {
        Ok(added) if added.is_empty() => return Ok(()),
        Ok(added) => {
            let program = env::current_exe();
            let error = program.map(|program| {
                Command::new(program).args(env::args_os().skip(1)).envs(added).exec()
            });
            format!("`{}` has no effect: {}", settings::FILE, error.unwrap_or_else(|error| error))
        }
        Err(error) => error.to_string(),
    };
    let reporter = Reporter::new(false);
    if env::args_os().nth(1).is_some_and(|verb| GO_ON.iter().any(|name| verb == **name)) {
        reporter.warn(format!("{reason}; going on without it"));
        return Ok(());
    }
    reporter.error(reason);
    Err(Exit::Usage)
}
