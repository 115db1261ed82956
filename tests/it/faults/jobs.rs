//! Trials of whole jobs on real engines: whatever happens to the cache, the build succeeds, and its
//! image is that of a clean build.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use dockercache::oci::codec::Codec;
use dockercache::oci::digest::Digest;
use serde_json::Value;

use super::archives::{Mounted, packed};
use super::good::{Good, remove, write};
use super::sandbox::judge;
use super::{Verdict, damage, stores as store_faults};
use crate::harness::{
    BUILD, Builder, Generation, Invocation, Machine, PASSWORD, S3Server, S3Settings, Server as _,
    Until,
};
use crate::random::Random;
use crate::stores::faults::Proxy;

/// Everything in it is the same whenever it is built.
const FILES: &[(&str, &str)] = &[
    (
        "Dockerfile",
        "FROM busybox:1 AS build\n\
         COPY input /input\n\
         RUN tr a-z A-Z < /input > /output && head -c 300000 /dev/zero | tr '\\0' x > /big\n\
         FROM busybox:1 AS tools\n\
         RUN echo tools > /tools\n\
         FROM busybox:1\n\
         ENV A=b\n\
         COPY --from=build /output /big /\n\
         COPY --from=tools /tools /tools\n\
         RUN wc -c < /big > /size\n\
         CMD [\"cat\", \"/output\"]\n",
    ),
    ("input", "text\n"),
];

/// How long a command with an engine may take: as long as one without, besides the build's steps.
const LIMIT: Duration = Duration::from_secs(45);
/// What a build waits for at most.
const DEADLINE: (&str, &str) = ("DOCKERCACHE_DEADLINE", "15s");
/// What commands around a build may end with.
const ANY: &[i32] = &[0, 2, 3, 4, 5];

/// What an image is, but for times: files with their kinds, modes and contents, and the
/// configuration.
type Content = (BTreeMap<String, String>, Value);

/// A builder, with an archive that was saved on it.
struct Place {
    machine: Machine,
    files: BTreeMap<PathBuf, Vec<u8>>,
    clean: Content,
}

pub(super) struct Jobs {
    places: Vec<Place>,
}

impl Jobs {
    pub(super) fn start() -> Self {
        let builders = [
            Builder::Buildkit(Generation::V28_5),
            Builder::Buildkit(Generation::V28_5Containerd),
            Builder::Classic(Generation::V26_1),
        ];
        let place = |builder| {
            let machine = Machine::new(builder, FILES);
            machine.plain_build(&["build"]);
            let clean = content(&machine).expect("an image");
            machine.replace();
            machine.run(BUILD).success();
            machine.run(["save"]).success();
            let files = machine.carried.contents();
            Place { machine, files, clean }
        };
        Self { places: builders.map(place).into() }
    }

    /// The archives, for trials without engines.
    pub(super) fn archives(&self) -> Vec<Good> {
        let good = |place: &Place| {
            let tar = place.machine.carried.file("good.tar");
            let words = ["save", "--archive", tar.to_str().expect("UTF-8"), "-t", "app", "."];
            place.machine.run(words).success();
            let bytes = fs::read(tar).expect("an archive");
            let forms = [
                ("a.tar", Codec::Uncompressed),
                ("a.tar.gz", Codec::Gzip),
                ("a.tar.zst", Codec::Zstd),
            ];
            Good {
                files: place.files.clone(),
                packed: forms.map(|(name, codec)| (name, packed(codec, &bytes))).into(),
            }
        };
        self.places.iter().map(good).collect()
    }

    /// One of the places, as a new machine that an archive was carried to.
    fn job(
        &self,
        random: &mut Random,
        trial: impl FnOnce(&Place, &Good, &mut Random) -> Verdict,
    ) -> Verdict {
        let place = random.pick(&self.places);
        let good = Good { files: place.files.clone(), packed: Vec::new() };
        remove(&place.machine.carried.archive());
        write(&place.machine.carried.archive(), &place.files);
        place.machine.replace();
        let verdict = trial(place, &good, random);
        verdict.map_err(|reason| format!("{:?}: {reason}", place.machine.job.builder))
    }
}

impl Place {
    fn command(&self, words: &[&str]) -> Invocation {
        self.machine.dockercache(words.iter().copied()).envs([DEADLINE])
    }

    fn run(&self, words: &[&str], allowed: &[i32]) -> Verdict {
        Self::judged(self.command(words), Until::Limit(LIMIT), allowed).map(drop)
    }

    fn judged(invocation: Invocation, until: Until, allowed: &[i32]) -> Result<String, String> {
        let run = invocation.watched(until);
        judge(&run, until, allowed)?;
        Ok(run.stderr)
    }

    /// Builds, and compares the image.
    fn build(&self, invocation: Invocation) -> Verdict {
        let said = Self::judged(invocation, Until::Limit(LIMIT), &[0])?;
        self.compare().map_err(|reason| format!("{reason} after {said}"))
    }

    fn compare(&self) -> Verdict {
        let (files, config) = content(&self.machine)?;
        let (clean_files, clean_config) = &self.clean;
        if files != *clean_files {
            let differs = |(name, what): &(&String, &String)| clean_files.get(*name) != Some(what);
            let other: Vec<_> = files.iter().filter(differs).collect();
            return Err(format!("the image has other files: {other:?}"));
        }
        if config != *clean_config {
            return Err(format!("the image has another config: {config} and not {clean_config}"));
        }
        Ok(())
    }

    /// Afterwards all works again: it is saved, and the next job hits.
    fn goes_on(&self) -> Verdict {
        self.run(&["save", "-t", "app", "."], &[0])?;
        self.machine.replace();
        self.run(&["restore", "--strict"], &[0])?;
        self.build(self.command(&BUILD))
    }
}

fn content(machine: &Machine) -> Result<Content, String> {
    let engine = &machine.job.engine;
    let run = |words: &[&str]| {
        let run = engine.docker(words.iter().copied()).silently().run();
        if run.code == Some(0) { Ok(run.stdout) } else { Err(run.stderr) }
    };
    let container = run(&["create", "app"])?;
    let path = machine.carried.file("exported.tar");
    let exported = run(&["export", "-o", path.to_str().expect("UTF-8"), container.trim()]);
    run(&["rm", container.trim()])?;
    exported?;
    let mut files = BTreeMap::new();
    let mut tar = tar::Archive::new(fs::File::open(&path).expect("an export"));
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a path").display().to_string();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("a file");
        let header = entry.header();
        let what = format!("{:?} {:o}", header.entry_type(), header.mode().expect("a mode"));
        files.insert(name, format!("{what} {}", Digest::of(&bytes).short()));
    }
    let config: Value =
        serde_json::from_str(&run(&["image", "inspect", "app"])?).expect("an image");
    let mut config = config[0]["Config"].clone();
    // The classic builder names the container and the image of its last step.
    for name in ["Hostname", "Image"] {
        config.as_object_mut().expect("an object").remove(name);
    }
    Ok((files, config))
}

pub(super) fn damaged_archives(jobs: &Jobs, random: &mut Random) -> Verdict {
    jobs.job(random, |place, good, random| {
        let (archive, outside) = (place.machine.carried.archive(), tempfile::tempdir());
        let outside = outside.expect("a directory");
        fs::create_dir(outside.path().join("victim")).expect("a directory");
        fs::write(outside.path().join("file"), "the user's own").expect("a file");
        let said = match random.below(3) {
            0 => damage::files_of_other_kinds(good, &archive, outside.path(), random),
            1 => damage::bytes(good, &archive, random),
            _ => damage::shapes(good, &archive, random),
        };
        let verdict = (|| {
            if random.once_in(2) {
                place.run(&["restore"], ANY)?;
            }
            place.build(place.command(&BUILD))?;
            if random.once_in(2) {
                place.run(&["save"], ANY)?;
            }
            Ok(())
        })();
        remove(&archive);
        verdict.map_err(|reason: String| format!("{said}: {reason}"))
    })
}

pub(super) fn kills(jobs: &Jobs, random: &mut Random) -> Verdict {
    jobs.job(random, |place, _, random| {
        place.machine.project.write("input", "other\n");
        let words: &[&str] = match random.below(4) {
            0 => &["restore"],
            1 => &["save", "-t", "app", "."],
            _ => &BUILD,
        };
        if words[0] == "save" {
            place.run(&BUILD, &[0])?;
        }
        let moment = Until::Moment(Duration::from_millis(20 + random.next() % 2500));
        let killed = Place::judged(place.command(words), moment, ANY);
        place.machine.project.write("input", "text\n");
        killed?;
        place.build(place.command(&BUILD))?;
        place.goes_on()
    })
}

pub(super) fn frozen_engines(jobs: &Jobs, random: &mut Random) -> Verdict {
    jobs.job(random, |place, _, random| {
        let engine = &place.machine.job.engine;
        let words: &[&str] = match random.below(3) {
            0 => &["restore"],
            1 => &["save", "-t", "app", "."],
            _ => &BUILD,
        };
        if words[0] == "save" {
            place.run(&BUILD, &[0])?;
        }
        let [before, pause] = [1500, 5000].map(|most| Duration::from_millis(random.next() % most));
        let command = place.command(words);
        thread::scope(|scope| {
            let run = scope.spawn(move || command.watched(Until::Limit(LIMIT)));
            thread::sleep(before);
            let frozen = engine.freeze();
            thread::sleep(pause);
            drop(frozen);
            let allowed: &[i32] = if words[0] == "build" { &[0] } else { ANY };
            judge(&run.join().expect("a watched run"), Until::Limit(LIMIT), allowed)
        })?;
        place.build(place.command(&BUILD))
    })
}

pub(super) fn clients(jobs: &Jobs, random: &mut Random) -> Verdict {
    jobs.job(random, |place, _, random| {
        let faults = [
            "exit 1",
            "sleep 600",
            "sleep 1",
            "echo; printf '\\033[31m{{{::error::\\n'; exit 0",
            "head -c 20000000 /dev/zero",
            "kill -9 $$",
            "echo no >&2; exit 125",
        ];
        let which = ["version", "--version", "info", "system", "buildx", "image", "*"];
        let (fault, which) = (*random.pick(&faults), *random.pick(&which));
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("docker");
        let bin = place.machine.job.engine.bin().display().to_string();
        // The user's own build is what it is.
        let script = format!(
            "#!/bin/sh\ncase \"$1 $2\" in build* | \"buildx build\") ;; \"{which} \"* | {which}*)\n\
             {fault} ;; esac\nexec {bin}/docker \"$@\"\n"
        );
        fs::write(&path, script).expect("a program");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        let programs = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", dir.path().display());
        let command = |words: &[&str]| place.command(words).env("PATH", &programs);
        let told = |reason| format!("`{which}` does `{fault}`: {reason}");
        // What stands for a whole client that says nothing is no engine, and then no build.
        let until = Until::Limit(LIMIT);
        let run = command(&BUILD).watched(until);
        judge(&run, until, &[0, 4]).map_err(told)?;
        if run.code == Some(0) {
            place.compare().map_err(told)?;
        } else if !run.stderr.contains("the Docker engine is not reachable") {
            return Err(told(run.stderr));
        }
        Place::judged(command(&["save"]), until, ANY).map_err(told)?;
        Place::judged(command(&["restore"]), until, ANY).map_err(told)?;
        place.build(place.command(&BUILD)).map_err(told)
    })
}

pub(super) fn stores(jobs: &Jobs, random: &mut Random) -> Verdict {
    jobs.job(random, |place, _, random| {
        let server = S3Server::start(S3Settings::default());
        let at = |address: &str, words: &[&str]| {
            place
                .command(words)
                .env("DOCKERCACHE_STORE", server.url(address))
                .env("DOCKERCACHE_PROJECT", "faults")
                .envs(server.variables(address, PASSWORD))
        };
        let until = Until::Limit(LIMIT);
        if random.once_in(2) {
            Place::judged(at(server.address(), &BUILD), until, &[0])?;
            Place::judged(at(server.address(), &["save"]), until, &[0])?;
            place.machine.replace_without_cache();
        }
        let proxy = Proxy::start(server.address(), store_faults::plan(random));
        let address = proxy.address();
        if random.once_in(2) {
            Place::judged(at(address, &["restore", "-t", "app", "."]), until, ANY)?;
        }
        place.build(at(address, &BUILD))?;
        Place::judged(at(address, &["save", "-t", "app", "."]), until, ANY)?;
        // The store is well again.
        if random.once_in(2) {
            Place::judged(at(server.address(), &["save", "-t", "app", "."]), until, ANY)?;
            place.machine.replace_without_cache();
            place.build(at(server.address(), &BUILD))?;
        }
        Ok(())
    })
}

pub(super) fn full_disks(jobs: &Jobs, random: &mut Random) -> Verdict {
    jobs.job(random, |place, good, random| {
        let archive = place.machine.carried.archive();
        remove(&archive);
        let size = good.files.values().map(|bytes| bytes.len() + 4096).sum::<usize>() >> 10;
        let size = format!("size={}k", 8 + random.below(size * 2));
        let told = |reason| format!("{size}: {reason}");
        let disk = Mounted::over(&archive, &["-t", "tmpfs", "-o", &size, "tmpfs"]);
        place.build(place.command(&BUILD)).map_err(told)?;
        place.run(&["save"], &[0, 5]).map_err(told)?;
        place.machine.replace();
        place.run(&["restore"], ANY).map_err(told)?;
        place.build(place.command(&BUILD)).map_err(told)?;
        drop(disk);
        remove(&archive);
        Ok(())
    })
}
