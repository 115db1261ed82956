//! Which of the ways to carry a build cache an engine allows.

pub mod cached;
pub mod capture;
pub mod classic;
pub(crate) mod current;
pub(crate) mod disclosure;
pub mod inbox;
pub mod native;
pub mod ready;
pub(crate) mod repeat;
pub mod replay;
pub mod stages;

use std::thread;

use super::Engine;
use super::api::facts::{Facts, ImageStore};
use super::client::Client;
use super::client::settings::Config;
use super::error::EngineError;
use crate::build::arguments::BuildArguments;
use crate::builder::Strategy;

/// The builder that the user's own `docker build` would use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Builder {
    Buildkit,
    Classic,
}

/// Begins to find out what [`choose`] will ask of the client: each start of it takes a while.
fn ask_ahead(client: &Client, environment: &dyn Fn(&str) -> Option<String>) {
    let (client, told) = (client.clone(), told(environment));
    thread::spawn(move || {
        if client.has_buildx() && told.is_none() {
            client.version();
        }
    });
}

/// Reaches the engine; meanwhile it is found out what the choice of a strategy will ask of the client.
pub fn connect_to_choose(
    client: &Client,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Engine, EngineError> {
    ask_ahead(client, environment);
    Engine::connect(client.clone())
}

/// How a build's cache is carried, and where the build goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// How its cache is carried.
    pub strategy: Strategy,
    /// What `BUILDX_BUILDER` must be set to for the build to go where the user's own would; none if
    /// it goes there by itself.
    pub builder: Option<String>,
}

/// Chooses as the docker client would choose the builder; `forced` overrides how its cache is carried.
pub fn choose(
    engine: &Engine,
    arguments: &BuildArguments,
    environment: &dyn Fn(&str) -> Option<String>,
    forced: Option<Strategy>,
) -> Result<Choice, EngineError> {
    let Engine { client, facts, .. } = engine;
    let has_buildkit = || engine.connection.builds_with_buildkit();
    let builder = selection(client, arguments, environment);
    let strategy = match forced {
        Some(strategy) => strategy,
        None => detect(facts, client, arguments, environment, &builder, &has_buildkit)?,
    };
    let builder = match builder {
        Selection::Default(name) => name,
        Selection::Named(_) | Selection::Current => None,
    };
    Ok(Choice { strategy, builder })
}

/// How a build may have been made that nobody saw, the likeliest first. A client before 23 that is told
/// nothing builds with the classic builder, but with BuildKit for `docker buildx build`.
pub(crate) fn possible(
    engine: &Engine,
    arguments: &BuildArguments,
    environment: &dyn Fn(&str) -> Option<String>,
    forced: Option<Strategy>,
) -> Result<Vec<Choice>, EngineError> {
    let own = choose(engine, arguments, environment, forced)?;
    // The flags that `restore` prints are for `docker buildx build`.
    let by_buildx = || choose(engine, &arguments.clone().of_buildx(), environment, forced);
    let is_told = forced.is_some() || told(environment).is_some();
    Ok(if own.strategy.is_buildkit() {
        vec![by_buildx()?]
    } else if is_told || !engine.client.has_buildx() {
        vec![own]
    } else {
        vec![own, by_buildx()?]
    })
}

/// Whether the engine itself builds, as far as can be told without it; otherwise a builder that may do
/// without any engine.
pub(crate) fn builds_on_engine(
    client: &Client,
    arguments: &BuildArguments,
    environment: &dyn Fn(&str) -> Option<String>,
) -> bool {
    matches!(selection(client, arguments, environment), Selection::Default(_))
}

/// The builder that a build with BuildKit goes to.
enum Selection {
    /// The one that an argument or `BUILDX_BUILDER` names.
    Named(String),
    /// The one that `docker buildx use` has selected.
    Current,
    /// The engine's own, by the name of the client's context if that can be told.
    Default(Option<String>),
}

/// Follows docker/cli, `cmd/docker/builder.go`: `docker build` goes to the engine's own builder unless
/// one is named, or `docker buildx install` was run; `docker buildx build` goes to the selected one.
fn selection(
    client: &Client,
    arguments: &BuildArguments,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Selection {
    let named = arguments.value("builder").map(|name| name.to_string_lossy().into_owned());
    let named = named.or_else(|| environment("BUILDX_BUILDER")).filter(|name| !name.is_empty());
    if let Some(name) = named {
        return Selection::Named(name);
    }
    let config = Config::read(environment);
    let by_alias = config.as_ref().is_some_and(Config::builds_with_buildx);
    let is_selected = config.as_ref().is_none_or(|config| config.selects_builder(environment));
    let for_buildx = by_alias || arguments.is_for_buildx();
    if for_buildx && is_selected && client.has_buildx() {
        Selection::Current
    } else {
        Selection::Default(client.context().map(str::to_owned).filter(|_| client.has_buildx()))
    }
}

fn detect(
    facts: &Facts,
    client: &Client,
    arguments: &BuildArguments,
    environment: &dyn Fn(&str) -> Option<String>,
    selection: &Selection,
    has_buildkit: &dyn Fn() -> bool,
) -> Result<Strategy, EngineError> {
    if builder(client, arguments, environment, has_buildkit) == Builder::Classic {
        return match facts.store {
            ImageStore::GraphDriver => Ok(Strategy::Classic),
            ImageStore::Containerd => Err(EngineError::Unsupported(
                "the classic builder has no cache to carry on an engine with the containerd image \
                 store; use BuildKit: unset DOCKER_BUILDKIT and install the buildx plugin"
                    .into(),
            )),
        };
    }
    if !client.has_buildx() {
        // The client's own BuildKit imports images only, and these only with a graph driver.
        return match facts.store {
            ImageStore::GraphDriver if client.version().major < 23 => Ok(Strategy::BuildkitReplay),
            _ => Err(EngineError::Unsupported(
                "the docker client has no buildx plugin, without which it can't build with \
                 BuildKit; install it (package docker-buildx or docker-buildx-plugin)"
                    .into(),
            )),
        };
    }
    let driver = match selection {
        Selection::Named(name) => driver_of(&client.output(&["buildx", "inspect", name])?),
        Selection::Current => driver_of(&client.output(&["buildx", "inspect"])?),
        Selection::Default(_) => "docker".to_owned(),
    };
    Ok(match (driver.as_str(), facts.store) {
        ("docker", ImageStore::GraphDriver) => Strategy::BuildkitReplay,
        _ => Strategy::BuildkitLocal,
    })
}

/// Follows the docker client: `DOCKER_BUILDKIT` decides; otherwise BuildKit from client 23 on,
/// unless there is no buildx. Before that the engine's word decides, which is BuildKit from 23 on,
/// or buildx was made the default.
fn builder(
    client: &Client,
    arguments: &BuildArguments,
    environment: &dyn Fn(&str) -> Option<String>,
    has_buildkit: &dyn Fn() -> bool,
) -> Builder {
    if arguments.is_for_buildx() {
        return Builder::Buildkit;
    }
    let by_default = || client.has_buildx() && client.version().major >= 23;
    let by_alias = || Config::read(environment).is_some_and(|config| config.builds_with_buildx());
    let by_engine = || client.version().major < 23 && has_buildkit();
    told(environment).unwrap_or_else(|| {
        if by_default() || by_alias() || by_engine() { Builder::Buildkit } else { Builder::Classic }
    })
}

/// The builder that `DOCKER_BUILDKIT` asks for.
fn told(environment: &dyn Fn(&str) -> Option<String>) -> Option<Builder> {
    match environment("DOCKER_BUILDKIT")?.as_str() {
        "" => None,
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(Builder::Classic),
        _ => Some(Builder::Buildkit),
    }
}

/// The `Driver:` line of `docker buildx inspect`.
fn driver_of(inspected: &str) -> String {
    inspected
        .lines()
        .find_map(|line| line.strip_prefix("Driver:"))
        .map_or_else(|| "unknown".to_owned(), |driver| driver.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builder::Version;
    use crate::engine::client::{Info, Plugin};

    fn chosen(
        (client, buildx, store): (u32, bool, ImageStore),
        buildkit: Option<&str>,
    ) -> Result<Strategy, EngineError> {
        detected((client, buildx, store), buildkit, false)
    }

    fn detected(
        (client, buildx, store): (u32, bool, ImageStore),
        buildkit: Option<&str>,
        has_buildkit: bool,
    ) -> Result<Strategy, EngineError> {
        let facts = Facts {
            id: String::new(),
            version: Version::new(28, 5, 2),
            store,
            platform: "linux/amd64".into(),
        };
        let client = Client::saying(Info {
            version: Some(format!("{client}.0.0")),
            plugins: buildx.then(|| vec![Plugin { name: "buildx".into(), err: None }]),
            ..Info::default()
        });
        let environment =
            |name: &str| (name == "DOCKER_BUILDKIT").then(|| buildkit.map(Into::into)).flatten();
        let arguments = BuildArguments::default();
        let own = Selection::Default(None);
        detect(&facts, &client, &arguments, &environment, &own, &|| has_buildkit)
    }

    #[test]
    fn the_builder_is_the_one_that_the_client_would_use() {
        use ImageStore::{Containerd, GraphDriver};
        let graph = |client, buildx| (client, buildx, GraphDriver);
        assert_eq!(chosen(graph(28, true), None).unwrap(), Strategy::BuildkitReplay);
        assert_eq!(chosen(graph(28, false), None).unwrap(), Strategy::Classic);
        assert_eq!(chosen(graph(28, true), Some("0")).unwrap(), Strategy::Classic);
        assert_eq!(chosen(graph(20, true), None).unwrap(), Strategy::Classic);
        assert_eq!(chosen(graph(20, true), Some("1")).unwrap(), Strategy::BuildkitReplay);
        let containerd = (28, true, Containerd);
        assert_eq!(chosen(containerd, None).unwrap(), Strategy::BuildkitLocal);
        assert!(chosen(containerd, Some("0")).is_err());
        assert_eq!(chosen(graph(20, false), Some("1")).unwrap(), Strategy::BuildkitReplay);
        assert!(chosen(graph(28, false), Some("1")).is_err());
    }

    #[test]
    fn an_old_client_builds_with_what_the_engine_asks_for() {
        for (buildx, buildkit) in [(true, None), (false, None), (true, Some(""))] {
            let engine = (20, buildx, ImageStore::GraphDriver);
            let found = detected(engine, buildkit, true).unwrap();
            assert_eq!(found, Strategy::BuildkitReplay, "{buildx} {buildkit:?}");
        }
        let told = detected((20, true, ImageStore::GraphDriver), Some("0"), true).unwrap();
        assert_eq!(told, Strategy::Classic);
    }
}
