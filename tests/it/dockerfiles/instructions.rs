//! What a stage can say.

use super::builders::{BUILDKIT, CLASSIC, SYNTAX_1_4};
use super::case::Case;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "shell, directory, user and environment",
            "\
FROM {base} AS build
ENV DIR=/work NAME=input
ENV COPY=${NAME:+an}.copy PATH=$PATH:/own
WORKDIR ${DIR}/${NAME:-none}
COPY --chown=65534:65534 $NAME ./
USER nobody
RUN cat $NAME && id -u
USER root
SHELL [\"/bin/sh\", \"-euc\"]
RUN id -u > \"$DIR/id\"
FROM {base}
COPY --from=build --chown=nobody:nogroup /work /work
EXPOSE 80/tcp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK CMD true
ENTRYPOINT [\"/bin/cat\"]
CMD [\"/work/id\"]
",
        )
        .file("input", "text"),
        Case::new(
            "triggers of a stage and of an image",
            "\
FROM {base} AS parent
ONBUILD COPY input /triggered
ONBUILD RUN cat /triggered > /copy
FROM parent AS child
FROM {onbuild}
COPY --from=child /copy /
",
        )
        .on_build(&["COPY input /input", "RUN cat /input > /copied"])
        .file("input", "text"),
        Case::new(
            "directives, and lines that end as on Windows",
            "\
# escape=`\r\n# check=skip=all\r\nFROM {base} AS build\r\nCOPY input /input\r\nRUN cat /input `\r\n  > /output\r
FROM {base}\r\nCOPY --from=build `\r\n # a comment\r\n /output /\r\n",
        )
        .file("input", "text"),
        // The frontend that it names can't be fetched here, but to the classic builder, it is a
        // comment.
        Case::new(
            "a syntax line",
            "# syntax=docker/dockerfile:1\nFROM {base}\nCOPY input /\nRUN cat /input\n",
        )
        .on(CLASSIC)
        .file("input", "text"),
        Case::new(
            "here-documents",
            "\
FROM {base} AS build
ARG NAME=value
COPY <<one <<-\"two\" /files/
first $NAME
one
\t\tsecond $NAME
\ttwo
RUN <<EOF
set -eu
cat /files/one > /copy
# no comment of the Dockerfile
FROM=nowhere
EOF
RUN cat <<A > /a && cat <<B > /b
a
A
b
B
FROM {base}
COPY --from=build /copy /a /b /
COPY <<plain /plain
text
plain
",
        )
        .on(SYNTAX_1_4),
        Case::new(
            "modes of copied files",
            "FROM {base} AS build\nCOPY --chmod=750 input /input\nFROM {base}\nCOPY --from=build --chmod=0604 /input /\n",
        )
        .on(BUILDKIT)
        .file("input", "text"),
        Case::new(
            "linked copies",
            "\
FROM {base} AS build
RUN cat /base > /built
COPY --link input /linked/
FROM {base}
COPY --link input /input
COPY --link --from=build /built /linked/input /
RUN cat /built /input > /output
",
        )
        .on(SYNTAX_1_4)
        .file("input", "{case}"),
        Case::new(
            "mounts",
            "\
FROM {base} AS tools
COPY input /tool
FROM {base}
RUN --mount=type=cache,target=/cache echo cached | tee /cache/file > /cached
RUN --mount=type=bind,from=tools,source=/tool,target=/tool cat /tool > /output
RUN --mount=type=bind,source=input,target=/in --mount=type=tmpfs,target=/scratch cp /in /scratch/in && cp /scratch/in /kept
RUN --mount=type=secret,id=token wc -c < /run/secrets/token > /length
",
        )
        .on(BUILDKIT)
        .file("input", "text")
        .file("token", "secret")
        .with(&["--secret", "id=token,src=token"]),
    ]
}
