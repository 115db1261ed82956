//! No value of a build argument or a secret is in what a CI's cache carries.

use std::fs;

use crate::harness::{Builder, Machine, on_buildkit};

const CANARY: &str = "canary-5e1f0c";

/// A secret in each place where a Dockerfile can put one, but for a file of a layer.
const DOCKERFILE: &str = "\
FROM busybox:1 AS deps
ARG TOKEN
ENV FROM_ARGUMENT=$TOKEN
LABEL token=$TOKEN
RUN echo ${#TOKEN} > /length
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /count

FROM deps AS build
ARG TOKEN
WORKDIR /src
RUN echo $TOKEN | wc -c > /src/size

FROM busybox:1
COPY --from=build /src/size /size
";

on_buildkit! {
    stay_out_of_the_archive,
}

fn stay_out_of_the_archive(builder: Builder) {
    let machine = Machine::new(builder, &[("Dockerfile", DOCKERFILE)]);
    let secret = machine.carried.file("secret");
    fs::write(&secret, CANARY).unwrap();
    let (argument, secret) = (
        format!("--build-arg=TOKEN={CANARY}"),
        format!("--secret=id=token,src={}", secret.display()),
    );
    let build = ["build", &argument, &secret, "--tag", "app", "."];
    machine.run(build).success();
    let file = machine.carried.file("archive.tar");
    machine.run(["save", "--archive", file.to_str().unwrap()]).success();
    let one_file = (file.clone(), fs::read(file).unwrap());
    for (path, bytes) in machine.carried.contents().into_iter().chain([one_file]) {
        let found = bytes.windows(CANARY.len()).any(|text| text == CANARY.as_bytes());
        assert!(!found, "a secret is in {}", path.display());
    }

    // What is left is a whole cache.
    machine.replace();
    machine.restore();
    machine.run(build).success().build_report().assert_all_cached();
}
