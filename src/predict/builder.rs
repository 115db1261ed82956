//! The builder that a project is read for: its rules, and what it knows of external images.

use super::Rules;
use crate::context::ListForm;
use crate::dockerfile::Image;
use crate::engine::Engine;
use crate::engine::api::bases::{self, BaseImage};
use crate::engine::api::connection::Connection;
use crate::engine::api::facts::ImageStore;
use crate::engine::client::Client;
use crate::engine::client::version::Version;
use crate::engine::strategy::Strategy;

/// The builder that a project is read for.
#[derive(Clone, Debug)]
pub struct Builder {
    /// The way to carry its cache, which tells builders apart.
    pub strategy: Strategy,
    /// What it runs on, such as `linux/amd64`.
    pub platform: String,
    /// The engine's version, if one answers.
    server: Option<Version>,
    /// Reaches the engine that has images of its own, if there is one.
    images: Option<Connection>,
    /// Reaches registries, if base images are part of the key by content.
    registries: Option<Client>,
}

/// An external image as far as it is known.
#[derive(Debug)]
pub struct FoundBase {
    /// The image.
    pub image: BaseImage,
    /// What tells it from others, as the builder does.
    pub identity: String,
}

impl Builder {
    /// Describes a builder that knows no image.
    pub fn new(
        strategy: Strategy,
        platform: impl Into<String>,
        server: impl Into<Option<Version>>,
    ) -> Self {
        let (platform, server) = (platform.into(), server.into());
        Self { strategy, platform, server, images: None, registries: None }
    }

    /// The builder of an engine.
    pub fn of(engine: &Engine, strategy: Strategy) -> Self {
        // With the graph driver, a builder that exports is one beside the engine, which does not
        // see the engine's images.
        let beside =
            strategy == Strategy::BuildkitLocal && engine.facts.store == ImageStore::GraphDriver;
        Self {
            images: (!beside).then(|| engine.connection.clone()),
            ..Self::new(strategy, engine.facts.platform.clone(), engine.facts.version)
        }
    }

    /// Makes base images part of the key by content (digest) instead of by name.
    ///
    /// The same in an engine that has them as in an empty one, where the registry is asked.
    #[must_use]
    pub fn resolving_bases(self, client: Client) -> Self {
        Self { registries: Some(client), ..self }
    }

    /// Lets base images count by their names alone, with no difference between an engine that has
    /// them and an empty one. Their `ONBUILD` triggers and variables count for nothing then.
    #[must_use]
    pub fn naming_bases(self) -> Self {
        Self { images: None, ..self }
    }

    /// Whether base images are part of the key by content.
    pub fn resolves_bases(&self) -> bool {
        self.registries.is_some()
    }

    /// Looks an external image up; says why it is not found, where it should be.
    pub fn base(&self, image: &Image) -> Result<Option<FoundBase>, String> {
        let local = self.images.as_ref().and_then(|engine| bases::local(engine, image));
        let found = match (local, &self.registries) {
            (Some(found), _) => Some(found),
            (None, Some(client)) => {
                Some(bases::remote(client, image).map_err(|error| error.to_string())?)
            }
            (None, None) => None,
        };
        Ok(found.map(|image| FoundBase { identity: self.identity(&image), image }))
    }

    fn identity(&self, found: &BaseImage) -> String {
        match (self.strategy, &found.id) {
            (Strategy::Classic, Some(id)) => id.clone(),
            _ => found.layers.clone(),
        }
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules {
            // `COPY --link` makes an independent layer where the builder can merge, which the stock
            // engine with the graph driver can't.
            independent_links: self.strategy == Strategy::BuildkitLocal,
            every_instruction: self.strategy == Strategy::Classic,
            cache_identities: !self.is_modern(),
        }
    }

    /// Whether it is of the generation that came with Docker 23; taken to be so if not known.
    pub(crate) fn is_modern(&self) -> bool {
        self.server.is_none_or(|server| server.major >= 23)
    }

    /// Whether it predefines `TARGETSTAGE` and the like, and gives directories of `WORKDIR` the time
    /// that `SOURCE_DATE_EPOCH` says.
    pub(crate) fn knows_newer_arguments(&self) -> bool {
        self.server.is_none_or(|server| server.major > 26)
    }

    /// How the builder writes down what a wildcard or a filter lets through.
    pub(crate) fn form(&self) -> ListForm {
        match self.strategy {
            Strategy::Classic => ListForm::Sources,
            _ => match self.server {
                Some(server) if server.follows_nested_links() => ListForm::NamesAndTargets,
                Some(server) if server.lists_sources_by_name() => ListForm::Names,
                _ => ListForm::Paths,
            },
        }
    }
}
