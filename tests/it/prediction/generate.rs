//! Makes random projects that a builder accepts.

use super::scenario::{BaseName, Entry, Instruction, Line, Scenario, Stage};
use crate::random::Random;

/// The base images that the engine has; their files differ.
pub(super) const BASES: [&str; 2] = ["base:1", "base:2"];

/// What the builder under test understands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    /// Mounts, heredocs, `--link`, and the rest of BuildKit's Dockerfile.
    pub(super) buildkit: bool,
    /// Docker 28.5 and not 26.1: `COPY --exclude` without a `# syntax` line, and what 26.1 does not
    /// decide by its input alone.
    pub(super) newer: bool,
}

/// Makes projects and parts of them.
#[derive(Debug)]
pub(super) struct Generator {
    pub(super) random: Random,
    pub(super) dialect: Dialect,
    counter: u64,
}

impl Generator {
    pub(super) fn new(seed: u64, dialect: Dialect) -> Self {
        Self { random: Random::new(seed), dialect, counter: 0 }
    }

    /// A number that was not used before.
    pub(super) fn fresh(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// A word that no build has seen.
    pub(super) fn word(&mut self) -> String {
        format!("w{}", self.fresh())
    }

    /// A few words, so that other instructions may well have the same.
    pub(super) fn common_word(&mut self) -> &'static str {
        self.random.pick::<&str>(&["red", "green", "blue"])
    }

    pub(super) fn scenario(&mut self) -> Scenario {
        let mut scenario = Scenario {
            inside: self.random.once_in(3) || !self.dialect.buildkit,
            crlf: self.random.once_in(6),
            ..Scenario::default()
        };
        self.files(&mut scenario);
        self.ignore(&mut scenario);
        scenario.globals.push(("BASE".to_owned(), (*self.random.pick(&BASES)).to_owned()));
        scenario.globals.push(("SHARED".to_owned(), self.common_word().to_owned()));
        for _ in 0..2 + self.random.below(4) {
            let stage = self.stage(&scenario);
            scenario.stages.push(stage);
        }
        if self.random.once_in(4) {
            scenario.target = self.target(&scenario);
        }
        for _ in 0..self.random.below(3) {
            let (name, value) = self.build_arg();
            scenario.build_args.insert(name, value);
        }
        scenario
    }

    /// A stage that has a name, most often, or none.
    pub(super) fn target(&mut self, scenario: &Scenario) -> Option<usize> {
        let stages: Vec<usize> = (0..scenario.stages.len())
            .filter(|&i| scenario.stages[i].name.is_some() || self.random.once_in(20))
            .collect();
        self.random.maybe_pick(&stages).filter(|_| !self.random.once_in(3))
    }

    fn files(&mut self, scenario: &mut Scenario) {
        let word = self.word();
        for path in ["src", "src/deep", "docs", "logs", "node_modules"] {
            scenario.files.insert(path.to_owned(), Entry::directory());
        }
        for path in [
            "a.txt",
            "b.txt",
            "conf.json",
            "src/main.c",
            "src/util.c",
            "src/keep.c",
            "src/deep/x.h",
            "src/deep/keep.h",
            "docs/readme.md",
            "docs/keep.md",
            "logs/x.log",
            "logs/keep.log",
            "node_modules/x.js",
        ] {
            let mut entry = Entry::file(format!("{path} of {word}\n"));
            entry.mode = *self.random.pick(&[0o644, 0o644, 0o755, 0o600]);
            scenario.files.insert(path.to_owned(), entry);
        }
        if self.dialect.buildkit {
            let target = self.link_target();
            scenario.files.insert("src/link".to_owned(), Entry::link(target));
        }
    }

    /// What `src/link` leads to.
    pub(super) fn link_target(&mut self) -> &'static str {
        let target = *self.random.pick(&["main.c", "deep", "/a.txt", "nowhere"]);
        if target == "/a.txt" && !self.dialect.newer { "util.c" } else { target }
    }

    fn ignore(&mut self, scenario: &mut Scenario) {
        scenario.ignore.push("node_modules".to_owned());
        for _ in 0..self.random.below(4) {
            let line = self.ignore_line();
            scenario.ignore.push(line);
        }
        if self.random.once_in(2) {
            scenario.ignore.push("Dockerfile".to_owned());
        }
    }

    pub(super) fn ignore_line(&mut self) -> String {
        // The classic client sends a re-included file without its directory, which then has no
        // mode of its own: what the builder counts instead is no rule of anything.
        const EVERY: &[&str] =
            &["**/x.*", "src/util.c", "*.log", "# a comment", "src/deep/x.h", "other", "/logs/"];
        const BUILDKIT: &[&str] =
            &["logs", "docs", "!docs/readme.md", "!src/util.c", "!logs", "!**/*.log", "docs/*"];
        let lines = if self.dialect.buildkit { [EVERY, BUILDKIT].concat() } else { EVERY.to_vec() };
        (*self.random.pick(&lines)).to_owned()
    }

    pub(super) fn build_arg(&mut self) -> (String, String) {
        let name =
            *self.random.pick(&["SHARED", "COLOUR", "UNUSED", "HTTP_PROXY", "BASE", "DEPTH"]);
        let value = match name {
            "BASE" => (*self.random.pick(&BASES)).to_owned(),
            "HTTP_PROXY" => format!("http://{}.invalid", self.common_word()),
            _ => self.common_word().to_owned(),
        };
        (name.to_owned(), value)
    }

    /// Makes a stage that may use those that are there.
    pub(super) fn stage(&mut self, scenario: &Scenario) -> Stage {
        let usable = usable(scenario, scenario.stages.len());
        let base = match self.random.below(6) {
            0 | 1 => BaseName::Image((*self.random.pick(&BASES)).to_owned()),
            2 => BaseName::Argument("BASE".to_owned()),
            // Nothing may stand on a stage that can't run anything.
            3 if !usable.is_empty() => BaseName::Scratch,
            _ => self
                .random
                .maybe_pick(&named(scenario, &usable))
                .map_or_else(|| BaseName::Image(BASES[0].to_owned()), BaseName::Stage),
        };
        let id = self.fresh();
        let name = (!self.random.once_in(3)).then(|| format!("stage{id}"));
        let mut stage = Stage { name, base, lines: Vec::new(), id };
        for _ in 0..2 + self.random.below(4) {
            let line = self.line(scenario, &stage, &usable);
            stage.lines.push(line);
        }
        if stage.base == BaseName::Scratch {
            // Something must be in it.
            let line = self.copy();
            stage.lines.push(line);
        }
        stage
    }

    /// Makes an instruction that may use the stages in `usable`.
    pub(super) fn line(&mut self, scenario: &Scenario, stage: &Stage, usable: &[usize]) -> Line {
        let scratch = scenario.is_from_scratch(stage);
        let mut line = loop {
            let line = match self.random.below(14) {
                0..=2 if !scratch => self.run(scenario, usable),
                3..=6 => self.copy(),
                7 | 8 => match self.random.maybe_pick(usable) {
                    Some(from) => self.copy_from(scenario, from),
                    None => continue,
                },
                9 if self.dialect.buildkit => Line::new(Instruction::Inline {
                    body: format!("{} is $COLOUR", self.common_word()),
                    quoted: self.random.once_in(2),
                    destination: format!("/inline{}", self.fresh()),
                }),
                10..=13 => self.plain(scratch),
                _ => continue,
            };
            break line;
        };
        line.broken = self.random.once_in(5);
        line.lower_case = self.random.once_in(8);
        line
    }

    fn run(&mut self, scenario: &Scenario, usable: &[usize]) -> Line {
        let word = self.common_word();
        let mut flags = Vec::new();
        let mut mount_from = None;
        let mut script = None;
        if self.dialect.buildkit {
            let choice = self.random.below(4);
            if choice < 2 {
                let mut mounts = vec![
                    "--mount=type=cache,target=/cache",
                    "--mount=type=cache,id=own,target=/cache",
                    "--mount=type=tmpfs,target=/ram",
                    "--mount=type=bind,source=src,target=/mnt/src",
                    "--mount=source=a.txt,target=/mnt/a.txt",
                    "--mount=target=/mnt/all",
                    "--network=none",
                ];
                if self.dialect.newer {
                    mounts.push("--mount=type=secret,id=token");
                }
                flags.push((*self.random.pick(&mounts)).to_owned());
            } else if choice == 2 {
                mount_from = self.random.maybe_pick(&named(scenario, usable));
            }
            script = self.random.once_in(5).then(|| format!("true {word}\ntrue $SHARED"));
        }
        let command = match self.random.below(4) {
            _ if script.is_some() => String::new(),
            0 => format!("[\"/bin/true\", \"{word}\"]"),
            1 => "true $COLOUR $SHARED".to_owned(),
            2 => format!("true  {word}   {}", self.word()),
            _ => format!("true {word}"),
        };
        Line::new(Instruction::Run { flags, mount_from, command, script })
    }

    fn copy_flags(&mut self, from_context: bool) -> Vec<String> {
        let mut flags = Vec::new();
        if self.random.once_in(4) {
            flags.push(self.copy_flag(from_context));
        }
        flags
    }

    /// A flag of a `COPY`.
    pub(super) fn copy_flag(&mut self, from_context: bool) -> String {
        let mut flags = vec!["--chown=1000:1000", "--chown=0"];
        if self.dialect.buildkit {
            flags.extend(["--chmod=755", "--chmod=0644", "--link"]);
        }
        if self.dialect.buildkit && self.dialect.newer && from_context {
            flags.extend(["--exclude=*.c", "--exclude=**/x.*", "--exclude=nothing"]);
        }
        (*self.random.pick(&flags)).to_owned()
    }

    pub(super) fn sources(&mut self) -> Vec<String> {
        let sources = *self.random.pick(&[
            "a.txt",
            "conf.json",
            "src",
            "src/",
            ".",
            "*.txt",
            "src/*.c",
            "s*",
            "a.txt conf.json",
            "conf.json a.txt",
            "src a.txt",
            "src/main.c",
            "src/de?p",
            "src/deep src",
            "[a-c]*",
        ]);
        sources.split(' ').map(str::to_owned).collect()
    }

    fn copy(&mut self) -> Line {
        let destination = match self.random.below(3) {
            0 => format!("c{}/", self.fresh()),
            1 => format!("/c{}/x/", self.fresh()),
            // The same destination in two stages may be the same step.
            _ => (*self.random.pick(&["/same/", "/$COLOUR/", "./"])).to_owned(),
        };
        Line::new(Instruction::Copy {
            verb: if self.random.once_in(4) { "ADD" } else { "COPY" },
            flags: self.copy_flags(true),
            from: None,
            sources: self.sources(),
            destination,
        })
    }

    fn copy_from(&mut self, scenario: &Scenario, from: usize) -> Line {
        Line::new(Instruction::Copy {
            verb: "COPY",
            flags: self.copy_flags(false),
            from: Some(from),
            sources: vec![scenario.stages[from].id_file()],
            destination: format!("/from{}", self.fresh()),
        })
    }

    fn plain(&mut self, scratch: bool) -> Line {
        let word = self.common_word();
        match self.random.below(if scratch { 6 } else { 10 }) {
            0 => Line::plain("ENV", format!("COLOUR={word}")),
            1 => Line::plain("ENV", format!("A={word} B=$COLOUR")),
            2 => Line::plain("LABEL", format!("label={word}")),
            3 => Line::plain("WORKDIR", *self.random.pick(&["/w", "sub", "../up", "/w/$COLOUR"])),
            4 => Line::plain("CMD", format!("[\"{word}\"]")),
            5 => Line::plain("EXPOSE", *self.random.pick(&["80", "443/tcp"])),
            6 => Line::plain("ARG", *self.random.pick(&["SHARED", "COLOUR", "UNUSED=none"])),
            7 => Line::plain("ARG", format!("DEPTH={word}")),
            8 => Line::plain("USER", *self.random.pick(&["root", "0", "65534", "nobody"])),
            _ => Line::plain(
                "SHELL",
                *self.random.pick(&["[\"/bin/sh\", \"-c\"]", "[\"/bin/sh\", \"-ec\"]"]),
            ),
        }
    }
}

/// Those that have a name: `FROM` and mounts take no index.
fn named(scenario: &Scenario, stages: &[usize]) -> Vec<usize> {
    stages.iter().copied().filter(|&stage| scenario.stages[stage].name.is_some()).collect()
}

/// The stages before one that others can copy from and stand on.
pub(super) fn usable(scenario: &Scenario, before: usize) -> Vec<usize> {
    (0..before).filter(|&i| !scenario.is_from_scratch(&scenario.stages[i])).collect()
}
