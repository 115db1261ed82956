//! The recipes for other CIs: their schemas, and what they run, job after job on empty engines.
//!
//! Of each CI, only what the recipe uses is played: the cache of GitHub, and a directory that is
//! carried over for those whose caches can be written again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_yaml::Value;

use crate::cache::Cache;
use crate::harness::{BuildReport, Engine, Generation};
use crate::pack::read;
use crate::review::lint;
use crate::sandbox::{PROJECT, Sandbox, Shell};
use crate::server::serve;
use crate::world::{LARGE_LAYER, World, sum_of_helper};

fn recipe(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("ci").join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(recipe(path)).expect("a recipe")
}

#[test]
fn recipes_pass_their_schemas_and_the_linters() {
    for (schema, path) in [
        ("vendor.github-actions", "../action.yml"),
        ("vendor.github-workflows", "github/workflow.yml"),
        ("vendor.gitlab-ci", "gitlab/gitlab-ci.yml"),
        ("vendor.buildkite", "buildkite/pipeline.yml"),
    ] {
        lint("check-jsonschema", &["--builtin-schema", schema], &[&recipe(path)]);
    }
    let scripts =
        ["install.sh", "shell/build.sh", "shell/bake-flags.sh", "shell/compose-override.sh"];
    for script in scripts {
        lint("shellcheck", &[], &[&recipe(script)]);
    }
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/.yamllint");
    lint("yamllint", &["--strict", "-c", rules], &[&recipe(""), &recipe("../action.yml")]);
}

/// What an action is at a tag can change; at a commit it can't.
#[test]
fn actions_are_pinned_to_commits() {
    let used = [text("../action.yml"), text("github/workflow.yml")].concat();
    let used = used.lines().filter_map(|line| line.split_once("uses: actions/"));
    let mut count = 0;
    for (_, action) in used {
        let commit = action.split(['@', ' ']).nth(1).expect("a version");
        assert!(commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit()), "{action}");
        count += 1;
    }
    assert_eq!(count, 13);
}

/// A cache is code that will be in the image: only builds of the default branch write what others
/// begin with.
#[test]
fn no_branch_writes_what_others_restore() {
    let mut pipeline = read(&recipe("buildkite/pipeline.yml")).unwrap();
    pipeline.apply_merge().unwrap();
    let [main, other] = pipeline["steps"].as_sequence().unwrap().as_slice() else {
        panic!("two steps")
    };
    let cache = |step: &Value| step["plugins"][0].as_mapping().unwrap().values().next().cloned();
    let [main_cache, other_cache] = [main, other].map(|step| cache(step).unwrap());
    let condition = "build.branch == pipeline.default_branch && build.pull_request.id == null";
    assert_eq!(main["if"], condition);
    let negated = condition.replace("==", "!=").replace("&&", "||");
    assert_eq!(other["if"], negated);
    assert_eq!(main["command"], other["command"]);
    assert_eq!((&main_cache["save"], &other_cache["save"]), (&"pipeline".into(), &"branch".into()));
    for cache in [main_cache, other_cache] {
        assert_eq!(cache["restore"], "pipeline");
        // A back end that fails costs the cache, and one object has no dead files in it.
        assert_eq!(cache["soft-fail"], true);
        assert_eq!(cache["compression"], "zstd");
    }

    let gitlab = read(&recipe("gitlab/gitlab-ci.yml")).unwrap();
    let job = &gitlab["build_image"];
    let default = &job["rules"][0];
    assert_eq!(default["if"], "$CI_COMMIT_BRANCH == $CI_DEFAULT_BRANCH");
    let key = |name: &Value| {
        let key = job["cache"]["key"].as_str().unwrap();
        key.replace("$CACHE_OF", name.as_str().unwrap())
    };
    // A slug is never compared with a name.
    assert_eq!(job["cache"]["fallback_keys"][0], key(&default["variables"]["CACHE_OF"]));
    assert_eq!(job["variables"]["CACHE_OF"], "$CI_COMMIT_REF_SLUG");
    assert_eq!(job["cache"]["unprotect"], false);
}

/// A fresh machine with the helper installed and the project checked out.
fn machine<'a>(engine: &'a Engine, world: &World) -> Sandbox<'a> {
    engine.wipe();
    engine.base_image(&["busybox:1"]);
    let sandbox = Sandbox::new(engine, Shell::Bash);
    let helper = std::fs::read(env!("CARGO_BIN_EXE_dockercache")).expect("the helper");
    sandbox.program("dockercache", helper);
    sandbox.checkout(world.project.path());
    sandbox
}

#[track_caller]
fn output(mut command: Command) -> String {
    let output = command.output().expect("a program");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    eprintln!("{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// The steps of the composite action, on one machine.
fn github(engine: &Engine, world: &World, run: u32) -> BTreeMap<String, String> {
    github_with(engine, world, run, "--tag\nacme/app\n.\n", "false")
}

fn github_with(
    engine: &Engine,
    world: &World,
    run: u32,
    arguments: &str,
    packs: &str,
) -> BTreeMap<String, String> {
    let mut sandbox = machine(engine, world);
    let action = read(&recipe("../action.yml")).expect("an action");
    let mut known: BTreeMap<String, String> = [
        ("inputs.cache-dir", "/tmp/dockercache"),
        ("inputs.project", ""),
        ("inputs.packs", packs),
        ("github.run_attempt", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    known.insert("github.run_id".to_owned(), run.to_string());
    known.insert("inputs.arguments".to_owned(), arguments.to_owned());
    sandbox.environment.insert("GITHUB_STEP_SUMMARY".to_owned(), "/tmp/summary".to_owned());
    sandbox.environment.insert("GITHUB_OUTPUT".to_owned(), "/tmp/output".to_owned());
    for step in action["runs"]["steps"].as_sequence().expect("steps") {
        let name = step["name"].as_str().expect("a name");
        if name.starts_with("Install") {
            continue;
        }
        if let Some(condition) = step["if"].as_str() {
            let holds = |comparison: &str| {
                let words: Vec<_> = comparison.split_whitespace().collect();
                let is =
                    known.get(words[0]).map_or("", String::as_str) == words[2].trim_matches('\'');
                is == (words[1] == "==")
            };
            if !condition.split(" && ").all(holds) {
                continue;
            }
        }
        let filled = |value: &Value| fill(value.as_str().expect("a string"), &known);
        let done = match step["uses"].as_str() {
            Some(uses) if uses.starts_with("actions/cache/restore@") => {
                let mut keys = vec![filled(&step["with"]["key"])];
                let more = step["with"].get("restore-keys").map(filled).unwrap_or_default();
                keys.extend(more.lines().filter(|l| !l.is_empty()).map(|l| l.trim().to_owned()));
                assert!(keys.iter().all(|key| key.len() <= 512 && !key.contains(',')));
                let said = world.cache.restore(&keys, sandbox.command(&["tar", "-xPf", "-"]));
                let matched = said.strip_prefix("Found a cache from ");
                let matched = matched.and_then(|rest| rest.split(',').next()).unwrap_or_default();
                if let Some(id) = step["id"].as_str() {
                    let output = format!("steps.{id}.outputs.cache-matched-key");
                    known.insert(output, matched.to_owned());
                }
                said
            }
            Some(uses) if uses.starts_with("actions/cache/save@") => {
                let tar = sandbox.command(&["tar", "-cPf", "-", &filled(&step["with"]["path"])]);
                world.cache.save(&filled(&step["with"]["key"]), tar)
            }
            Some(other) => panic!("no action `{other}`"),
            None => {
                std::fs::write(sandbox.outside("/tmp/output"), "").expect("an empty file");
                let mut command = sandbox.script(&filled(&step["run"]), PROJECT);
                for (variable, value) in step["env"].as_mapping().into_iter().flatten() {
                    command.env(variable.as_str().expect("a name"), filled(value));
                }
                let said = output(command);
                let outputs = std::fs::read_to_string(sandbox.outside("/tmp/output"));
                let id = step["id"].as_str().unwrap_or_default();
                for (name, value) in parsed(&outputs.expect("the outputs")) {
                    known.insert(format!("steps.{id}.outputs.{name}"), value);
                }
                said
            }
        };
        known.insert(name.to_owned(), done);
    }
    known
}

/// Replaces `${{ NAME }}`.
fn fill(template: &str, known: &BTreeMap<String, String>) -> String {
    let (mut filled, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("${{") {
        let (name, after) = after.split_once("}}").expect("an end");
        filled.push_str(before);
        // An output that no step has set is empty.
        let value = known.get(name.trim()).map(String::as_str);
        let value = value.or_else(|| name.trim().starts_with("steps.").then_some(""));
        filled.push_str(value.unwrap_or_else(|| panic!("no {name}")));
        rest = after;
    }
    filled + rest
}

/// Reads `NAME=VALUE` and `NAME<<END` as GitHub does.
fn parsed(outputs: &str) -> Vec<(String, String)> {
    let mut lines = outputs.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        if let Some((name, end)) = line.split_once("<<") {
            let value: Vec<_> = lines.by_ref().take_while(|line| *line != end).collect();
            found.push((name.to_owned(), value.join("\n")));
        } else if let Some((name, value)) = line.split_once('=') {
            found.push((name.to_owned(), value.to_owned()));
        }
    }
    found
}

#[test]
fn github_action() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    let build = |known: &BTreeMap<String, String>| BuildReport::parse(&known["Build"]);
    let first = github(&engine, &world, 1);
    assert_eq!(build(&first).cached(), [""; 0]);
    assert_eq!(first["steps.restore.outputs.hit"], "none");
    assert_eq!(first["steps.save.outputs.saved"], "true");

    let same = github(&engine, &world, 2);
    build(&same).assert_all_cached();
    assert_eq!(same["steps.restore.outputs.hit"], "full");
    assert_eq!(same["steps.save.outputs.saved"], "false");
    assert_eq!(world.cache.entries().len(), 1);

    world.project.write("source", "feature\n");
    let feature = github(&engine, &world, 3);
    assert!(build(&feature).cached().contains(&"RUN sort dependencies > sorted"));
    assert_eq!(feature["steps.restore.outputs.hit"], "partial");
    // The exact cache comes before a newer one of the same project.
    world.project.write("source", "main\n");
    build(&github(&engine, &world, 4)).assert_all_cached();
    assert_eq!(world.cache.entries().len(), 2);
}

#[test]
fn github_action_with_packs() {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::with_a_large_layer();
    let run = |number| {
        let before = world.cache.entries().len();
        let known = github_with(&engine, &world, number, "--tag\nacme/app\n.\n", "true");
        let new: Vec<u64> = world.cache.entries()[before..].iter().map(|e| e.size).collect();
        (BuildReport::parse(&known["Build"]), known, new)
    };
    let (first, _, saved) = run(1);
    assert_eq!(first.cached(), [""; 0]);
    assert!(saved.iter().any(|size| *size > LARGE_LAYER), "{saved:?}");

    let (same, known, saved) = run(2);
    same.assert_all_cached();
    assert_eq!(known["steps.restore.outputs.hit"], "full");
    assert_eq!(saved, [0; 0]);

    world.project.write("source", "feature\n");
    let (feature, known, saved) = run(3);
    assert!(feature.cached().iter().any(|step| step.contains("urandom")), "{feature:?}");
    assert_eq!(known["steps.restore.outputs.hit"], "partial");
    assert!(!saved.is_empty() && saved.iter().all(|size| *size < LARGE_LAYER / 10), "{saved:?}");
}

/// Such a build has no key, and no cache: it runs all the same.
#[test]
fn github_action_builds_for_several_platforms() {
    let engine = Engine::shared(Generation::V28_5Containerd);
    let world = World::new();
    world.project.write("Dockerfile", "FROM scratch\nCOPY source /source\n");
    let arguments = "--platform\nlinux/amd64,linux/arm64\n--tag\nacme/app\n.\n";
    for run in 1..=2 {
        let done = github_with(&engine, &world, run, arguments, "false");
        assert_eq!(done["steps.restore.outputs.hit"], "none");
        assert!(done["Build"].contains("COPY source /source"), "{}", done["Build"]);
    }
    assert!(!engine.image_id("acme/app").is_empty());
    assert_eq!(world.cache.entries().len(), 0);
}

/// Serves a release whose program is `content`.
fn release(content: Vec<u8>) -> String {
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let file = format!("dockercache-linux-{arch}");
    let sums =
        format!("{}  dockercache-linux-other\n{}  {file}\n", "0".repeat(64), sum_of_helper());
    serve(
        [
            (format!("/v1.0.0/{file}"), content),
            ("/v1.0.0/SHA256SUMS".to_owned(), sums.into_bytes()),
        ]
        .into(),
    )
}

/// A script that installs from a release.
fn install<'a>(engine: &'a Engine, url: &str, shell: Shell) -> (Sandbox<'a>, Command) {
    let sandbox = Sandbox::new(engine, shell);
    let mut command = sandbox.script(&text("install.sh"), "/tmp");
    command.env("DOCKERCACHE_VERSION", "1.0.0").env("DOCKERCACHE_BASE_URL", url);
    command.env("DOCKERCACHE_INSTALL", "/usr/local/bin");
    (sandbox, command)
}

#[test]
fn the_release_says_which_file_is_right_for_the_processor() {
    let helper = std::fs::read(env!("CARGO_BIN_EXE_dockercache")).expect("the helper");
    let engine = Engine::shared(Generation::V28_5);
    let (_sandbox, command) = install(&engine, &release(helper), Shell::Busybox);
    assert!(output(command).contains("dockercache 1.0.0"));
}

#[test]
fn a_file_that_is_not_the_releases_is_refused() {
    let engine = Engine::shared(Generation::V28_5);
    let wrong = release(b"#!/bin/sh\n".to_vec());
    let (sandbox, mut command) = install(&engine, &wrong, Shell::Dash);
    let refused = command.output().expect("a shell");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("has another SHA-256 than"));
    let left = std::fs::read_dir(sandbox.outside("/usr/local/bin")).expect("a directory");
    assert_eq!(left.count(), 0);
}

#[test]
fn a_download_that_fails_costs_the_cache_only() {
    let engine = Engine::shared(Generation::V28_5);
    engine.base_image(&["busybox:1"]);
    for shell in [Shell::Bash, Shell::Busybox] {
        let (sandbox, command) = install(&engine, "http://127.0.0.1:1", shell);
        assert!(output(command).contains("the job goes on without cache"));
        let world = World::new();
        sandbox.checkout(world.project.path());
        let script = "set -e\ndockercache restore\ndockercache key .\n\
                      dockercache build --tag acme/app .\ndockercache save\n";
        let report = BuildReport::parse(&output(sandbox.script(script, PROJECT)));
        assert_eq!(report.steps.len(), 7, "{report:?}");
    }
}

/// Runs a script twice, on fresh machines with the same directory, and compares what it holds.
fn with_a_carried_directory(script: &str, environment: &[(&str, &str)], carried: &str) {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    world.project.write(".dockerignore", ".dockercache*\nci\n");
    let cache = Cache::new();
    let mut reports = Vec::new();
    let mut listings = Vec::new();
    for number in 0..3 {
        let mut sandbox = machine(&engine, &world);
        for (name, value) in environment {
            sandbox.environment.insert((*name).to_owned(), (*value).to_owned());
        }
        cache.restore(&["job".to_owned()], sandbox.command(&["tar", "-xPf", "-"]));
        reports.push(BuildReport::parse(&output(sandbox.script(script, PROJECT))));
        let list = ["find", carried, "-type", "f", "-printf", "%P %s %T@\\n"];
        // Of a time, only the seconds go through an archive.
        let listing = output(sandbox.command(&list));
        let mut files: Vec<_> =
            listing.lines().map(|l| l[..l.rfind('.').unwrap()].to_owned()).collect();
        files.sort();
        listings.push(files);
        cache.save(&format!("job-{number}"), sandbox.command(&["tar", "-cPf", "-", carried]));
        if number == 1 {
            world.project.edit("source", "main", "other");
        }
    }
    assert_eq!(reports[0].cached(), [""; 0]);
    reports[1].assert_all_cached();
    assert_eq!(listings[0], listings[1], "a build without changes writes nothing");
    assert!(reports[2].cached().contains(&"RUN sort dependencies > sorted"), "{:?}", reports[2]);
}

#[test]
fn gitlab() {
    let recipe = read(&recipe("gitlab/gitlab-ci.yml")).unwrap();
    let job = &recipe["build_image"];
    assert_eq!(job["cache"]["paths"][0], Value::from(".dockercache"));
    let directory = job["variables"]["DOCKERCACHE_DIR"].as_str().unwrap();
    let directory = directory.replace("$CI_PROJECT_DIR", PROJECT);
    let lines = job["script"].as_sequence().unwrap().iter().filter_map(Value::as_str);
    let script: Vec<_> = lines.filter(|line| !line.contains("install.sh")).collect();
    let environment = [("DOCKERCACHE_DIR", directory.as_str())];
    with_a_carried_directory(&script.join("\n"), &environment, &directory);
}

#[test]
fn buildkite() {
    let recipe = read(&recipe("buildkite/pipeline.yml")).unwrap();
    let step = &recipe["steps"][0];
    let lines = step["command"].as_sequence().unwrap().iter().filter_map(Value::as_str);
    let script: Vec<_> = lines
        .filter(|line| !line.contains("install.sh"))
        .map(|line| line.replace(".dockercache-bin/", ""))
        .collect();
    let directory = recipe["env"]["DOCKERCACHE_DIR"].as_str().unwrap();
    let carried = format!("{PROJECT}/{directory}");
    with_a_carried_directory(&script.join("\n"), &[("DOCKERCACHE_DIR", directory)], &carried);
}

/// The plugin restores what it has unless its deciding file is here and another one, and saves what
/// is there unless its deciding file is the same.
#[test]
fn jenkins() {
    let recipe = text("jenkins/Jenkinsfile");
    let deciding = "'.dockercache/index.json'";
    assert!(recipe.contains(&format!("cacheValidityDecidingFile: {deciding}")));
    let (before, inside) = recipe.split_once("cache(").unwrap();
    let commands = |text: &str| {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix("sh '"));
        let lines: Vec<_> = lines.map(|line| line.trim_end_matches('\'')).collect();
        lines.iter().filter(|l| !l.contains("install.sh")).fold(String::new(), |a, l| a + l + "\n")
    };
    let directory = format!("{PROJECT}/.dockercache");
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    world.project.write(".dockerignore", ".dockercache*\nci\n");
    // What an earlier build in the same workspace has left.
    world.project.write(".dockercache/index.json", "{}");
    let cache = Cache::new();
    let mut last = None;
    let mut saved = Vec::new();
    for number in 0..4 {
        let mut sandbox = machine(&engine, &world);
        sandbox.environment.insert("DOCKERCACHE_DIR".to_owned(), directory.clone());
        output(sandbox.script(&commands(before), PROJECT));
        let index = sandbox.outside(&directory).join("index.json");
        assert!(!index.exists(), "nothing would be restored");
        cache.restore(&["job".to_owned()], sandbox.command(&["tar", "-xPf", "-"]));
        let report = BuildReport::parse(&output(sandbox.script(&commands(inside), PROJECT)));
        match number {
            0 => assert_eq!(report.cached(), [""; 0]),
            2 => assert!(report.cached().contains(&"RUN sort dependencies > sorted"), "{report:?}"),
            _ => report.assert_all_cached(),
        }
        let decides = std::fs::read(index).expect("an index");
        if last.replace(decides.clone()) != Some(decides) {
            let tar = sandbox.command(&["tar", "-cPf", "-", &directory]);
            cache.save(&format!("job-{number}"), tar);
            saved.push(number);
        }
        if number == 1 {
            world.project.edit("source", "main", "other");
        }
    }
    assert_eq!(saved, [0, 2]);
}

#[test]
fn plain_shell() {
    let script = format!("{} --tag acme/app .", recipe("shell/build.sh").display());
    let shared = "/tmp/shared";
    with_a_carried_directory(&script, &[("DOCKERCACHE_SHARED", shared)], shared);
}

/// The two images of the project, whose first stages are the same.
const SHARING: &str = "\
FROM busybox:1 AS base
RUN head -c 300000 /dev/urandom > /shared

FROM base
COPY job /job
RUN head -c 100000 /dev/urandom > /own
";

/// Builds two images with one command, job after job, with one archive; in the end only one.
fn two_images(file: (&str, &str), build: &str, save: &str) {
    let engine = Engine::shared(Generation::V28_5);
    let world = World::new();
    world.project.write(file.0, file.1);
    for image in ["app", "worker"] {
        world.project.write(&format!("{image}/Dockerfile"), SHARING);
        world.project.write(&format!("{image}/job"), image);
    }
    let cache = Cache::new();
    let ci = recipe("shell").display().to_string();
    let mut reports = Vec::new();
    let mut blobs = Vec::new();
    for number in 0..3 {
        let sandbox = machine(&engine, &world);
        cache.restore(&["job".to_owned()], sandbox.command(&["tar", "-xPf", "-"]));
        let script = format!(
            "export BUILDKIT_PROGRESS=plain CI_SHELL={ci} DOCKERCACHE_DIR=/tmp/dockercache\n\
             {build}\n{save}\n"
        );
        let chosen = if number == 2 { "app" } else { "" };
        let script = script.replace("CHOSEN", chosen);
        reports.push(BuildReport::parse(&output(sandbox.script(&script, PROJECT))));
        let list = ["find", "/tmp/dockercache", "-type", "f", "-printf", "%s %f\\n"];
        let listing = output(sandbox.command(&list));
        blobs.push(listing.lines().map(str::to_owned).collect::<BTreeSet<_>>());
        let paths = ["tar", "-cPf", "-", "/tmp/dockercache"];
        cache.save(&format!("job-{number}"), sandbox.command(&paths));
    }
    // The shared step is one for this builder.
    assert_eq!(reports[0].ran().len(), 5, "{:?}", reports[0]);
    reports[1].assert_all_cached();
    assert_eq!(reports[1].steps.len(), 5, "{:?}", reports[1]);
    assert_eq!(blobs[0], blobs[1], "a build without changes writes nothing");
    reports[2].assert_all_cached();
    assert_eq!(reports[2].steps.len(), 3, "{:?}", reports[2]);
    let count = |listing: &BTreeSet<String>, size: u64| {
        let sizes = listing.iter().filter_map(|line| line.split_once(' ')?.0.parse::<u64>().ok());
        sizes.filter(|bytes| (size..size + size / 10).contains(bytes)).count()
    };
    let large = |listing: &BTreeSet<String>| [300_000, 100_000].map(|size| count(listing, size));
    assert_eq!(blobs.iter().map(large).collect::<Vec<_>>(), [[1, 2], [1, 2], [1, 1]], "{blobs:?}");
}

#[test]
fn bake() {
    two_images(
        (
            "docker-bake.hcl",
            "group \"default\" { targets = [\"app\", \"worker\"] }\n\
             target \"app\" {\n  context = \"app\"\n  tags = [\"acme/app\"]\n}\n\
             target \"worker\" {\n  context = \"worker\"\n  tags = [\"acme/worker\"]\n}\n",
        ),
        "docker buildx bake --progress plain $(\"$CI_SHELL/bake-flags.sh\") CHOSEN",
        "dockercache save --bake CHOSEN",
    );
}

#[test]
fn compose() {
    two_images(
        (
            "compose.yml",
            "services:\n  app: {image: acme/app, build: app}\n  \
             worker: {image: acme/worker, build: worker}\n",
        ),
        "\"$CI_SHELL/compose-override.sh\" app worker > /tmp/cache.yml\n\
         docker compose --progress plain -f compose.yml -f /tmp/cache.yml build CHOSEN",
        "dockercache save --bake -f compose.yml CHOSEN",
    );
}
