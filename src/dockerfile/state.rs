//! What a stage's instructions do to the state that the next instruction sees.

use super::environment::Environment;
use super::error::Problem;
use super::expand::Expander;
use super::instruction::{Argument, CommandLine, Instruction, InstructionKind, Run, Transfer};
use super::mount::{self, MountKind};
use super::options::{BaseConfig, BuildOptions};
use super::parse::is_heredoc;
use super::path;
use super::step::{Action, Base, CopyAction, CopySource, PlannedMount, RunAction, Step};
use std::collections::HashSet;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Arguments that steer the builder's scanners and never reach a command.
const SCANNER_ARGUMENTS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Arguments that every command gets without an `ARG`.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// What all stages of a build share.
pub(crate) struct Surroundings<'a> {
    pub(crate) options: &'a BuildOptions,
    pub(crate) globals: &'a Environment,
    pub(crate) expander: &'a Expander,
    /// Resolves `--from`; the flag says whether an index is allowed.
    pub(crate) origin: &'a dyn Fn(&str, bool) -> Result<Base, Problem>,
}

/// The state behind one instruction of a stage.
#[derive(Clone, Default)]
pub(crate) struct StageState {
    /// What commands and expansions see: `ENV`, and `ARG` in scope.
    environment: Environment,
    /// What the image's config holds: `ENV` only.
    image_environment: Environment,
    user: Option<String>,
    /// The working directory, empty where none is set.
    workdir: String,
    shell: Option<Vec<String>>,
}

impl StageState {
    /// Starts a stage from an external image, or from nothing.
    pub(crate) fn on_image(
        config: Option<&BaseConfig>,
        scratch: bool,
        surroundings: &Surroundings<'_>,
    ) -> Result<Self, Problem> {
        let config = config.cloned().unwrap_or_default();
        let workdir = config.workdir.filter(|workdir| !workdir.is_empty());
        let mut state = Self {
            environment: Environment::default(),
            image_environment: config.environment,
            user: config.user.filter(|user| !user.is_empty()),
            workdir: match workdir {
                Some(workdir) => surroundings.options.workdir("/", &workdir),
                None if scratch => "/".to_owned(),
                None => String::new(),
            },
            shell: config.shell.filter(|shell| !shell.is_empty()),
        };
        state.apply_image_environment(surroundings)?;
        Ok(state)
    }

    /// Starts a stage from another stage, whose arguments the classic builder does not hand on.
    pub(crate) fn on_stage(base: &Self, surroundings: &Surroundings<'_>) -> Result<Self, Problem> {
        let mut state = base.clone();
        if surroundings.options.classic {
            state.environment = Environment::default();
        }
        state.apply_image_environment(surroundings)?;
        Ok(state)
    }

    fn apply_image_environment(&mut self, surroundings: &Surroundings<'_>) -> Result<(), Problem> {
        if self.image_environment.get("PATH").is_none() {
            self.image_environment.set("PATH", DEFAULT_PATH);
        }
        let variables: Vec<(&str, &str)> =
            self.image_environment.iter_by_first_definition().collect();
        // Most often they stand there already, in this order.
        let present: Vec<(&str, &str)> = self.environment.iter().collect();
        if present.ends_with(&variables) {
            return Ok(());
        }
        for (name, value) in variables {
            surroundings.expander.charge(name.len() + value.len())?;
            self.environment.set(name, value);
        }
        Ok(())
    }

    /// Runs one instruction, and returns what the builder does for it.
    pub(crate) fn run(
        &mut self,
        instruction: &Instruction,
        on_build: bool,
        surroundings: &Surroundings<'_>,
    ) -> Result<Step, Problem> {
        let expand = |word: &str| surroundings.expander.expand(word, &self.environment);
        let action = match &instruction.kind {
            InstructionKind::Run(run) => Action::Run(self.run_action(run, surroundings)?),
            InstructionKind::Copy(transfer) => {
                Action::Copy(self.copy_action(transfer, false, surroundings)?)
            }
            InstructionKind::Add(transfer) => {
                Action::Copy(self.copy_action(transfer, true, surroundings)?)
            }
            InstructionKind::Workdir(directory) => {
                let options = surroundings.options;
                self.workdir = options.workdir(&self.workdir, &expand(directory)?);
                match self.workdir.as_str() {
                    "/" => metadata(["WORKDIR", "/"]),
                    path => Action::Workdir {
                        // BuildKit cleans the path of what it makes, whatever commands see.
                        path: if options.classic { path.to_owned() } else { path::join("/", path) },
                        owner: self.user.clone(),
                        time: options.directory_time,
                    },
                }
            }
            InstructionKind::Env(pairs) => {
                // All values see the environment before the instruction.
                let pairs = expand_pairs(pairs, &expand)?;
                for (name, value) in &pairs {
                    self.environment.set(name, value);
                    self.image_environment.set(name, value);
                }
                metadata(std::iter::once("ENV").chain(both(&pairs)))
            }
            InstructionKind::Arg(arguments) => {
                let mut words = vec!["ARG".to_owned()];
                for argument in arguments {
                    words.push(argument.name.clone());
                    // Not the value that the command line gives: it counts where it is used.
                    words.extend(argument.default.as_deref().map(expand).transpose()?);
                }
                for argument in arguments {
                    self.declare(argument, surroundings)?;
                }
                Action::Metadata { words }
            }
            InstructionKind::User(user) => {
                self.user = Some(expand(user)?).filter(|user| !user.is_empty());
                metadata(std::iter::once("USER").chain(self.user.as_deref()))
            }
            InstructionKind::Shell(shell) => {
                self.shell = Some(shell.clone());
                metadata(std::iter::once("SHELL").chain(shell.iter().map(String::as_str)))
            }
            InstructionKind::Label(pairs) => {
                let pairs = expand_pairs(pairs, &expand)?;
                metadata(std::iter::once("LABEL").chain(both(&pairs)))
            }
            InstructionKind::Volume(volumes) => {
                let mut words = vec!["VOLUME".to_owned()];
                for volume in volumes {
                    let volume = expand(volume)?;
                    if volume.is_empty() {
                        return Err(Problem::EmptyVolume);
                    }
                    words.push(volume);
                }
                Action::Metadata { words }
            }
            InstructionKind::StopSignal(signal) => metadata(["STOPSIGNAL", &expand(signal)?]),
            InstructionKind::Expose(ports) => {
                let mut words = vec!["EXPOSE".to_owned()];
                for port in ports {
                    // The builder says itself what is wrong with a port.
                    words.push(expand(port).unwrap_or_else(|_| port.clone()));
                }
                Action::Metadata { words }
            }
            InstructionKind::Cmd(_)
            | InstructionKind::Entrypoint(_)
            | InstructionKind::Healthcheck(_)
            | InstructionKind::Maintainer(_)
            | InstructionKind::Onbuild(_) => metadata([instruction.text.as_str()]),
        };
        Ok(Step { lines: instruction.lines, text: instruction.text.clone(), on_build, action })
    }

    /// Declares an argument: the command line wins over the default, the default over the globals.
    fn declare(
        &mut self,
        argument: &Argument,
        surroundings: &Surroundings<'_>,
    ) -> Result<(), Problem> {
        let given = surroundings.options.build_args.get(&argument.name);
        let value = match (given, &argument.default) {
            (Some(value), _) => Some(value.clone()),
            (None, Some(default)) => {
                Some(surroundings.expander.expand(default, &self.environment)?)
            }
            (None, None) => surroundings.globals.get(&argument.name).map(str::to_owned),
        };
        if let Some(value) = value
            && !SCANNER_ARGUMENTS.contains(&argument.name.as_str())
        {
            self.environment.set(&argument.name, &value);
        }
        Ok(())
    }

    fn run_action(&self, run: &Run, surroundings: &Surroundings<'_>) -> Result<RunAction, Problem> {
        surroundings.expander.charge_command(self.environment.bytes())?;
        let (arguments, script) = self.command(&run.command);
        let expand = |word: &str| surroundings.expander.expand(word, &self.environment);
        let workdir = if self.workdir.is_empty() { "/" } else { &self.workdir };
        let mounts = run
            .mounts
            .iter()
            .map(|text| {
                let mut mount = mount::parse(text, &expand)?;
                let has_files = matches!(mount.kind, MountKind::Bind | MountKind::Cache);
                match mount.kind {
                    MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {
                        if mount.kind == MountKind::Cache {
                            mount.fill_cache_identity(&surroundings.options.cache_namespace);
                        }
                        // As written where it is absolute: that is what the builder digests.
                        if !mount.target.starts_with('/') {
                            mount.target = path::join(workdir, &mount.target);
                        }
                        mount.source = path::join("/", &mount.source);
                        if mount.target == "/" {
                            return Err(Problem::Mount {
                                reason: format!("invalid mount target {:?}", mount.target),
                            });
                        }
                    }
                    MountKind::Secret => mount.fill_secret_defaults(),
                    MountKind::Ssh => {}
                }
                let origin = match &mount.from {
                    Some(from) if has_files => Some((surroundings.origin)(from, false)?),
                    None if mount.kind == MountKind::Cache => Some(Base::Scratch),
                    _ => None,
                };
                Ok(PlannedMount { mount, origin })
            })
            .collect::<Result<_, _>>()?;
        Ok(RunAction {
            arguments,
            script,
            environment: self.environment.clone(),
            user: self.user.clone(),
            workdir: workdir.to_owned(),
            mounts,
            // An instruction's own mode wins, if it names one other than the default.
            network: run
                .network
                .clone()
                .filter(|mode| mode != "default")
                .or_else(|| surroundings.options.network.clone()),
            security: run.security.clone(),
            devices: run.devices.clone(),
            settings: self.settings(surroundings.options),
        })
    }

    fn settings(&self, options: &BuildOptions) -> Vec<(String, String)> {
        let mut settings = options.run_settings.clone();
        if !options.classic {
            return settings;
        }
        // The classic builder writes the number of arguments before the command where there are
        // any. Proxies are left out, but where there are no others it writes a zero.
        let of_image: HashSet<&str> = self.image_environment.iter().map(|(name, _)| name).collect();
        let has_arguments = self.environment.iter().any(|(name, _)| !of_image.contains(name));
        let has_proxies = options
            .build_args
            .keys()
            .any(|name| PROXIES.contains(&name.as_str()) && self.environment.get(name).is_none());
        if has_proxies && !has_arguments {
            settings.push(("arguments".to_owned(), "0".to_owned()));
        }
        settings
    }

    /// Returns the whole command, and the heredoc that it runs as a script, if it does.
    fn command(&self, command: &CommandLine) -> (Vec<String>, Option<(String, String)>) {
        let mut text = command.words.join(" ");
        if let Some(first) = command.heredocs.first() {
            if is_heredoc(&text) {
                let body = first.text();
                if body.starts_with("#!") {
                    let arguments = vec![path::join("/dev/pipes", &first.name)];
                    return (arguments, Some((first.name.clone(), body)));
                }
                text = body;
            } else {
                for heredoc in &command.heredocs {
                    text.push('\n');
                    text.push_str(&heredoc.content);
                    text.push_str(&heredoc.name);
                }
            }
        }
        if !command.shell_form {
            return (command.words.clone(), None);
        }
        let default = || vec!["/bin/sh".to_owned(), "-c".to_owned()];
        let mut arguments = self.shell.clone().unwrap_or_else(default);
        arguments.push(text);
        (arguments, None)
    }

    fn copy_action(
        &self,
        transfer: &Transfer,
        is_add: bool,
        surroundings: &Surroundings<'_>,
    ) -> Result<CopyAction, Problem> {
        let expand = |word: &str| surroundings.expander.expand(word, &self.environment);
        let optional = |word: &Option<String>| -> Result<Option<String>, Problem> {
            let word = word.as_deref().map(expand).transpose()?;
            Ok(word.filter(|word| !word.is_empty()))
        };
        let mut sources = Vec::new();
        for source in &transfer.sources {
            sources.push(copy_source(&expand(source)?, transfer.parents, is_add)?);
        }
        for heredoc in &transfer.heredocs {
            let content = heredoc.text();
            let content = if heredoc.expand {
                surroundings.expander.heredoc(&content, &self.environment)?
            } else {
                content
            };
            sources.push(CopySource::Inline { name: heredoc.name.clone(), content });
        }
        let checksum = optional(&transfer.checksum)?;
        if checksum.is_some()
            && !matches!(sources.as_slice(), [CopySource::Url(_) | CopySource::Git(_)])
        {
            let reason = match sources.len() {
                1 => "checksum requires HTTP(S) or Git sources",
                _ => "checksum can't be specified for multiple sources",
            };
            return Err(Problem::Copy { reason: reason.to_owned() });
        }
        let from = transfer.from.as_deref();
        Ok(CopyAction {
            sources,
            origin: from.map(|from| (surroundings.origin)(from, true)).transpose()?,
            destination: path::destination(&self.workdir, &expand(&transfer.destination)?),
            owner: optional(&transfer.owner)?,
            mode: optional(&transfer.mode)?,
            link: transfer.link,
            parents: transfer.parents,
            // The builder expands no variable in them.
            exclude: transfer.exclude.clone(),
            checksum,
            keep_git_directory: transfer.keep_git_directory,
            unpack: transfer.unpack,
            is_add,
        })
    }
}

fn metadata<'a>(words: impl IntoIterator<Item = &'a str>) -> Action {
    Action::Metadata { words: words.into_iter().map(str::to_owned).collect() }
}

fn expand_pairs(
    pairs: &[(String, String)],
    expand: &dyn Fn(&str) -> Result<String, Problem>,
) -> Result<Vec<(String, String)>, Problem> {
    pairs.iter().map(|(name, value)| Ok((expand(name)?, expand(value)?))).collect()
}

fn both(pairs: &[(String, String)]) -> impl Iterator<Item = &str> {
    pairs.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()])
}

/// Tells paths, URLs, and git references apart.
fn copy_source(source: &str, parents: bool, is_add: bool) -> Result<CopySource, Problem> {
    let is_url = source.starts_with("http://") || source.starts_with("https://");
    let remote = match (is_git(source), is_url) {
        (true, _) => Some((CopySource::Git(source.to_owned()), "git ref")),
        (false, true) => Some((CopySource::Url(source.to_owned()), "URL")),
        (false, false) => None,
    };
    match remote {
        Some((_, kind)) if !is_add => {
            Err(Problem::Copy { reason: format!("source can't be a {kind} for COPY") })
        }
        Some((source, _)) => Ok(source),
        None if parents => {
            let (path, below) = source.split_once("/./").unwrap_or(("/", source));
            let below = path::join("/", below).split_off(1);
            Ok(CopySource::Files { path: path::join("/", path), below: Some(below) })
        }
        None => Ok(CopySource::Files { path: path::join("/", source), below: None }),
    }
}

/// Returns whether a source is a git reference; a URL is one where its path ends with `.git`.
fn is_git(source: &str) -> bool {
    if source.starts_with("git://") || source.starts_with("ssh://") {
        return true;
    }
    if let Some(rest) = source.strip_prefix("http://").or_else(|| source.strip_prefix("https://")) {
        let path = rest.split(['#', '?']).next().unwrap_or_default();
        return path.rsplit_once('/').is_some_and(|(_, last)| last.strip_suffix(".git").is_some());
    }
    // The form of scp: user@host:path.
    source.split_once('@').is_some_and(|(user, rest)| {
        let word = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
        !user.is_empty()
            && user.chars().all(word)
            && rest.split_once(':').is_some_and(|(host, path)| {
                !host.is_empty() && host.chars().all(word) && !path.is_empty()
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart() {
        for (source, git) in [
            ("git://host/x", true),
            ("git@github.com:a/b.git", true),
            ("https://github.com/a/b.git", true),
            ("https://github.com/a/b.git#v1:dir", true),
            ("https://github.com/a/b", false),
            ("github.com/a/b", false),
            ("a@b", false),
            ("dir/x@y:z", false),
        ] {
            assert_eq!(is_git(source), git, "{source}");
        }
        assert!(copy_source("https://x/y", false, false).is_err());
        assert_eq!(
            copy_source("a/./b/c", true, false),
            Ok(CopySource::Files { path: "/a".to_owned(), below: Some("b/c".to_owned()) })
        );
    }
}
