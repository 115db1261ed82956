//! The classic builder: a cache gives the image that a clean build would give now, and touches
//! nothing that the user owns.

mod bases;
mod clean_builds;
mod saves;
mod secrets;

use std::collections::BTreeMap;

use crate::harness::{Builder, Engine, Generation};

/// Makes one test of a scenario for each engine that has the builder.
macro_rules! on_every_engine {
    ($($scenario:ident),+ $(,)?) => {$(
        mod $scenario {
            use super::$scenario as scenario;
            use crate::harness::{Builder, Generation};

            #[test]
            fn docker_20_10() {
                scenario(Builder::Classic(Generation::V20_10));
            }

            #[test]
            fn docker_26_1() {
                scenario(Builder::Classic(Generation::V26_1));
            }

            #[test]
            fn docker_28_5() {
                scenario(Builder::Classic(Generation::V28_5));
            }

        }
    )+};
}
use on_every_engine;

/// The tags of an engine, each with its image's ID.
fn tags(engine: &Engine) -> BTreeMap<String, String> {
    let format = "{{.Repository}}:{{.Tag}} {{.ID}}";
    let run = engine.docker(["images", "--all", "--no-trunc", "--format", format]).run();
    let lines = run.success().stdout.lines().filter(|line| !line.contains("<none>"));
    lines.filter_map(|line| line.split_once(' ')).map(|(t, i)| (t.into(), i.into())).collect()
}

/// Whether loaded images are enough for this builder.
fn needs_no_flags(builder: Builder) -> bool {
    builder.generation() == Generation::V20_10
}
