//! The project of most scenarios: a stage with dependencies, a build stage on top of it, a stage
//! of tools that needs neither, and a final stage without name that copies from the last two.

/// The first version of its files.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("Dockerfile", DOCKERFILE),
    ("deps.txt", "two\n"),
    ("src/a", "of\n"),
    ("src/b", "sources\n"),
    ("src/c", "here\n"),
    ("tools.txt", "b\na\n"),
    ("run.sh", "echo $(cat /count) words; cat /program /sorted\n"),
];

const DOCKERFILE: &str = r#"FROM busybox:1 AS deps
WORKDIR /deps
COPY deps.txt .
RUN head -c 5000000 /dev/urandom > toolchain
RUN tr a-z A-Z < deps.txt > installed

FROM deps AS build
ENV MODE=release
COPY src src
RUN cat installed src/* > program
RUN env | grep MODE >> program
RUN wc -w < program > count

FROM busybox:1 AS tools
WORKDIR /tools
COPY tools.txt .
RUN sort tools.txt > sorted

FROM busybox:1
COPY --from=build /deps/program /deps/count /
COPY --from=tools /tools/sorted /sorted
COPY run.sh /run.sh
CMD ["sh", "/run.sh"]
"#;

/// Its stages by the names that messages give them.
pub(crate) const STAGES: [&str; 4] = ["deps", "build", "tools", "stage-3"];

/// Its instructions, but for `FROM`.
pub(crate) const STEPS: &[&str] = &[
    "WORKDIR /deps",
    "COPY deps.txt .",
    "RUN head -c 5000000 /dev/urandom > toolchain",
    "RUN tr a-z A-Z < deps.txt > installed",
    "ENV MODE=release",
    "COPY src src",
    "RUN cat installed src/* > program",
    "RUN env | grep MODE >> program",
    "RUN wc -w < program > count",
    "WORKDIR /tools",
    "COPY tools.txt .",
    "RUN sort tools.txt > sorted",
    "COPY --from=build /deps/program /deps/count /",
    "COPY --from=tools /tools/sorted /sorted",
    "COPY run.sh /run.sh",
    r#"CMD ["sh", "/run.sh"]"#,
];

/// What the image prints.
pub(crate) const OUTPUT: &str = "5 words\nTWO\nof\nsources\nhere\nMODE=release\na\nb\n";
