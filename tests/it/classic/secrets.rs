//! Values of build arguments: what the user's own image doesn't show, the archive doesn't either.

use super::on_every_engine;
use crate::harness::{Builder, Machine};

const CANARY: &str = "canary-9f3a";
const DOCKERFILE: &str = "\
FROM busybox:1 AS tools
ARG LEVEL=default-level
RUN echo $LEVEL > /tools
FROM busybox:1 AS build
WORKDIR /src
ARG TOKEN
{use}
FROM busybox:1
COPY --from=tools /tools /tools
COPY --from=build /src /src
{last}
";

on_every_engine! {
    a_value_that_the_image_does_not_show_is_not_saved,
    a_value_that_the_image_shows_is_no_secret,
}

fn machine(builder: Builder, uses: &str, last: &str) -> Machine {
    let dockerfile = DOCKERFILE.replace("{use}", uses).replace("{last}", last);
    Machine::new(builder, &[("Dockerfile", &dockerfile)])
}

fn a_value_that_the_image_does_not_show_is_not_saved(builder: Builder) {
    for uses in ["RUN echo run", "ENV SECRET=$TOKEN", "COPY Dockerfile /$TOKEN"] {
        let machine = machine(builder, uses, "CMD [\"true\"]");
        let given = format!("TOKEN={CANARY}");
        // By its value, and by a name in the environment.
        let words = ["build", "-t", "app", "--build-arg", &given, "."];
        let from_environment = ["build", "-t", "app", "--build-arg", "TOKEN", "."];
        for words in [words, from_environment] {
            machine.replace();
            let run = machine.dockercache(words).env("TOKEN", CANARY).run();
            run.success();
            let save = machine.dockercache(["save"]).env("TOKEN", CANARY).run();
            let said = &save.success().stderr;
            assert!(said.contains("stage `build` is not saved"), "{said}");
            assert!(said.contains("`TOKEN`") && !said.contains(CANARY), "{said}");
            for (name, bytes) in machine.carried.contents() {
                let text = String::from_utf8_lossy(&bytes);
                assert!(!text.contains(CANARY), "{name:?}");
            }
            machine.carried.reader().assert_exact();
        }
        // The other stages are there, and a job that changes nothing saves nothing.
        machine.replace();
        machine.restore();
        let report = machine.dockercache(words).run().success().build_report();
        assert!(report.cached().contains(&"RUN echo $LEVEL > /tools"), "{report:?}");
        assert!(!report.cached().contains(&uses), "{report:?}");
    }
}

fn a_value_that_the_image_shows_is_no_secret(builder: Builder) {
    for (words, last) in [
        (["--build-arg", "TOKEN=canary-9f3a"], "ARG TOKEN\nRUN echo run > /last"),
        (["--build-arg", "LEVEL=default-level"], "CMD [\"true\"]"),
    ] {
        let machine = machine(builder, "RUN echo run", last);
        let build = || {
            let run = machine.dockercache(["build", "-t", "app"]).args(words).args(["."]).run();
            run.success().build_report()
        };
        build();
        machine.save();
        machine.replace();
        machine.restore();
        build().assert_all_cached();
    }
}
