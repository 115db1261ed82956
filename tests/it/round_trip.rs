//! The round trip: a build's cache goes from one empty engine to the next, and what is built there
//! runs exactly the steps that an edit calls for.

use crate::harness::{Builder, Image, Machine, on_every_builder};
use crate::words::{FILES, OUTPUT, STAGES, STEPS};

on_every_builder! {
    nothing_changed,
    the_image_is_the_users_own,
    the_last_source_file_changed,
    a_dependency_of_the_first_stage_changed,
    an_instruction_in_a_middle_stage_changed,
    an_instruction_in_a_middle_stage_was_inserted,
    an_instruction_in_a_middle_stage_was_removed,
    a_second_save_changes_nothing,
}

/// The job that is run most: nothing runs, nothing is saved, and nothing that isn't in the final
/// image is read.
fn nothing_changed(builder: Builder) {
    let (machine, first) = Machine::after_first_build(builder, FILES);
    let files = machine.carried.files();
    machine.restore();
    let report = machine.build();
    report.assert_all_cached();
    assert_eq!(report.cached(), builder.steps(STEPS));
    assert_eq!(machine.image(), first);
    assert_eq!(machine.output(), OUTPUT);

    let saved = machine.save();
    assert!(!saved.changed);
    assert_eq!(saved.taken, [""; 0]);
    assert_eq!(saved.kept, STAGES);
    assert_eq!(machine.carried.files(), files);
    if builder.is_buildkit() {
        machine.assert_nowhere("toolchain");
    }
}

/// Nothing of ours is in the image, and nothing of ours stays on the engine.
fn the_image_is_the_users_own(builder: Builder) {
    let machine = Machine::new(builder, FILES);
    assert_eq!(machine.build().ran(), builder.steps(STEPS));
    let mut left_by_the_build = images(&machine);
    // What carries the cache has names of its own, until it is saved.
    left_by_the_build.retain(|name| !name.starts_with("dockercache-carrier:"));
    machine.save();
    assert_eq!(images(&machine), left_by_the_build);
    if builder.is_buildkit() {
        assert_eq!(left_by_the_build, ["app:latest", "busybox:1"]);
    }

    let ours = machine.image();
    assert!(!ours.config.contains("moby.buildkit.cache"), "{}", ours.config);
    machine.plain_build(&["build"]).assert_all_cached();
    assert_eq!(machine.image(), ours);
}

/// The names of all images. The classic builder leaves many without name, of its own accord.
fn images(machine: &Machine) -> Vec<String> {
    let args = ["images", "--all", "--format", "{{.Repository}}:{{.Tag}}"];
    let mut names: Vec<_> =
        machine.docker(args).run().success().stdout.lines().map(str::to_owned).collect();
    names.sort_unstable();
    names
}

fn the_last_source_file_changed(builder: Builder) {
    after(builder, |machine| machine.project.edit("run.sh", "words", "WORDS"))
        .runs(&["COPY run.sh /run.sh", r#"CMD ["sh", "/run.sh"]"#]);
}

fn a_dependency_of_the_first_stage_changed(builder: Builder) {
    after(builder, |machine| machine.project.edit("deps.txt", "two", "three")).runs(&[
        "COPY deps.txt .",
        "RUN head -c 5000000 /dev/urandom > toolchain",
        "RUN tr a-z A-Z < deps.txt > installed",
        "ENV MODE=release",
        "COPY src src",
        "RUN cat installed src/* > program",
        "RUN env | grep MODE >> program",
        "RUN wc -w < program > count",
        "COPY --from=build /deps/program /deps/count /",
        "COPY --from=tools /tools/sorted /sorted",
        "COPY run.sh /run.sh",
        r#"CMD ["sh", "/run.sh"]"#,
    ]);
}

fn an_instruction_in_a_middle_stage_changed(builder: Builder) {
    let edit = |machine: &Machine| machine.project.edit("Dockerfile", "wc -w", "wc -c");
    after(builder, edit).runs(&[
        "RUN wc -c < program > count",
        "COPY --from=build /deps/program /deps/count /",
        "COPY --from=tools /tools/sorted /sorted",
        "COPY run.sh /run.sh",
        r#"CMD ["sh", "/run.sh"]"#,
    ]);
}

fn an_instruction_in_a_middle_stage_was_inserted(builder: Builder) {
    let new = "COPY src src\nRUN echo one more > src/d\n";
    let edit = |machine: &Machine| machine.project.edit("Dockerfile", "COPY src src\n", new);
    after(builder, edit).runs(&[
        "RUN echo one more > src/d",
        "RUN cat installed src/* > program",
        "RUN env | grep MODE >> program",
        "RUN wc -w < program > count",
        "COPY --from=build /deps/program /deps/count /",
        "COPY --from=tools /tools/sorted /sorted",
        "COPY run.sh /run.sh",
        r#"CMD ["sh", "/run.sh"]"#,
    ]);
}

fn an_instruction_in_a_middle_stage_was_removed(builder: Builder) {
    let old = "RUN env | grep MODE >> program\n";
    after(builder, |machine| machine.project.edit("Dockerfile", old, "")).runs(&[
        "RUN wc -w < program > count",
        "COPY --from=build /deps/program /deps/count /",
        "COPY --from=tools /tools/sorted /sorted",
        "COPY run.sh /run.sh",
        r#"CMD ["sh", "/run.sh"]"#,
    ]);
}

fn a_second_save_changes_nothing(builder: Builder) {
    let machine = Machine::new(builder, FILES);
    machine.build();
    let saved = machine.save();
    assert!(saved.changed);
    assert_eq!(saved.taken, STAGES);
    let files = machine.carried.files();
    assert!(!machine.save().changed);
    assert_eq!(machine.carried.files(), files);
}

/// Makes an edit on a new machine with the first build's cache.
fn after(builder: Builder, edit: impl FnOnce(&Machine)) -> Edited {
    let (machine, first) = Machine::after_first_build(builder, FILES);
    edit(&machine);
    machine.restore();
    Edited { builder, machine, first }
}

/// A project that was edited since its cache was saved.
struct Edited {
    builder: Builder,
    machine: Machine,
    first: Image,
}

impl Edited {
    /// Asserts that these steps run and no others, and that after the next save none does.
    #[track_caller]
    fn runs(self, instructions: &[&'static str]) {
        let Self { builder, machine, first } = self;
        let report = machine.build();
        assert_eq!(report.ran(), builder.steps(instructions));
        let edited = machine.image();
        assert_ne!(edited, first);
        machine.save();

        machine.replace();
        machine.restore();
        let again = machine.build();
        again.assert_all_cached();
        assert_eq!(again.steps.len(), report.steps.len());
        assert_eq!(machine.image(), edited);
    }
}
