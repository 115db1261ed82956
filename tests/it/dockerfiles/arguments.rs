//! What the command line says beside the context.

use super::case::Case;

const PLAIN: &str = "FROM {base} AS build\nCOPY input /input\nFROM {base}\nCOPY --from=build /input /output\nRUN wc -c < /output > /size\n";

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "build arguments",
            "\
ARG BASE=nowhere
ARG SHARED=of-all
FROM ${BASE} AS build
ARG USED
ARG UNUSED=default
ARG OUTSIDE
RUN echo ${USED} ${OUTSIDE} > /used
FROM ${BASE}
ARG SHARED
ARG USED
ARG UNUSED
ARG OUTSIDE
COPY --from=build /used /
RUN echo ${SHARED} > /shared
",
        )
        .with(&["--build-arg=BASE=build-arguments.base", "--build-arg", "USED=used"])
        .with(&["--build-arg", "UNUSED=unused", "--build-arg", "OUTSIDE"])
        .env("OUTSIDE", "from the environment"),
        Case::new("names, labels, no network and an ID file", PLAIN)
            .file("input", "text")
            .with(&["-t", "second:name", "--label", "a=b c", "--label=d="])
            .with(&["--network=none", "--iidfile", "id"]),
        Case::new("quiet", PLAIN).silent().file("input", "text").with(&["-q"]),
        Case::new("without cache first", PLAIN).no_cache().file("input", "text"),
        Case::new("a Dockerfile on standard input", PLAIN).file("input", "text").piped_dockerfile(),
        Case::new("a context on standard input", PLAIN).file("input", "text").piped_context(),
    ]
}
