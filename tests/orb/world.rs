//! What a scenario happens in: the packed orb, a server with the helper, a project, and a cache.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_yaml::Value;
use sha2::{Digest as _, Sha256};

use crate::cache::Cache;
use crate::expand::{Job, expand};
use crate::harness::{Engine, Project};
use crate::pack::{self, pack};
use crate::runner::{self, Finished, Machine};
use crate::sandbox::Shell;
use crate::server::serve;

/// The orb's directory.
pub(crate) fn orb_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("orb")
}

/// The name that examples give the orb.
pub(crate) const ALIAS: &str = "dockercache";

/// The packed orb of a release that consists of the helper under test, on a server of its own.
static RELEASE: LazyLock<Value> = LazyLock::new(|| {
    let helper = std::fs::read(env!("CARGO_BIN_EXE_dockercache")).expect("the helper");
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let file = format!("dockercache-linux-{arch}");
    let sum = sum_of_helper();
    let version = env!("CARGO_PKG_VERSION");
    let url = serve([(format!("/v{version}/{file}"), helper)].into());

    let orb = tempfile::tempdir().expect("a directory");
    let copied = std::process::Command::new("cp")
        .args(["-R", &format!("{}/.", orb_directory().display())])
        .arg(orb.path())
        .status();
    assert!(copied.expect("cp").success());
    let sums = format!("{sum}  {file}\n");
    std::fs::write(orb.path().join("scripts/SHA256SUMS"), sums).expect("the sums");
    let mut packed = pack(orb.path()).expect("a packed orb");
    serve_from(&mut packed, &url);
    packed
});

/// The SHA-256 of the helper under test.
pub(crate) fn sum_of_helper() -> String {
    let helper = std::fs::read(env!("CARGO_BIN_EXE_dockercache")).expect("the helper");
    Sha256::digest(&helper).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Makes `url` the default of every `base_url`.
fn serve_from(value: &mut Value, url: &str) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                match value.get_mut("default") {
                    Some(default) if key == "base_url" => *default = url.into(),
                    _ => serve_from(value, url),
                }
            }
        }
        Value::Sequence(items) => items.iter_mut().for_each(|item| serve_from(item, url)),
        _ => {}
    }
}

/// The config of one of the orb's examples.
pub(crate) fn example(name: &str) -> Value {
    let path = orb_directory().join(format!("examples/{name}.yml"));
    pack::read(&path).expect("an example").get("usage").expect("a usage").clone()
}

/// Expands a config that uses the orb.
pub(crate) fn jobs(config: &Value) -> Result<Vec<Job>, String> {
    expand(config, &[(ALIAS.to_owned(), RELEASE.clone())].into())
}

/// What cannot be compressed of [`World::with_a_large_layer`], in bytes.
pub(crate) const LARGE_LAYER: u64 = 3_000_000;

/// A project on CircleCI.
pub(crate) struct World {
    pub(crate) cache: Cache,
    pub(crate) project: Project,
    pub(crate) shell: Option<Shell>,
    /// Directories of programs that the job's image has besides.
    pub(crate) programs: Vec<PathBuf>,
    /// More variables of the project's settings.
    pub(crate) environment: BTreeMap<String, String>,
}

impl World {
    /// A project with two images, the first of three stages.
    pub(crate) fn new() -> Self {
        let project = Project::new(&[
            (
                "Dockerfile",
                "FROM busybox:1 AS dependencies\n\
                 WORKDIR /work\n\
                 COPY dependencies .\n\
                 RUN sort dependencies > sorted\n\
                 \n\
                 FROM dependencies AS build\n\
                 COPY source .\n\
                 RUN cat sorted source > app\n\
                 \n\
                 FROM busybox:1\n\
                 ARG REVISION=none\n\
                 RUN echo hello > /etc/greeting\n\
                 COPY --from=build /work/app /app\n",
            ),
            ("dependencies", "b\na\n"),
            ("source", "main\n"),
            ("worker/Dockerfile", "FROM busybox:1 AS worker\nCOPY job /job\nRUN wc /job > /size\n"),
            ("worker/job", "job\n"),
        ]);
        Self {
            cache: Cache::new(),
            project,
            shell: None,
            programs: Vec::new(),
            environment: BTreeMap::new(),
        }
    }

    /// The same, with a layer of dependencies that is worth a pack.
    pub(crate) fn with_a_large_layer() -> Self {
        let world = Self::new();
        let sort = "RUN sort dependencies > sorted";
        let large = format!("{sort}; head -c {LARGE_LAYER} /dev/urandom > large");
        world.project.edit("Dockerfile", sort, &large);
        world
    }

    /// Runs an example's only job on a fresh machine.
    pub(crate) fn run(&self, engine: &Engine, example_name: &str) -> Finished {
        self.run_config(engine, &example(example_name))
    }

    /// Runs a config's only job on a fresh machine.
    pub(crate) fn run_config(&self, engine: &Engine, config: &Value) -> Finished {
        engine.wipe();
        engine.base_image(&["busybox:1"]);
        self.run_here(engine, config)
    }

    /// Runs a config's only job on the engine as it is.
    pub(crate) fn run_here(&self, engine: &Engine, config: &Value) -> Finished {
        let jobs = jobs(config).expect("an expanded config");
        let [job] = jobs.as_slice() else { panic!("{} jobs", jobs.len()) };
        let mut environment = self.environment.clone();
        environment.entry("CIRCLE_SHA1".to_owned()).or_insert_with(|| "0123abcd".to_owned());
        environment.entry("CIRCLE_BRANCH".to_owned()).or_insert_with(|| "main".to_owned());
        let project = self.project.path();
        let machine = Machine {
            engine,
            cache: &self.cache,
            project,
            shell: self.shell,
            programs: self.programs.clone(),
            environment,
        };
        runner::run(job, &machine)
    }
}
