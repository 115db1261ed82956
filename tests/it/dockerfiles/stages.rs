//! Stages: how they are named, and how they stand on each other.

use std::fmt::Write as _;

use super::builders::{
    BUILDKIT, BUILDKIT_20_10, BUILDKIT_26_1, BUILDKIT_28_5, CLASSIC, CLASSIC_20_10, CLASSIC_28_5,
    CONTAINERD_28_5,
};
use super::case::Case;
use crate::harness::Builder;

/// The builders that carry a stage with equal steps, or with the first steps of another.
///
/// Once the classic builder of Docker 28.5 has taken a step from an image that `--cache-from`
/// names, it looks at no other image in the stage. And the containerd store keeps the layers of
/// steps that change nothing; equal layers have but one time of creation in a cache, so that the
/// image comes back with other times in its history.
const EQUAL_STEPS: &[Builder] = &[BUILDKIT_20_10, CLASSIC_20_10, BUILDKIT_26_1, BUILDKIT_28_5];

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "unnamed stages",
            "\
FROM {base}
COPY one /one
FROM {outside}
COPY two /two
FROM {base}
COPY --from=0 /one /first
COPY --from=1 /two /second
RUN cat /first /second > /third
",
        )
        .file("one", "1")
        .file("two", "2"),
        Case::new(
            "diamond of stages",
            "\
FROM {base} AS top
COPY input /input
FROM top AS left
RUN tr a-z A-Z < /input > /left
FROM top AS right
RUN wc -c < /input > /right
FROM top
COPY --from=left /left /
COPY --from=right /right /
",
        )
        .file("input", "text"),
        Case::new(
            "copy from an image that is no stage",
            "FROM {base}\nCOPY --from={outside} /base /outside\nRUN cat /outside > /copy\n",
        ),
        Case::new(
            "target of a middle stage",
            "\
FROM {base} AS first
COPY input /input
FROM first AS middle
RUN cat /input > /output
FROM middle AS last
RUN false
",
        )
        .file("input", "text")
        .with(&["--target", "middle"]),
        Case::new(
            "a stage that is only FROM",
            "FROM {base} AS alias\nFROM alias AS again\nLABEL a=b\nFROM again\nCOPY --from=alias /base /output\n",
        ),
        Case::new(
            "names that a stage may have",
            "\
FROM {base} AS Build-1.x_Y
COPY input /input
FROM {outside} AS {base}
COPY --from=build-1.X_y /input /copied
FROM {base} AS busybox
COPY --from={base} /copied /again
FROM busybox
RUN cat /copied /again > /output
",
        )
        .file("input", "text"),
        Case::new(
            "from scratch",
            "FROM scratch AS files\nCOPY a /\nFROM scratch\nCOPY --from=files /a /b\nCOPY a /\n",
        )
        .file("a", "{case}"),
        Case::new("no layers", "FROM scratch\nLABEL case={case}\n")
            .nothing_to_carry()
            .silent()
            .on(BUILDKIT),
        Case::new("no layers, step by step", "FROM scratch\nLABEL case={case}\n")
            .nothing_to_carry()
            .on(CLASSIC),
        Case::new(
            "empty layers and equal ones",
            "\
FROM {base} AS one
COPY input /input
RUN true
FROM {outside} AS two
COPY input /input
RUN true
FROM {base} AS three
COPY input /input
RUN true
COPY --from=one /input /one
COPY --from=two /input /two
",
        )
        .repeats()
        .on(EQUAL_STEPS)
        .file("input", "text"),
        // The carriers of so many take long: one engine with each way to carry them is enough.
        Case::new("sixty stages", &chain(60))
            .on(&[CLASSIC_20_10, BUILDKIT_28_5, CLASSIC_28_5, CONTAINERD_28_5])
            .file("input", "{case}"),
    ]
}

/// Stages that each take a file from the one before.
fn chain(length: usize) -> String {
    let mut text = "FROM scratch AS s0\nCOPY input /0\n".to_owned();
    for number in 1..length {
        let before = number - 1;
        write!(text, "FROM scratch AS s{number}\nCOPY --from=s{before} /{before} /{number}\n")
            .expect("text");
    }
    text
}
