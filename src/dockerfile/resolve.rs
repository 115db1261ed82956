//! What the names in a Dockerfile mean: global arguments, bases, and the `--from` of a copy.

use super::environment::Environment;
use super::error::{DockerfileError, Problem};
use super::expand::Expander;
use super::file::Dockerfile;
use super::instruction::{Instruction, InstructionKind, Stage};
use super::mount;
use super::options::{BuildOptions, NamedContext};
use super::platform::Platform;
use super::reference;
use super::step::{Base, Image};
use std::collections::{BTreeMap, HashMap};

/// A stage whose base is known.
pub(crate) struct Resolved {
    pub(crate) base: Base,
    pub(crate) platform: Platform,
    /// A named context stands in for the whole stage.
    pub(crate) replaced: bool,
}

/// The meaning of names in one Dockerfile, built with given options.
pub(crate) struct Resolver<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a BuildOptions,
    /// The arguments before the first `FROM`, and the predefined ones.
    pub(crate) globals: Environment,
    /// The stages, in the order of the file.
    pub(crate) stages: Vec<Resolved>,
    /// The last stage of each name.
    names: HashMap<&'a str, usize>,
    /// The names that `--build-context` gives, in the form in which they are compared.
    contexts: BTreeMap<String, &'a NamedContext>,
    pub(crate) expander: Expander,
}

impl<'a> Resolver<'a> {
    pub(crate) fn new(
        dockerfile: &'a Dockerfile,
        options: &'a BuildOptions,
    ) -> Result<Self, DockerfileError> {
        let mut resolver = Self {
            dockerfile,
            options,
            globals: Environment::default(),
            stages: Vec::new(),
            names: HashMap::new(),
            contexts: options
                .named_contexts
                .iter()
                .map(|(name, context)| (context_name(name), context))
                .collect(),
            expander: Expander::new(dockerfile.directives().escape),
        };
        resolver.globals = resolver.global_arguments()?;
        for (index, stage) in dockerfile.stages().iter().enumerate() {
            let meaning = resolver
                .resolve(stage)
                .map_err(|problem| dockerfile.error_at(stage.lines, problem))?;
            resolver.stages.push(meaning);
            if let Some(name) = &stage.name {
                resolver.names.insert(name, index);
            }
        }
        Ok(resolver)
    }

    /// Finds the last stage of a name, in any case.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.names.get(name.to_lowercase().as_str()).copied()
    }

    /// Gives the arguments before the first `FROM` their values, on top of the predefined ones.
    fn global_arguments(&self) -> Result<Environment, DockerfileError> {
        let last = self.dockerfile.stages().last().and_then(|stage| stage.name.as_deref());
        let target = self.options.target.as_deref().filter(|target| !target.is_empty());
        let mut globals = Environment::default();
        let mut predefine = |name: &str, value: &str| {
            let given = self.options.build_args.get(name);
            globals.set(name, given.map_or(value, String::as_str));
        };
        for (side, platform) in
            [("BUILD", &self.options.build_platform), ("TARGET", &self.options.target_platform)]
        {
            predefine(&format!("{side}PLATFORM"), &platform.to_string());
            predefine(&format!("{side}OS"), &platform.os);
            if self.options.knows_newer_arguments {
                predefine(&format!("{side}OSVERSION"), "");
            }
            predefine(&format!("{side}ARCH"), &platform.architecture);
            predefine(&format!("{side}VARIANT"), &platform.variant);
        }
        if self.options.knows_newer_arguments {
            predefine("TARGETSTAGE", target.or(last).unwrap_or("default"));
        }
        for (lines, argument) in self.dockerfile.global_arguments() {
            let value = match (self.options.build_args.get(&argument.name), &argument.default) {
                (Some(value), _) => value.clone(),
                (None, Some(default)) => self
                    .expander
                    .expand(default, &globals)
                    .map_err(|problem| self.dockerfile.error_at(lines, problem))?,
                (None, None) => continue,
            };
            globals.set(&argument.name, &value);
        }
        Ok(globals)
    }

    /// Finds out what a stage starts from; only stages before it can be meant.
    fn resolve(&self, stage: &Stage) -> Result<Resolved, Problem> {
        let base = self.expander.expand(&stage.base, &self.globals)?;
        if base.is_empty() {
            return Err(Problem::BlankBase { expression: stage.base.clone() });
        }
        let platform = match &stage.platform {
            None => None,
            Some(expression) => {
                let value = self.expander.expand(expression, &self.globals)?;
                if value.is_empty() {
                    return Err(Problem::EmptyPlatform { expression: expression.clone() });
                }
                Some(Platform::parse(&value)?)
            }
        };
        let own = platform.unwrap_or_else(|| self.options.target_platform.clone());
        // The builder has no platform for nothing.
        let own = if base == "scratch" { self.options.target_platform.clone() } else { own };
        if let Some(context) = self.context(stage.name.as_deref().unwrap_or_default(), &own)? {
            return Ok(Resolved { base: context, platform: own, replaced: true });
        }
        // Names are lower-case, and the builder does not fold the case of what FROM says.
        if let Some(index) = self.names.get(base.as_str()) {
            let platform = self.stages[*index].platform.clone();
            return Ok(Resolved { base: Base::Stage(*index), platform, replaced: false });
        }
        Ok(Resolved { base: self.external(&base, &own)?, platform: own, replaced: false })
    }

    /// Resolves a name that no stage has.
    fn external(&self, name: &str, platform: &Platform) -> Result<Base, Problem> {
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        match self.context(name, platform)? {
            Some(context) => Ok(context),
            None => image(name, platform),
        }
    }

    /// Looks a name up among those that `--build-context` gives.
    fn context(&self, name: &str, platform: &Platform) -> Result<Option<Base>, Problem> {
        if name.eq_ignore_ascii_case("scratch") || name.eq_ignore_ascii_case("context") {
            return Ok(None);
        }
        let name = context_name(name);
        Ok(match self.contexts.get(&name) {
            Some(NamedContext::Image(reference)) => Some(image(reference, platform)?),
            Some(NamedContext::Files) => Some(Base::NamedContext(name)),
            None => None,
        })
    }

    /// Resolves `--from`: an index where `indexes` says so, a stage in any case, or an image.
    pub(crate) fn origin(&self, from: &str, indexes: bool) -> Result<Base, Problem> {
        if indexes {
            let nothing = Environment::default();
            if self.expander.expand(from, &nothing)? != from {
                return Err(Problem::FromExpansion);
            }
            if let Ok(index) = from.parse::<i64>() {
                return usize::try_from(index)
                    .ok()
                    .filter(|index| *index < self.stages.len())
                    .map(|index| self.stage(index))
                    .ok_or_else(|| Problem::StageIndex { index: from.to_owned() });
            }
        }
        if let Some(index) = self.find(from) {
            return Ok(self.stage(index));
        }
        self.external(from, &self.options.target_platform)
    }

    /// Returns a stage as an origin, or the context that stands in for it.
    fn stage(&self, index: usize) -> Base {
        let resolved = &self.stages[index];
        if resolved.replaced { resolved.base.clone() } else { Base::Stage(index) }
    }

    pub(crate) fn display_name(&self, index: usize) -> String {
        let name = &self.dockerfile.stages()[index].name;
        name.clone().unwrap_or_else(|| format!("stage-{index}"))
    }

    /// Returns the origins that an instruction names.
    pub(crate) fn origins(&self, instruction: &Instruction) -> Result<Vec<Base>, Problem> {
        match &instruction.kind {
            InstructionKind::Copy(transfer) => {
                transfer.from.iter().map(|from| self.origin(from, true)).collect()
            }
            InstructionKind::Run(run) => run
                .mounts
                .iter()
                .filter_map(|mount| mount::from_of(mount).transpose())
                .map(|from| self.origin(&from?, false))
                .collect(),
            _ => Ok(Vec::new()),
        }
    }
}

fn image(reference: &str, platform: &Platform) -> Result<Base, Problem> {
    let reference = reference::normalize(reference)?;
    Ok(Base::Image(Image { reference, platform: platform.clone() }))
}

/// Returns the form in which names of contexts are compared.
pub(crate) fn context_name(name: &str) -> String {
    reference::familiar(name).unwrap_or_else(|| name.to_owned())
}
