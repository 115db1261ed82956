//! Plans a build: which stages the target needs, what each starts from, and in what order.

use super::error::{DockerfileError, Problem, suggest};
use super::file::Dockerfile;
use super::instruction::{Instruction, InstructionKind};
use super::lines::LineRange;
use super::options::BuildOptions;
use super::parse;
use super::resolve::Resolver;
use super::state::{StageState, Surroundings};
use super::step::{Action, Base, BuildGraph, Image, PlannedStage};
use std::collections::{BTreeMap, BTreeSet, HashMap};

impl Dockerfile {
    /// Plans the build of one target.
    ///
    /// Without the config of an external image, its environment, user, working directory, shell,
    /// and triggers are taken to be empty: plan, look the images up, and plan again.
    pub fn plan(&self, options: &BuildOptions) -> Result<BuildGraph, DockerfileError> {
        let resolver = Resolver::new(self, options)?;
        let reachable = BTreeMap::new();
        let mut planner = Planner { dockerfile: self, options, resolver, reachable };
        let target = planner.target()?;
        planner.refuse_circles()?;
        let first = if options.classic { 0 } else { target };
        for stage in first..=target {
            planner.reach(stage)?;
        }
        planner.build(target)
    }
}

/// An instruction to run, and where it comes from.
#[derive(Clone)]
struct Planned {
    instruction: Instruction,
    on_build: bool,
}

struct Planner<'a> {
    dockerfile: &'a Dockerfile,
    options: &'a BuildOptions,
    resolver: Resolver<'a>,
    /// For each stage that the target needs, what it runs.
    reachable: BTreeMap<usize, Vec<Planned>>,
}

impl Planner<'_> {
    fn at(&self, lines: LineRange, problem: Problem) -> DockerfileError {
        self.dockerfile.error_at(lines, problem)
    }

    fn target(&self) -> Result<usize, DockerfileError> {
        let Some(name) = self.options.target.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(self.dockerfile.stages().len() - 1);
        };
        self.resolver.find(name).ok_or_else(|| {
            let names = self.dockerfile.stages().iter().filter_map(|stage| stage.name.as_deref());
            let suggestion = suggest(name, names);
            let problem = Problem::Target { name: name.to_owned(), suggestion };
            DockerfileError::File { file: self.dockerfile.name().to_owned(), problem }
        })
    }

    /// Refuses stages that copy from each other, whether the target needs them or not.
    fn refuse_circles(&self) -> Result<(), DockerfileError> {
        let stages = self.dockerfile.stages();
        let mut copies: Vec<Vec<usize>> = Vec::with_capacity(stages.len());
        for stage in stages {
            let mut from = Vec::new();
            for instruction in &stage.instructions {
                let origins = self
                    .resolver
                    .origins(instruction)
                    .map_err(|problem| self.at(instruction.lines, problem))?;
                from.extend(origins.iter().filter_map(|origin| match origin {
                    Base::Stage(index) => Some(*index),
                    _ => None,
                }));
            }
            copies.push(from);
        }
        // A stage that can be taken away copies from no stage that is left; what remains when no
        // more can be taken away copies in a circle, or from one.
        let mut left: BTreeSet<usize> = (0..stages.len()).collect();
        loop {
            let before = left.len();
            let free: Vec<usize> = left
                .iter()
                .copied()
                .filter(|index| copies[*index].iter().all(|from| !left.contains(from)))
                .collect();
            for index in free {
                left.remove(&index);
            }
            if left.is_empty() {
                return Ok(());
            }
            if left.len() == before {
                break;
            }
        }
        let first = left.first().copied().unwrap_or_default();
        let problem = Problem::Circular { stage: self.resolver.display_name(first) };
        Err(self.at(stages[first].lines, problem))
    }

    /// Collects what the target needs, with the triggers that each stage inherits.
    fn reach(&mut self, target: usize) -> Result<(), DockerfileError> {
        let mut open = vec![target];
        while let Some(index) = open.pop() {
            if self.reachable.contains_key(&index) {
                continue;
            }
            let planned = self.instructions_of(index)?;
            for Planned { instruction, .. } in &planned {
                for origin in self
                    .resolver
                    .origins(instruction)
                    .map_err(|problem| self.at(instruction.lines, problem))?
                {
                    let Base::Stage(from) = origin else { continue };
                    if from >= index {
                        let (from, stage) =
                            (self.resolver.display_name(from), self.resolver.display_name(index));
                        let problem = Problem::LaterStage { from, stage };
                        return Err(self.at(instruction.lines, problem));
                    }
                    open.push(from);
                }
            }
            if let Base::Stage(base) = self.resolver.stages[index].base {
                open.push(base);
            }
            self.reachable.insert(index, planned);
        }
        Ok(())
    }

    fn instructions_of(&self, index: usize) -> Result<Vec<Planned>, DockerfileError> {
        let stage = &self.dockerfile.stages()[index];
        let resolved = &self.resolver.stages[index];
        if resolved.replaced {
            return Ok(Vec::new());
        }
        let triggers: Vec<&str> = match &resolved.base {
            Base::Stage(base) => self.dockerfile.stages()[*base]
                .instructions
                .iter()
                .filter_map(|instruction| match &instruction.kind {
                    InstructionKind::Onbuild(trigger) => Some(trigger.as_str()),
                    _ => None,
                })
                .collect(),
            Base::Image(image) => {
                let config = self.options.base_configs.get(image);
                config.iter().flat_map(|config| &config.onbuild).map(String::as_str).collect()
            }
            Base::Scratch | Base::NamedContext(_) => Vec::new(),
        };
        let triggered = triggers.into_iter().map(|trigger| {
            parse::trigger(trigger, stage.lines)
                .map(|instruction| Planned { instruction, on_build: true })
                .map_err(|problem| self.at(stage.lines, problem))
        });
        let own = stage
            .instructions
            .iter()
            .map(|instruction| Ok(Planned { instruction: instruction.clone(), on_build: false }));
        triggered.chain(own).collect()
    }

    /// Runs through the reachable stages in the order of the file.
    fn build(&self, target: usize) -> Result<BuildGraph, DockerfileError> {
        let origin = |from: &str, indexes: bool| self.resolver.origin(from, indexes);
        let surroundings = Surroundings {
            options: self.options,
            globals: &self.resolver.globals,
            expander: &self.resolver.expander,
            origin: &origin,
        };
        let mut ends: HashMap<usize, StageState> = HashMap::new();
        let mut planned_stages = Vec::new();
        for (index, planned) in &self.reachable {
            let resolved = &self.resolver.stages[*index];
            let config = match &resolved.base {
                Base::Image(image) => self.options.base_configs.get(image),
                _ => None,
            };
            let mut state = match &resolved.base {
                Base::Stage(base) => ends.get(base).map_or_else(
                    || Ok(StageState::default()),
                    |end| StageState::on_stage(end, &surroundings),
                ),
                _ => StageState::on_image(config, resolved.base == Base::Scratch, &surroundings),
            }
            .map_err(|problem| self.at(self.dockerfile.stages()[*index].lines, problem))?;
            let mut steps = Vec::new();
            for Planned { instruction, on_build } in planned {
                let step = state
                    .run(instruction, *on_build, &surroundings)
                    .map_err(|problem| self.at(instruction.lines, problem))?;
                steps.push(step);
            }
            let source = &self.dockerfile.stages()[*index];
            let mut planned = PlannedStage {
                index: *index,
                name: source.name.clone(),
                lines: source.lines,
                text: source.text.clone(),
                base: resolved.base.clone(),
                platform: resolved.platform.clone(),
                dependencies: Vec::new(),
                images: Vec::new(),
                steps,
            };
            (planned.dependencies, planned.images) = inputs(&planned);
            planned_stages.push(planned);
            ends.insert(*index, state);
        }
        Ok(BuildGraph { stages: planned_stages, target })
    }
}

/// Collects the stages and the images that a stage reads.
fn inputs(stage: &PlannedStage) -> (Vec<usize>, Vec<Image>) {
    let origins = stage.steps.iter().flat_map(|step| match &step.action {
        Action::Copy(copy) => copy.origin.iter().collect::<Vec<_>>(),
        Action::Run(run) => run.mounts.iter().filter_map(|mount| mount.origin.as_ref()).collect(),
        Action::Workdir { .. } | Action::Metadata { .. } => Vec::new(),
    });
    let mut indexes = BTreeSet::new();
    let mut images = BTreeSet::new();
    for origin in std::iter::once(&stage.base).chain(origins) {
        match origin {
            Base::Stage(index) => {
                indexes.insert(*index);
            }
            Base::Image(image) => {
                images.insert(image.clone());
            }
            Base::Scratch | Base::NamedContext(_) => {}
        }
    }
    (indexes.into_iter().collect(), images.into_iter().collect())
}

#[cfg(test)]
mod tests;
