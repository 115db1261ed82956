//! The arguments of `docker build` and `docker buildx build`, understood as the client does.
//!
//! Follows the flags of docker 20.10 to 29 and buildx 0.13 to 0.36. What we do not know is
//! passed on untouched.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

/// Long flags that take no value of their own.
const SWITCHES: &[&str] = &[
    "check",
    "compress",
    "debug",
    "disable-content-trust",
    "force-rm",
    "help",
    "load",
    "no-cache",
    "pull",
    "push",
    "quiet",
    "rm",
    "squash",
    "stream",
];

/// Long flags that take a value, in the same or in the next word.
const VALUES: &[&str] = &[
    "add-host",
    "allow",
    "annotation",
    "attest",
    "build-arg",
    "build-context",
    "builder",
    "cache-from",
    "cache-to",
    "call",
    "cgroup-parent",
    "cpu-period",
    "cpu-quota",
    "cpu-shares",
    "cpuset-cpus",
    "cpuset-mems",
    "file",
    "iidfile",
    "isolation",
    "label",
    "memory",
    "memory-swap",
    "metadata-file",
    "network",
    "no-cache-filter",
    "output",
    "platform",
    "policy",
    "print",
    "progress",
    "provenance",
    "sbom",
    "secret",
    "security-opt",
    "shm-size",
    "ssh",
    "tag",
    "target",
    "ulimit",
];

/// Flags that say what becomes of a build's result, or how its steps are looked up. Whoever builds
/// the same again from cache must not repeat them.
const OF_THE_RESULT: &[&str] = &[
    "annotation",
    "attest",
    "cache-from",
    "cache-to",
    "call",
    "check",
    "iidfile",
    "load",
    "metadata-file",
    "no-cache",
    "no-cache-filter",
    "output",
    "print",
    "progress",
    "provenance",
    "push",
    "quiet",
    "sbom",
    "tag",
];

/// One-letter forms.
const SHORT: &[(u8, &str)] = &[
    (b'D', "debug"),
    (b'c', "cpu-shares"),
    (b'f', "file"),
    (b'h', "help"),
    (b'm', "memory"),
    (b'o', "output"),
    (b'q', "quiet"),
    (b't', "tag"),
];

/// One argument.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// A flag by its long name, with its value if it has one.
    Flag(String, Option<OsString>),
    /// The build context, or what the client will complain about.
    Positional(OsString),
}

/// Parsed build arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildArguments {
    parts: Vec<Part>,
    /// Whether they are those of `docker buildx build`.
    of_buildx: bool,
}

/// Where the build context comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContextSource {
    /// A directory of this machine.
    Directory(PathBuf),
    /// Standard input: a tar, or a Dockerfile alone.
    Stdin,
    /// A git repository or an archive that the builder fetches.
    Remote(String),
    /// No context was named.
    Absent,
}

/// Where a context that `--build-context` names comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NamedSource {
    /// A directory of this machine.
    Directory(PathBuf),
    /// An image, by its reference.
    Image(String),
    /// An image in an OCI layout of this machine, as written behind the scheme.
    Layout(String),
    /// What the builder fetches itself: a repository, an archive, or another target of a bake.
    Elsewhere(String),
}

impl NamedSource {
    fn of(source: &str) -> Self {
        if let Some(reference) = source.strip_prefix("docker-image://") {
            Self::Image(reference.to_owned())
        } else if let Some(layout) = source.strip_prefix("oci-layout://") {
            Self::Layout(layout.to_owned())
        } else if is_remote(source) || ["target:", "input:"].iter().any(|s| source.starts_with(s)) {
            Self::Elsewhere(source.to_owned())
        } else {
            Self::Directory(source.into())
        }
    }
}

impl BuildArguments {
    /// Parses the words after `build`.
    pub fn parse(words: impl IntoIterator<Item = OsString>) -> Self {
        let mut parts = Vec::new();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let bytes = word.as_bytes();
            if bytes == b"--" {
                parts.extend(words.by_ref().map(Part::Positional));
            } else if let Some(long) = bytes.strip_prefix(b"--") {
                let (name, value) = match long.iter().position(|&b| b == b'=') {
                    Some(at) => (&long[..at], Some(OsStr::from_bytes(&long[at + 1..]).to_owned())),
                    None => (long, None),
                };
                let name = String::from_utf8_lossy(name).into_owned();
                let value = if value.is_none() && VALUES.contains(&name.as_str()) {
                    words.next()
                } else {
                    value
                };
                parts.push(Part::Flag(name, value));
            } else if bytes.len() > 1 && bytes[0] == b'-' {
                parse_short(&bytes[1..], &mut words, &mut parts);
            } else {
                parts.push(Part::Positional(word));
            }
        }
        Self { parts, of_buildx: false }
    }

    /// The same as arguments of `docker buildx build`, which goes to the selected builder.
    #[must_use]
    pub fn of_buildx(self) -> Self {
        Self { of_buildx: true, ..self }
    }

    /// Whether the build goes to the selected builder: `docker buildx build` was asked for, or
    /// something that the engine's own builder does not do for `docker build`.
    pub fn is_for_buildx(&self) -> bool {
        self.of_buildx || self.has_several_platforms() || self.switch("load")
    }

    /// Parses the words that a user gives to the client, which takes the platform from the
    /// environment where no flag names one: buildx and the classic builder alike, but not a bake.
    pub(crate) fn of_user(
        words: impl IntoIterator<Item = OsString>,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Self {
        let arguments = Self::parse(words);
        let platform = environment("DOCKER_DEFAULT_PLATFORM").filter(|value| !value.is_empty());
        match platform {
            Some(platform) if arguments.value("platform").is_none() => {
                arguments.with("platform", platform)
            }
            _ => arguments,
        }
    }

    /// All values of a flag, in order.
    pub fn values<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a OsStr> {
        self.parts.iter().filter_map(move |part| match part {
            Part::Flag(flag, Some(value)) if flag == name => Some(value.as_os_str()),
            _ => None,
        })
    }

    /// The value that counts when a flag is given more than once: the last.
    pub fn value(&self, name: &str) -> Option<&OsStr> {
        self.parts.iter().rev().find_map(|part| match part {
            Part::Flag(flag, Some(value)) if flag == name => Some(value.as_os_str()),
            _ => None,
        })
    }

    /// Whether a switch is on; `--flag=false` turns it off.
    pub fn switch(&self, name: &str) -> bool {
        self.parts.iter().rev().find_map(|part| match part {
            Part::Flag(flag, value) if flag == name => {
                Some(value.as_deref().is_none_or(|v| v != "false" && v != "0"))
            }
            _ => None,
        }) == Some(true)
    }

    /// The build context.
    pub fn context(&self) -> ContextSource {
        let first = self.parts.iter().find_map(|part| match part {
            Part::Positional(word) => Some(word),
            Part::Flag(..) => None,
        });
        let Some(word) = first else { return ContextSource::Absent };
        let text = word.to_string_lossy();
        if text == "-" {
            ContextSource::Stdin
        } else if !Path::new(word).exists() && is_remote(&text) {
            ContextSource::Remote(text.into_owned())
        } else {
            ContextSource::Directory(PathBuf::from(word))
        }
    }

    /// The Dockerfile's path, by default the one in the context; `None` if it comes from
    /// standard input or from a context that is not here.
    pub fn dockerfile(&self) -> Option<PathBuf> {
        match (self.value("file"), self.context()) {
            (Some(file), _) if file == "-" => None,
            (Some(file), _) => Some(PathBuf::from(file)),
            (None, ContextSource::Directory(dir)) => {
                // The client takes the second where there is no first.
                let names = ["Dockerfile", "dockerfile"].map(|name| dir.join(name));
                let there = names.iter().find(|path| path.exists()).unwrap_or(&names[0]);
                Some(there.clone())
            }
            (None, _) => None,
        }
    }

    /// The name of the image, without its version; none if it gets none.
    pub fn image_name(&self) -> Option<String> {
        let tag = self.values("tag").next()?.to_string_lossy().into_owned();
        let last = tag.rfind('/').map_or(0, |slash| slash + 1);
        let end = tag[last..].find([':', '@']).map_or(tag.len(), |version| last + version);
        Some(tag[..end].to_owned())
    }

    /// Whether both build the same project: the same stage by the same Dockerfile.
    pub fn same_project(&self, other: &Self) -> bool {
        self.context() == other.context()
            && self.dockerfile() == other.dockerfile()
            && self.value("target") == other.value("target")
    }

    /// Whether the context or the Dockerfile comes from standard input.
    pub fn reads_stdin(&self) -> bool {
        self.context() == ContextSource::Stdin || self.value("file").is_some_and(|f| f == "-")
    }

    /// Whether images for several platforms are built at once.
    pub fn has_several_platforms(&self) -> bool {
        let values = self.values("platform").map(OsStr::as_bytes);
        values.flat_map(|value| value.split(|&b| b == b',')).nth(1).is_some()
    }

    /// One build for each platform, in the order in which they are named.
    pub(crate) fn per_platform(&self) -> Vec<Self> {
        let values = self.values("platform").map(|value| value.to_string_lossy().into_owned());
        let values: Vec<String> = values.collect();
        let platforms: Vec<&str> = values.iter().flat_map(|value| value.split(',')).collect();
        match platforms.as_slice() {
            [] | [_] => vec![self.clone()],
            several => several.iter().map(|one| self.clone().with("platform", *one)).collect(),
        }
    }

    /// What the build is made from that should be on this machine and is not.
    pub fn missing(&self) -> Option<String> {
        match self.context() {
            ContextSource::Absent => {
                return Some("no build context is named: add a directory, such as `.`".to_owned());
            }
            ContextSource::Directory(dir) if !dir.is_dir() => {
                return Some(format!("the build context `{}` is no directory", dir.display()));
            }
            ContextSource::Remote(_) => return None,
            ContextSource::Directory(_) | ContextSource::Stdin => {}
        }
        let file = self.dockerfile()?;
        let here = file.is_file() || is_remote(&file.to_string_lossy());
        (!here).then(|| format!("there is no Dockerfile `{}`", file.display()))
    }

    /// Build arguments by name. One without a value is taken from the environment.
    pub fn build_args(
        &self,
        environment: impl Fn(&str) -> Option<String>,
    ) -> BTreeMap<String, String> {
        let mut args = BTreeMap::new();
        for value in self.values("build-arg") {
            let text = value.to_string_lossy();
            match text.split_once('=') {
                Some((name, value)) => {
                    args.insert(name.to_owned(), value.to_owned());
                }
                None => {
                    args.extend(environment(&text).map(|value| (text.into_owned(), value)));
                }
            }
        }
        args
    }

    /// What `--build-context` names, each name once, with where it comes from. The last of a name
    /// counts.
    pub(crate) fn named_contexts(&self) -> BTreeMap<String, NamedSource> {
        self.values("build-context")
            .filter_map(|value| {
                let text = value.to_string_lossy();
                let (name, source) = text.split_once('=')?;
                Some((name.to_owned(), NamedSource::of(source)))
            })
            .collect()
    }

    /// The words for building the same again from cache: without what concerns the result, and
    /// without the flags in `also`. The builder's own checks of the Dockerfile are not repeated
    /// either: they could fail a copy of it.
    pub fn for_repetition(&self, also: &[&str]) -> Vec<OsString> {
        let is_check = |value: &OsStr| value.as_bytes().starts_with(b"BUILDKIT_DOCKERFILE_CHECK=");
        self.words(|flag, value| {
            let checks = flag == "build-arg" && value.is_some_and(is_check);
            !checks && !OF_THE_RESULT.contains(&flag) && !also.contains(&flag)
        })
    }

    /// The words for building one stage again from a copy of the Dockerfile, all from cache: without
    /// secrets and agents, which cached steps do not need, and which may be gone.
    pub(crate) fn for_cached_stage(&self) -> Vec<OsString> {
        self.for_repetition(&["file", "target", "secret", "ssh"])
    }

    /// The words again.
    pub fn all(&self) -> Vec<OsString> {
        self.words(|_, _| true)
    }

    /// The words again, without some flags.
    pub fn without(&self, flags: &[&str]) -> Vec<OsString> {
        self.words(|flag, _| !flags.contains(&flag))
    }

    fn words(&self, keep: impl Fn(&str, Option<&OsStr>) -> bool) -> Vec<OsString> {
        self.parts
            .iter()
            .filter_map(|part| match part {
                Part::Flag(flag, value) if !keep(flag, value.as_deref()) => None,
                Part::Flag(flag, value) => {
                    let mut word = OsString::from(format!("--{flag}"));
                    if let Some(value) = value {
                        word.push("=");
                        word.push(value);
                    }
                    Some(word)
                }
                Part::Positional(word) => Some(word.clone()),
            })
            .collect()
    }

    /// Replaces the value of a flag, or adds the flag.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.parts.retain(|part| !matches!(part, Part::Flag(flag, _) if flag == name));
        self.parts.insert(0, Part::Flag(name.to_owned(), Some(value.into())));
        self
    }
}

/// A group such as `-qt app`: switches, then at most one flag with a value.
fn parse_short(group: &[u8], words: &mut impl Iterator<Item = OsString>, parts: &mut Vec<Part>) {
    for (at, letter) in group.iter().enumerate() {
        let Some((_, name)) = SHORT.iter().find(|(l, _)| l == letter) else {
            // Unknown: the client reports it.
            let mut word = OsString::from("-");
            word.push(OsStr::from_bytes(&group[at..]));
            parts.push(Part::Positional(word));
            return;
        };
        if SWITCHES.contains(name) {
            parts.push(Part::Flag((*name).to_owned(), None));
            continue;
        }
        let rest = &group[at + 1..];
        let rest = rest.strip_prefix(b"=").unwrap_or(rest);
        let value = if at + 1 == group.len() {
            words.next()
        } else {
            Some(OsStr::from_bytes(rest).to_owned())
        };
        parts.push(Part::Flag((*name).to_owned(), value));
        return;
    }
}

/// What the docker client takes for a URL or a git repository.
fn is_remote(text: &str) -> bool {
    ["http://", "https://", "git://", "git@", "ssh://", "github.com/"]
        .iter()
        .any(|prefix| text.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> BuildArguments {
        BuildArguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn the_context_is_found_between_flags() {
        for words in [
            &["-t", "app", "."][..],
            &[".", "-t", "app"],
            &["--tag=app", "."],
            &["-qt", "app", "."],
            &["-tapp", "--no-cache", "."],
            &["--build-arg", "A=1", ".", "--pull"],
            &["--tag", "app", "--", "."],
        ] {
            let arguments = parse(words);
            assert_eq!(arguments.context(), ContextSource::Directory(".".into()), "{words:?}");
        }
        assert_eq!(parse(&["-"]).context(), ContextSource::Stdin);
        assert_eq!(parse(&["-t", "x"]).context(), ContextSource::Absent);
        let git = "https://example.com/x.git#main";
        assert_eq!(parse(&[git]).context(), ContextSource::Remote(git.into()));
    }

    #[test]
    fn the_last_value_counts_and_switches_can_be_turned_off() {
        let arguments = parse(&["-f", "a", "--file=b", "--no-cache", "--no-cache=false", "."]);
        assert_eq!(arguments.value("file"), Some(OsStr::new("b")));
        assert!(!arguments.switch("no-cache"));
        assert!(!arguments.reads_stdin());
        assert!(parse(&["-t", "x", "-"]).reads_stdin() && parse(&["-f-", "."]).reads_stdin());
        assert!(parse(&["-q", "."]).switch("quiet"));
    }

    #[test]
    fn what_is_not_there_is_said() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().to_str().unwrap();
        let missing = |words: &[&str]| parse(words).missing().unwrap_or_default();
        assert!(missing(&["-t", "app"]).contains("no build context"));
        assert!(missing(&["-t", "app", "/nowhere"]).contains("`/nowhere` is no directory"));
        assert!(missing(&[dir]).contains("no Dockerfile"));
        for there in ["dockerfile", "Dockerfile"] {
            std::fs::write(temp.path().join(there), "FROM scratch").unwrap();
            assert_eq!(parse(&[dir]).dockerfile(), Some(temp.path().join(there)));
            assert_eq!(missing(&[dir]), "");
        }
        assert!(missing(&["-f", "/nowhere", dir]).contains("no Dockerfile `/nowhere`"));
        for elsewhere in [&["-"][..], &["-f", "-", dir], &["https://example.com/x.git"]] {
            assert_eq!(missing(elsewhere), "", "{elsewhere:?}");
        }
    }

    #[test]
    fn platforms_are_counted() {
        for several in [&["--platform=a,b", "."][..], &["--platform", "a", "--platform=b", "."]] {
            assert!(parse(several).has_several_platforms(), "{several:?}");
        }
        assert!(!parse(&["--platform=a", "."]).has_several_platforms());
        assert!(!parse(&["."]).has_several_platforms());
        let each = parse(&["--platform=a,b", "--platform", "c", "."]).per_platform();
        let words: Vec<_> = each.iter().map(|one| one.value("platform").unwrap()).collect();
        assert_eq!(words, ["a", "b", "c"]);
        assert_eq!(parse(&["."]).per_platform(), [parse(&["."])]);
    }

    #[test]
    fn the_platform_comes_from_the_environment_where_no_flag_names_it() {
        let platform = |words: &[&str], value: &str| {
            let environment =
                |name: &str| (name == "DOCKER_DEFAULT_PLATFORM").then(|| value.to_owned());
            let arguments = BuildArguments::of_user(words.iter().map(OsString::from), environment);
            arguments.value("platform").map(|value| value.to_string_lossy().into_owned())
        };
        assert_eq!(platform(&["."], "linux/386").as_deref(), Some("linux/386"));
        assert_eq!(platform(&["--platform=a", "."], "linux/386").as_deref(), Some("a"));
        assert_eq!(platform(&["."], ""), None);
    }

    #[test]
    fn what_is_passed_on_means_the_same() {
        let arguments = parse(&["-qt", "app:1", "--build-arg", "A=b c", "--frobnicate", "ctx"]);
        let words = arguments.for_repetition(&[]);
        assert_eq!(words, ["--build-arg=A=b c", "--frobnicate", "ctx"]);
        assert_eq!(BuildArguments::parse(arguments.all()), arguments);
        let checked = parse(&["--build-arg=BUILDKIT_DOCKERFILE_CHECK=error=true", "."]);
        assert_eq!(checked.for_repetition(&[]), ["."]);
    }

    #[test]
    fn a_named_context_is_a_directory_or_comes_from_elsewhere() {
        let sources = [
            ("./dir", NamedSource::Directory("./dir".into())),
            ("docker-image://bb:1", NamedSource::Image("bb:1".to_owned())),
            ("oci-layout://dir:tag", NamedSource::Layout("dir:tag".to_owned())),
            ("https://h/x.git#v1", NamedSource::Elsewhere("https://h/x.git#v1".to_owned())),
            ("target:base", NamedSource::Elsewhere("target:base".to_owned())),
        ];
        for (source, expected) in sources {
            let arguments =
                parse(&["--build-context=a=one", "--build-context", &format!("a={source}"), "."]);
            assert_eq!(arguments.named_contexts(), [("a".to_owned(), expected)].into());
        }
    }

    #[test]
    fn an_image_is_named_without_its_version() {
        for (tag, name) in [
            ("app", "app"),
            ("acme/app:1.2", "acme/app"),
            ("localhost:5000/app", "localhost:5000/app"),
            ("localhost:5000/acme/app:1", "localhost:5000/acme/app"),
        ] {
            assert_eq!(parse(&["-t", tag, "-t", "other", "."]).image_name().as_deref(), Some(name));
        }
        assert_eq!(parse(&["."]).image_name(), None);
    }

    #[test]
    fn a_build_argument_without_value_comes_from_the_environment() {
        let arguments = parse(&["--build-arg", "A", "--build-arg=B=2", "--build-arg", "C", "."]);
        let args = arguments.build_args(|name| (name == "A").then(|| "from outside".to_owned()));
        let expected = [("A", "from outside"), ("B", "2")];
        assert_eq!(args, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    }
}
