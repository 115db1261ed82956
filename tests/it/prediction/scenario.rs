//! A project as data: files, ignore file, Dockerfile and arguments. It is written out for each build.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A whole project, and what a build of it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Scenario {
    /// Tells places of the context apart.
    pub(super) place: u64,
    /// Files, directories, and links of the context, by path.
    pub(super) files: BTreeMap<String, Entry>,
    pub(super) ignore: Vec<String>,
    /// Arguments before the first `FROM`.
    pub(super) globals: Vec<(String, String)>,
    pub(super) stages: Vec<Stage>,
    /// The stage that is asked for with `--target`.
    pub(super) target: Option<usize>,
    pub(super) build_args: BTreeMap<String, String>,
    /// Whether the Dockerfile is a file of the context, which then may see it.
    pub(super) inside: bool,
    /// Whether the Dockerfile's lines end as on Windows.
    pub(super) crlf: bool,
}

/// Something in the context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) kind: EntryKind,
    pub(super) mode: u32,
    /// Seconds that the modification time is set back; 0 leaves it alone.
    pub(super) age: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    File(String),
    Directory,
    Link(String),
}

/// A stage, which ends with a `RUN` whose result is never the same twice, except from scratch.
///
/// So its files are other ones whenever it was built anew, and a copy from it is a hit exactly if
/// the whole stage is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stage {
    pub(super) name: Option<String>,
    pub(super) base: BaseName,
    pub(super) lines: Vec<Line>,
    /// Names the file that the last `RUN` writes.
    pub(super) id: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BaseName {
    Image(String),
    /// A global argument that holds the image.
    Argument(String),
    Stage(usize),
    Scratch,
}

/// One instruction and how it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) instruction: Instruction,
    /// A comment above it.
    pub(super) comment: Option<String>,
    pub(super) lower_case: bool,
    /// Whether it is broken after its flags.
    pub(super) broken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    Run {
        flags: Vec<String>,
        /// A bind mount from this stage.
        mount_from: Option<usize>,
        command: String,
        /// The body of a heredoc.
        script: Option<String>,
    },
    Copy {
        verb: &'static str,
        flags: Vec<String>,
        from: Option<usize>,
        sources: Vec<String>,
        destination: String,
    },
    /// A file that is written in the Dockerfile.
    Inline { body: String, quoted: bool, destination: String },
    /// Any other: keyword and arguments.
    Plain(&'static str, String),
}

impl Line {
    pub(super) fn new(instruction: Instruction) -> Self {
        Self { instruction, comment: None, lower_case: false, broken: false }
    }

    pub(super) fn plain(keyword: &'static str, arguments: impl Into<String>) -> Self {
        Self::new(Instruction::Plain(keyword, arguments.into()))
    }
}

impl Entry {
    pub(super) fn file(content: impl Into<String>) -> Self {
        Self { kind: EntryKind::File(content.into()), mode: 0o644, age: 0 }
    }

    pub(super) fn directory() -> Self {
        Self { kind: EntryKind::Directory, mode: 0o755, age: 0 }
    }

    pub(super) fn link(target: impl Into<String>) -> Self {
        Self { kind: EntryKind::Link(target.into()), mode: 0o777, age: 0 }
    }

    fn write(&self, path: &Path) {
        match &self.kind {
            EntryKind::Link(target) => return symlink(target, path).expect("a link"),
            EntryKind::Directory if path.is_dir() => {}
            EntryKind::Directory => fs::create_dir(path).expect("a directory"),
            EntryKind::File(content) => fs::write(path, content).expect("a file"),
        }
        fs::set_permissions(path, Permissions::from_mode(self.mode)).expect("a mode");
        if self.age > 0 {
            let time = SystemTime::now() - Duration::from_secs(self.age);
            let file = File::open(path).expect("an open file");
            file.set_times(FileTimes::new().set_modified(time)).expect("a time");
        }
    }
}

impl Scenario {
    /// Writes the context and the Dockerfile, where they differ from what is there already.
    pub(super) fn write(&self, dir: &Path, before: Option<&Self>) {
        let context = self.context(dir);
        match before {
            Some(before) if before.place == self.place => {}
            Some(before) => fs::rename(before.context(dir), &context).expect("a moved context"),
            None => fs::create_dir(&context).expect("a context"),
        }
        let nothing = BTreeMap::new();
        let old = before.map_or(&nothing, |b| &b.files);
        let other = |kind: &EntryKind, then: &Entry| {
            then.kind != *kind
                && (then.kind == EntryKind::Directory) != (*kind == EntryKind::Directory)
        };
        for (path, entry) in old.iter().rev() {
            let at = context.join(path);
            let replaced = self.files.get(path).is_none_or(|new| other(&new.kind, entry));
            if replaced && entry.kind == EntryKind::Directory {
                fs::remove_dir(at).expect("an empty directory");
            } else if replaced || matches!(entry.kind, EntryKind::Link(_)) {
                fs::remove_file(at).expect("a removed file");
            }
        }
        for (path, entry) in &self.files {
            let link = matches!(entry.kind, EntryKind::Link(_));
            if link || old.get(path) != Some(entry) {
                entry.write(&context.join(path));
            }
        }
        let ignore = context.join(".dockerignore");
        if self.ignore.is_empty() {
            let _ = fs::remove_file(ignore);
        } else {
            fs::write(ignore, self.ignore.join("\n")).expect("an ignore file");
        }
        for inside in [false, true] {
            let file = self.file(dir, inside);
            if inside == self.inside {
                fs::write(file, self.dockerfile()).expect("a Dockerfile");
            } else {
                let _ = fs::remove_file(file);
            }
        }
    }

    fn context(&self, dir: &Path) -> PathBuf {
        dir.join(format!("context{}", self.place))
    }

    fn file(&self, dir: &Path, inside: bool) -> PathBuf {
        if inside { self.context(dir) } else { dir.to_owned() }.join("Dockerfile")
    }

    /// The words after `docker build`, for the directory that [`Self::write`] wrote to.
    pub(super) fn arguments(&self, dir: &Path) -> Vec<String> {
        let file = self.file(dir, self.inside);
        let mut words = vec!["--file".to_owned(), file.display().to_string()];
        if let Some(target) = self.target {
            words.extend(["--target".to_owned(), self.name_of(target)]);
        }
        for (name, value) in &self.build_args {
            words.extend(["--build-arg".to_owned(), format!("{name}={value}")]);
        }
        words.push(self.context(dir).display().to_string());
        words
    }

    /// How another stage refers to this one.
    fn name_of(&self, stage: usize) -> String {
        self.stages[stage].name.clone().unwrap_or_else(|| stage.to_string())
    }

    pub(super) fn dockerfile(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.globals {
            let _ = writeln!(text, "ARG {name}={value}");
        }
        for stage in &self.stages {
            let base = match &stage.base {
                BaseName::Image(image) => image.clone(),
                BaseName::Argument(name) => format!("${name}"),
                BaseName::Stage(index) => self.name_of(*index),
                BaseName::Scratch => "scratch".to_owned(),
            };
            let name = stage.name.as_ref().map_or_else(String::new, |name| format!(" AS {name}"));
            let _ = writeln!(text, "\nFROM {base}{name}");
            for line in &stage.lines {
                self.line(&mut text, line);
            }
            if !self.is_from_scratch(stage) {
                let _ =
                    writeln!(text, "RUN cat /proc/sys/kernel/random/uuid > {}", stage.id_file());
            }
        }
        if self.crlf { text.replace('\n', "\r\n") } else { text }
    }

    pub(super) fn is_from_scratch(&self, stage: &Stage) -> bool {
        match stage.base {
            BaseName::Scratch => true,
            BaseName::Stage(index) => self.is_from_scratch(&self.stages[index]),
            _ => false,
        }
    }

    fn line(&self, text: &mut String, line: &Line) {
        let (keyword, mut flags, rest, heredoc) = match &line.instruction {
            Instruction::Run { flags, mount_from, command, script } => {
                let mut flags = flags.clone();
                flags.extend(mount_from.map(|from| {
                    format!("--mount=from={},source=/tmp,target=/mnt", self.mount_name(from))
                }));
                let (command, body) = match script {
                    Some(body) => (format!("{command}<<EOT"), Some(body)),
                    None => (command.clone(), None),
                };
                ("RUN", flags, command, body)
            }
            Instruction::Copy { verb, flags, from, sources, destination } => {
                let mut flags = flags.clone();
                flags.extend(from.map(|from| format!("--from={}", self.name_of(from))));
                (*verb, flags, format!("{} {destination}", sources.join(" ")), None)
            }
            Instruction::Inline { body, quoted, destination } => {
                let mark = if *quoted { "<<\"EOT\"" } else { "<<EOT" };
                ("COPY", Vec::new(), format!("{mark} {destination}"), Some(body))
            }
            Instruction::Plain(keyword, arguments) => {
                (*keyword, Vec::new(), arguments.clone(), None)
            }
        };
        if let Some(comment) = &line.comment {
            let _ = writeln!(text, "# {comment}");
        }
        let keyword = if line.lower_case { keyword.to_lowercase() } else { keyword.to_owned() };
        let mut words = vec![keyword];
        words.append(&mut flags);
        let separator = if line.broken { " \\\n# in between\n  " } else { " " };
        let _ = writeln!(text, "{}{separator}{rest}", words.join(separator));
        if let Some(body) = heredoc {
            let _ = writeln!(text, "{body}\nEOT");
        }
    }

    /// A mount takes no index.
    fn mount_name(&self, stage: usize) -> String {
        self.stages[stage].name.clone().expect("a stage that is mounted has a name")
    }

    /// The project as one text, for the report of a mismatch.
    pub(super) fn describe(&self) -> String {
        let mut text = format!("docker build {}\n", self.arguments(Path::new("")).join(" "));
        for (path, Entry { kind, mode, age }) in &self.files {
            let _ = writeln!(text, "  {mode:o} {path} {kind:?} {age}");
        }
        let _ = writeln!(text, "--- .dockerignore\n{}", self.ignore.join("\n"));
        let _ = writeln!(text, "--- Dockerfile\n{}", self.dockerfile());
        text
    }
}

impl Stage {
    /// The file that holds another content after each run.
    pub(super) fn id_file(&self) -> String {
        format!("/tmp/id{}", self.id)
    }
}
