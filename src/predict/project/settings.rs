//! What the flags of a build mean for each of its commands, in the form that the builder digests.
//!
//! Names without addresses, numbers in one unit, and no defaults: two ways to write the same make
//! the same key. The classic builder digests none of them.

use std::collections::BTreeMap;

use crate::build::arguments::BuildArguments;
use crate::dockerfile::BuildOptions;

/// Sets what the flags say in `options`, whose build arguments are known. Builders before Docker 23
/// are not `modern`.
pub(super) fn apply(options: &mut BuildOptions, arguments: &BuildArguments, modern: bool) {
    let text = |name: &str| {
        let value = arguments.value(name).map(|value| value.to_string_lossy().into_owned());
        value.filter(|value| !value.is_empty())
    };
    let argument = |options: &BuildOptions, name: &str| {
        options.build_args.get(name).filter(|value| !value.is_empty()).cloned()
    };
    options.network = text("network").filter(|mode| mode != "default");
    options.cache_namespace = argument(options, "BUILDKIT_CACHE_MOUNT_NS").unwrap_or_default();
    let mut settings: Vec<(&str, String)> = arguments
        .values("add-host")
        .map(|value| ("add-host", host(&value.to_string_lossy()).to_owned()))
        .collect();
    if modern {
        let size = text("shm-size").map(|size| bytes(&size).map_or(size, |n| n.to_string()));
        settings.extend(size.filter(|size| size != "0").map(|size| ("shm-size", size)));
        let limits: BTreeMap<String, String> =
            arguments.values("ulimit").map(|value| limit(&value.to_string_lossy())).collect();
        settings
            .extend(limits.into_iter().map(|(name, value)| ("ulimit", format!("{name}={value}"))));
        settings.extend(text("cgroup-parent").map(|parent| ("cgroup-parent", parent)));
        let host = argument(options, "BUILDKIT_SANDBOX_HOSTNAME");
        settings.extend(host.map(|host| ("hostname", host)));
    }
    options.run_settings =
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
}

/// The name in `name=address` or `name:address`: addresses are not digested.
fn host(text: &str) -> &str {
    let end = text.find('=').or_else(|| text.find(':'));
    &text[..end.unwrap_or(text.len())]
}

/// A size such as `64m`, as docker reads it: powers of 1024, with a fraction if need be.
fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = lower[digits.len()..].trim_end_matches('b').trim_end_matches('i');
    let shift = match unit {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let number: f64 = digits.trim_end().parse().ok().filter(|n: &f64| *n >= 0.0)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as docker does")]
    Some((number * f64::from(2_u8).powi(shift)) as u64)
}

/// The name of a limit, and the soft and the hard value, which are the same where one is given.
fn limit(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let number =
        |text: &str| text.parse::<i64>().map_or_else(|_| text.to_owned(), |n| n.to_string());
    (name.to_owned(), format!("{}:{}", number(soft), number(hard)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    fn settings(words: &[&str]) -> (Option<String>, Vec<(String, String)>) {
        let mut options = BuildOptions::default();
        let arguments = BuildArguments::parse(words.iter().map(OsString::from));
        apply(&mut options, &arguments, true);
        (options.network, options.run_settings)
    }

    #[track_caller]
    fn same(one: &[&str], other: &[&str]) {
        assert_eq!(settings(one), settings(other));
    }

    #[track_caller]
    fn different(one: &[&str], other: &[&str]) {
        assert_ne!(settings(one), settings(other));
    }

    #[test]
    fn equal_settings_are_written_in_one_way() {
        same(&["--network=default"], &[]);
        same(&["--network="], &[]);
        different(&["--network=host"], &["--network=none"]);
        same(&["--add-host=a:1.2.3.4"], &["--add-host", "a=1.2.3.5"]);
        same(&["--add-host=a=::1"], &["--add-host=a:host-gateway"]);
        different(&["--add-host=a:1"], &["--add-host=b:1"]);
        different(&["--add-host=a:1", "--add-host=b:1"], &["--add-host=b:1", "--add-host=a:1"]);
        for size in ["67108864", "65536k", "64M", "64mb", "64MiB", "0.0625g", "64 m"] {
            same(&["--shm-size=64m"], &[&format!("--shm-size={size}")]);
        }
        same(&["--shm-size=0"], &[]);
        different(&["--shm-size=64m"], &["--shm-size=128m"]);
        same(&["--ulimit=nofile=5"], &["--ulimit=nofile=5:05"]);
        same(&["--ulimit=nofile=9", "--ulimit=nofile=5"], &["--ulimit=nofile=5"]);
        same(&["--ulimit=a=1", "--ulimit=b=2"], &["--ulimit=b=2", "--ulimit=a=1"]);
        different(&["--ulimit=nofile=4:5"], &["--ulimit=nofile=5"]);
        different(&["--cgroup-parent=/a"], &["--cgroup-parent=/b"]);
    }
}
