//! The command line: what can be typed, and nothing of what it does.

mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

pub use words::parse;

use crate::settings::DIRECTORY;

const EXAMPLES: &str = "\
Examples:
  The whole job of a CI machine that starts empty; the CI's own cache carries the directory:
    export DOCKERCACHE_DIR=/tmp/dockercache
    dockercache restore
    dockercache build -t app .
    dockercache save

  Keep your own build command:
    docker buildx build $(dockercache restore) -t app .
    dockercache save -t app .

  A key for the CI's cache, known before the build:
    dockercache key --format json -t app .

Environment:
  DOCKERCACHE_DIR       the directory, for every verb (default: /tmp/dockercache)
  DOCKERCACHE_DEADLINE  how long `build` waits for all that is not the build (default: 60s)
  DOCKERCACHE_STORE     a store that jobs share, for restore, build, save and gc
  DOCKERCACHE_STORE_TIMEOUT
                        how long to look for a cache in a store (default: 60s)
  DOCKERCACHE_VERIFY_KEY, DOCKERCACHE_SIGNING_KEY
                        use only signed caches, and sign them: see the threat model
  DOCKERCACHE_STRATEGY  overrules how the engine's cache is carried: see `restore --help`
  DOCKERCACHE_MOUNTS    which cache mounts are carried: on (default), off, ids, or !ids
  DOCKERCACHE_MOUNTS_UNUSED, DOCKERCACHE_MOUNTS_EACH, DOCKERCACHE_MOUNTS_ALL
                        when unused files are dropped, and the sizes of mounts: see
                        docs/cache-mounts.md
  DOCKER_HOST and all else that the docker client reads counts as for the client

Results are printed on standard output, messages on standard error.

Exit codes:
  0  hit, miss, or nothing to save    3  the archive is corrupt
  1  with --strict: a miss            4  the engine is not reachable, failed, or can't
  2  wrong usage or configuration     5  a file can't be read or written, or no space
  `build` ends with what the build ended with: a cache problem never fails it.";

/// Docker layer caching for CI machines that start with an empty engine.
///
/// Keeps the build cache of every stage of a Dockerfile in one directory. Your CI's cache carries
/// it from job to job, and each save removes what the last job no longer uses. Your Dockerfile,
/// your image and your tags do not change.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run `docker build` with the restored cache
    ///
    /// Takes the arguments of `docker build` and `docker buildx build` and adds --cache-from. The
    /// image and its tags are those of your own build. If the cache is missing, corrupt or of no
    /// use to this engine, the build runs without it. All arguments are the build's: set the
    /// directory with `DOCKERCACHE_DIR`. Exits with the build's exit code.
    Build(BuildArgs),
    /// Run `docker buildx build` or `bake` with the restored cache
    ///
    /// Like `build`, on the builder that `docker buildx use` has selected. Other commands of buildx
    /// are refused.
    Buildx(BuildArgs),
    /// Run `docker compose build` or `up --build` with the cache
    ///
    /// Takes the arguments of `docker compose`. Commands that build nothing are passed on
    /// unchanged.
    Compose(BuildArgs),
    /// Print a directory with a `docker` that uses the cache
    ///
    /// Put it first in the path: `export PATH="$(dockercache shim):$PATH"`. Then `docker build`,
    /// `docker buildx build`, `docker buildx bake`, `docker compose build` and `docker compose up
    /// --build` use the cache, whoever calls them.
    Shim,
    /// Save the cache of the job's builds
    ///
    /// Saves each `dockercache build` with this directory since `restore`, and the plain `docker
    /// build` that ran with the arguments given here. Takes the changed stages from the engine,
    /// keeps the others, and deletes what none of these builds uses. So run it once, after the last
    /// build. A kill at any moment leaves the old archive or the new one.
    Save(SaveArgs),
    /// Restore the cache for the next build
    ///
    /// Verifies every blob, skips corrupt ones, and loads images if the classic builder needs them.
    /// Prints the flags with which a plain `docker buildx build` (or, with the classic builder,
    /// `docker build`) uses the cache; nothing if it needs none, or on a miss. `dockercache build`
    /// adds these flags itself.
    ///
    /// With the arguments of the next build, it also reports how much of that build is in the
    /// archive, and the first change.
    Restore(RestoreArgs),
    /// Print cache keys before the build, most exact first
    ///
    /// Each key is a prefix of the one before it, so a CI cache that matches by prefix falls back
    /// to the archive that shares the most stages. Keys depend on the Dockerfile, the context's
    /// files that it uses, and the kind of engine. Only the builder decides what is a hit: a wrong
    /// key costs time, never correctness.
    Key(KeyArgs),
    /// Choose and lay out packs, so that a CI's cache moves less
    ///
    /// A CI's cache moves a whole directory on every change. In packs it moves what the job needs:
    /// before the builds, restore `DIR.packs/index`, run `packs` with their arguments, and restore the
    /// packs that it names, then run `restore`. After `save`, run `packs --save`, save the packs that it
    /// names, then `DIR.packs/index`. There are at most five each way.
    Packs(PacksArgs),
    /// Explain which steps of a build will miss, and why
    ///
    /// Compares the project with the saved one, and names the first changed file, argument,
    /// instruction or base of each step. Reads no layers and runs no build.
    Explain(ExplainArgs),
    /// Show every setting, its value and where it is from
    ///
    /// An option wins over a variable of the environment, and that over `dockercache.yml` in the
    /// directory in which the command runs.
    Config(ConfigArgs),
    /// Show the archive's stages, layers, sizes and dead blobs
    Inspect(InspectArgs),
    /// Delete blobs that an OCI image layout no longer uses
    ///
    /// `save` does this itself. Also works on a local cache that buildx wrote: `docker buildx build
    /// --cache-to type=local` adds to its directory and deletes nothing. Removes every blob that
    /// `index.json` does not reach.
    Prune(PruneArgs),
    /// Delete old caches and dead blobs from a store
    ///
    /// Jobs may save and restore meanwhile. In a registry, only tags are removed: it collects blobs
    /// itself.
    Gc(GcArgs),
    /// Run a step of the CircleCI orb (parameters: `PARAM_…`)
    #[command(hide = true)]
    Circleci {
        /// Which step
        step: CircleciStep,
    },
    /// Fill or pack a cache mount, inside the engine
    #[command(hide = true)]
    InsideMount {
        /// What to do, and within which bounds
        words: Vec<String>,
    },
}

/// The steps of the CircleCI orb.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CircleciStep {
    /// Install this program for the other steps
    Install,
    /// Write the key files
    Keys,
    /// Choose the packs that CircleCI restores
    Packs,
    /// Check what CircleCI has restored
    Restore,
    /// Build with the cache
    Build,
    /// Save the cache and choose CircleCI's key for it
    Save,
    /// Send the `docker build` of later steps through the cache
    Wrap,
}

/// Where the archive is.
#[derive(Debug, Args)]
pub struct Directory {
    /// The directory that holds the archive
    #[arg(
        long = "cache-dir",
        value_name = "DIR",
        env = "DOCKERCACHE_DIR",
        default_value = DIRECTORY
    )]
    pub dir: PathBuf,
}

/// A store beyond this machine.
#[derive(Clone, Debug, Default, Args)]
pub struct Store {
    /// Also keep the archive in a store that jobs share
    ///
    /// `registry://HOST/REPOSITORY[:TAG]`, `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, or
    /// `az://CONTAINER/PREFIX`. Only missing blobs move. A registry uses the docker client's
    /// credentials, a bucket those of the cloud's own tools.
    #[arg(long, value_name = "URL", env = "DOCKERCACHE_STORE")]
    pub store: Option<String>,
    /// Write nothing, neither to the store nor to the directory
    #[arg(long, env = "DOCKERCACHE_READ_ONLY", value_parser = FalseyValueParser::new())]
    pub read_only: bool,
}

/// How a command speaks.
#[derive(Debug, Args)]
pub struct Speech {
    /// Format of the result on standard output
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub format: Format,
    /// Print only warnings and errors
    #[arg(short, long)]
    pub quiet: bool,
    /// Exit with code 1 on a miss or a warning
    #[arg(long, env = "DOCKERCACHE_STRICT", value_parser = FalseyValueParser::new())]
    pub strict: bool,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Plain lines
    Text,
    /// One JSON object with a schema version
    Json,
    /// `DOCKERCACHE_NAME='value'` lines, for a shell's `eval`
    Env,
    /// `name=value` lines for `$GITHUB_OUTPUT`
    Github,
}

/// How the engine is used.
#[derive(Debug, Args)]
pub struct Engine {
    /// Override the detected strategy
    ///
    /// buildkit-local: the builder exports its cache itself (containerd image store, builders in
    /// containers). buildkit-replay: BuildKit on an engine with a graph driver; each changed stage
    /// is built again from cache and saved as an image. classic: the builder before BuildKit;
    /// images are saved and loaded.
    #[arg(long, value_name = "NAME", env = "DOCKERCACHE_STRATEGY")]
    pub strategy: Option<String>,
}

/// Which builds are meant.
#[derive(Debug, Args)]
pub struct Builds {
    /// Take the arguments of `docker buildx bake`: files, targets, --set; `-f compose.yml` reads a
    /// compose file
    #[arg(long)]
    pub bake: bool,
    /// Take the arguments of `docker compose build`, such as names of services
    ///
    /// Compose's own variables select its files, project name and profiles: `COMPOSE_FILE`,
    /// `COMPOSE_PROJECT_NAME`, `COMPOSE_PROFILES`.
    #[arg(long, conflicts_with = "bake")]
    pub compose: bool,
    /// Arguments of the `docker build`; `--and` separates those of several builds
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "BUILD ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

impl Builds {
    /// Whether any build is named.
    pub fn any(&self) -> bool {
        self.bake || self.compose || !self.arguments.is_empty()
    }
}

/// `build`
#[derive(Debug, Args)]
#[command(override_usage = "dockercache build [any arguments of docker build]")]
pub struct BuildArgs {
    /// Arguments of `docker build`, such as `-t app .`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

/// `save`
#[derive(Debug, Args)]
#[command(override_usage = "dockercache save [OPTIONS] [arguments of the docker build [--and …]]")]
pub struct SaveArgs {
    /// The directory
    #[command(flatten)]
    pub directory: Directory,
    /// Compress new layers with zstd, gzip or uncompressed, optionally with a level (zstd:19).
    /// Layers in the archive are not compressed again. Default: zstd if the engine reads it; gzip
    /// if the builder exports its cache itself
    #[arg(long, value_name = "KIND", env = "DOCKERCACHE_COMPRESSION")]
    pub compression: Option<String>,
    /// Keep builds in the archive that this job did not make, such as those of other jobs with the
    /// same directory
    #[arg(long)]
    pub keep_others: bool,
    /// Also write the archive as one file, .tar, .tar.gz or .tar.zst, which `docker load` reads
    #[arg(long, value_name = "FILE")]
    pub archive: Option<PathBuf>,
    /// Save this tagged image with its history instead of a build (classic builder; repeatable)
    #[arg(long, value_name = "NAME", conflicts_with = "from_log")]
    pub image: Vec<String>,
    /// Save the images that the `--->` lines of this build log name; `-` reads standard input
    /// (classic builder)
    #[arg(long, value_name = "FILE")]
    pub from_log: Option<PathBuf>,
    /// The store
    #[command(flatten)]
    pub store: Store,
    /// The engine
    #[command(flatten)]
    pub engine: Engine,
    /// The output
    #[command(flatten)]
    pub speech: Speech,
    /// Builds to save; none: each `dockercache build` since `restore`
    #[command(flatten)]
    pub builds: Builds,
}

/// `restore`
#[derive(Debug, Args)]
#[command(override_usage = "dockercache restore [OPTIONS] [arguments of the docker build]")]
pub struct RestoreArgs {
    /// The directory
    #[command(flatten)]
    pub directory: Directory,
    /// Unpack this file, made by `save --archive`, into the directory first
    #[arg(long, value_name = "FILE")]
    pub archive: Option<PathBuf>,
    /// The store
    #[command(flatten)]
    pub store: Store,
    /// The engine
    #[command(flatten)]
    pub engine: Engine,
    /// The output
    #[command(flatten)]
    pub speech: Speech,
    /// Builds to come: only what they need is fetched from a store
    #[command(flatten)]
    pub builds: Builds,
}

/// `key`
#[derive(Debug, Args)]
#[command(override_usage = "dockercache key [OPTIONS] <arguments of the docker build [--and …]>")]
pub struct KeyArgs {
    /// Name that keeps projects apart. Default: what the CI calls the project, then the path of the
    /// git remote, then the name of the context's directory
    #[arg(long, value_name = "NAME", env = "DOCKERCACHE_PROJECT")]
    pub project: Option<String>,
    /// Any text that changes all keys, such as a date to start over
    #[arg(long, value_name = "TEXT", default_value = "", env = "DOCKERCACHE_SALT")]
    pub salt: String,
    /// Make base images part of the key by content (digest) instead of by name, with their
    /// variables and what their ONBUILD triggers copy. They are looked up in the engine, then in
    /// their registry; if that fails, the name is used after a warning
    #[arg(long)]
    pub resolve_base: bool,
    /// Change the keys after this time, such as 7d, so that base images are updated
    #[arg(long, value_name = "TIME", env = "DOCKERCACHE_MAX_AGE", value_parser = age)]
    pub max_age: Option<Duration>,
    /// Also write the keys into this directory, for CI keys made of file checksums: always eight
    /// files, from `level-1`, the most exact, to `level-8`, the project's
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// Print the files that are part of the key, one per line, instead of keys
    #[arg(long)]
    pub list_inputs: bool,
    /// The engine
    #[command(flatten)]
    pub engine: Engine,
    /// The output
    #[command(flatten)]
    pub speech: Speech,
    /// Builds to come
    #[command(flatten)]
    pub builds: Builds,
}

/// `packs`
#[derive(Debug, Args)]
#[command(override_usage = "dockercache packs [OPTIONS] [arguments of the docker build [--and …]]")]
pub struct PacksArgs {
    /// The directory
    #[command(flatten)]
    pub directory: Directory,
    /// Lay out what is to be saved, after `save`
    #[arg(long)]
    pub save: bool,
    /// How long the CI keeps what it has saved: packs in use are saved again before that
    #[arg(long, value_name = "TIME", default_value = "15d", value_parser = age)]
    pub lifetime: Duration,
    /// Also write the keys into this directory, for CI keys made of file checksums: always five files,
    /// from `pack-1` to `pack-5`
    #[arg(long, value_name = "DIR")]
    pub write: Option<PathBuf>,
    /// The engine
    #[command(flatten)]
    pub engine: Engine,
    /// The output
    #[command(flatten)]
    pub speech: Speech,
    /// Builds to come: only packs that they read are restored
    #[command(flatten)]
    pub builds: Builds,
}

/// `explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The directory
    #[command(flatten)]
    pub directory: Directory,
    /// The engine
    #[command(flatten)]
    pub engine: Engine,
    /// The output
    #[command(flatten)]
    pub speech: Speech,
    /// Builds to come
    #[command(flatten)]
    pub builds: Builds,
}

/// `inspect`
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Directory to use instead of --cache-dir
    #[arg(value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// The directory
    #[command(flatten)]
    pub directory: Directory,
    /// The output
    #[command(flatten)]
    pub speech: Speech,
}

/// `config`
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The output
    #[command(flatten)]
    pub speech: Speech,
}

/// `prune`
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Directory to use instead of --cache-dir
    #[arg(value_name = "DIR")]
    pub path: Option<PathBuf>,
    /// The directory
    #[command(flatten)]
    pub directory: Directory,
    /// The output
    #[command(flatten)]
    pub speech: Speech,
}

/// `gc`
#[derive(Debug, Args)]
pub struct GcArgs {
    /// URL of the store
    #[arg(value_name = "URL", env = "DOCKERCACHE_STORE")]
    pub store: String,
    /// Delete caches that were saved longer ago than this, such as 30d or 12h
    #[arg(long, value_name = "TIME", default_value = "30d")]
    pub max_age: humantime::Duration,
    /// Delete the oldest caches of each project above this size, such as 10GB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub max_size: Option<bytesize::ByteSize>,
    /// Keep what was written less than this ago (at least 1m): a save may be in progress
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub grace: humantime::Duration,
    /// Report what would be deleted, and delete nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The output
    #[command(flatten)]
    pub speech: Speech,
}

/// A size with its unit: a number alone is more likely a slip than a number of bytes.
fn size(text: &str) -> Result<bytesize::ByteSize, String> {
    let size = text.parse().ok().filter(|_| text.ends_with(|last: char| last.is_alphabetic()));
    size.ok_or_else(|| {
        format!("`{text}` is no size (expected a number with a unit, such as `10GB`)")
    })
}

/// A time in which something stays as it is, in whole seconds: no time at all would be a slip.
fn age(text: &str) -> Result<Duration, String> {
    let age = humantime::parse_duration(text).ok().filter(|age| age.as_secs() > 0);
    age.ok_or_else(|| format!("`{text}` is no time (expected a number with a unit, such as `7d`)"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_size_has_a_unit() {
        assert_eq!(size("10GB").unwrap(), bytesize::ByteSize::gb(10));
        for wrong in ["10", "", "GB", "ten"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_time_has_a_unit() {
        assert_eq!(age("7d").unwrap(), age("1w").unwrap());
        assert_eq!(age("168h").unwrap(), age("10080m").unwrap());
        assert_eq!(age("1.5d").unwrap(), age("36h").unwrap());
        for wrong in ["", "7", "d", "0d", "-1d", "7\u{e4}", "99999999999999999w", "1ms"] {
            let error = age(wrong).unwrap_err();
            assert!(error.starts_with(&format!("`{wrong}` is no time")), "{error}");
        }
    }
}
