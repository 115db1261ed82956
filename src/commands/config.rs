//! `config`: shows each setting, its value, and where it is from.

use serde::Serialize;

use super::exit::Exit;
use crate::cli::{ConfigArgs, Format};
use crate::job::environment;
use crate::report::output;
use crate::settings::{FILE, FROM_FILE, SETTINGS, Setting};
use crate::store::url::StoreUrl;

/// The JSON form of the result.
#[derive(Serialize)]
struct Report {
    schema: &'static str,
    settings: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    name: &'static str,
    variable: &'static str,
    value: String,
    /// `environment`, `dockercache.yml` or `default`.
    source: &'static str,
}

pub(super) fn run(args: &ConfigArgs) -> Exit {
    let from_file = environment(FROM_FILE).unwrap_or_default();
    let is_from_file = |variable: &str| from_file.split(' ').any(|name| name == variable);
    let settings: Vec<Shown> = SETTINGS.iter().map(|one| value(one, &is_from_file)).collect();
    match args.speech.format {
        Format::Json => output::json(&Report { schema: "dockercache.config.v1", settings }),
        Format::Text => {
            for Shown { name, value, source, .. } in settings {
                output::text(&format!("{name:<14} {value} ({source})"));
            }
        }
        format @ (Format::Env | Format::Github) => {
            for Shown { name, value, .. } in settings {
                output::pair(format == Format::Env, &name.replace('_', "-"), &value);
            }
        }
    }
    Exit::Ok
}

fn value(setting: &Setting, is_from_file: &dyn Fn(&str) -> bool) -> Shown {
    let Setting { key: name, variable, default } = *setting;
    let set = environment(variable).filter(|value| !value.is_empty());
    let source = match set {
        Some(_) if is_from_file(variable) => FILE,
        Some(_) => "environment",
        None => "default",
    };
    let value = set.map_or_else(|| default.to_owned(), |value| shown(name, value));
    Shown { name, variable, value, source }
}

/// A value without what may be a secret in it: a store's URL is shown only if it is a good one, which
/// has no place for credentials.
fn shown(name: &str, value: String) -> String {
    match (name, value.parse::<StoreUrl>()) {
        ("store", Ok(url)) => url.to_string(),
        ("store", Err(_)) => "not a store's URL".to_owned(),
        _ => value,
    }
}
