//! Engines that are not on a local socket: the whole job, over whatever the client is set up for.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::{BUILD, Builder, Engine, Generation, Machine, need_programs};

const DOCKERFILE: &str = "\
FROM busybox:1 AS build
RUN head -c 300000 /dev/urandom > /big

FROM busybox:1
COPY --from=build /big /big
RUN wc -c < /big > /size
";

#[test]
fn tcp_with_tls() {
    need_programs(&["openssl=openssl", "socat=socat"]);
    let machine = machine();
    let engine = &machine.job.engine;
    let dir = tempfile::tempdir().expect("a directory");
    certificates(dir.path());
    let port = free_port();
    let certificates = dir.path().display();
    let _server = Server::start(
        port,
        Command::new("socat")
            .arg(format!(
                "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,cert={certificates}/cert.pem,\
                 key={certificates}/key.pem,cafile={certificates}/ca.pem,verify=1"
            ))
            .arg(format!("UNIX-CONNECT:{}", socket(engine))),
    );
    let host = format!("tcp://127.0.0.1:{port}");
    let path = dir.path().to_str().expect("UTF-8");
    whole_job(
        &machine,
        &[("DOCKER_HOST", &host), ("DOCKER_TLS_VERIFY", "1"), ("DOCKER_CERT_PATH", path)],
    );
    // Without the client's certificate there is no engine.
    machine.dockercache(["restore"]).env("DOCKER_HOST", host).run().code(4);
}

#[test]
fn ssh() {
    need_programs(&["ssh=openssh-client", "sshd=openssh-server"]);
    let machine = machine();
    let engine = &machine.job.engine;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().display();
    for key in ["host", "user"] {
        let file = dir.path().join(key);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file);
        done(&mut keygen);
    }
    fs::create_dir_all("/run/sshd").expect("the directory that sshd wants");
    let port = free_port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {path}/host\nPidFile none\n\
         AuthorizedKeysFile {path}/user.pub\nStrictModes no\nPermitRootLogin yes\nUsePAM no\n\
         PasswordAuthentication no\n\
         SetEnv PATH={bin}:/usr/bin:/bin DOCKER_HOST={host}\n",
        bin = engine.bin().display(),
        host = engine.docker_host()
    );
    fs::write(dir.path().join("sshd_config"), config).expect("a file");
    let client = format!(
        "Host *\nPort {port}\nUser root\nIdentityFile {path}/user\nIdentitiesOnly yes\n\
         StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    );
    fs::write(dir.path().join("ssh_config"), client).expect("a file");
    // The client calls `ssh` from its path; the user's own configuration is in the way.
    script(dir.path(), "ssh", &format!("exec /usr/bin/ssh -F {path}/ssh_config \"$@\""));
    let mut sshd = Command::new("/usr/sbin/sshd");
    sshd.arg("-D").arg("-e").arg("-f").arg(dir.path().join("sshd_config"));
    let _server = Server::start(port, &mut sshd);
    let programs = format!("{path}:{}:/usr/bin:/bin", engine.bin().display());
    whole_job(&machine, &[("DOCKER_HOST", "ssh://127.0.0.1"), ("PATH", &programs)]);
}

#[test]
fn docker_contexts() {
    let machine = machine();
    let engine = &machine.job.engine;
    let dir = tempfile::tempdir().expect("a directory");
    let plugins = dir.path().join("cli-plugins");
    fs::create_dir(&plugins).expect("a directory");
    let buildx = engine.bin().parent().expect("a directory").join("config/cli-plugins");
    std::os::unix::fs::symlink(buildx.join("docker-buildx"), plugins.join("docker-buildx"))
        .expect("a plugin");
    let config = dir.path().to_str().expect("UTF-8");
    let docker = |args: &[&str]| {
        let docker = engine.docker(args.iter().copied());
        docker.env("DOCKER_CONFIG", config).env("DOCKER_HOST", "").run()
    };
    let host = format!("host={}", engine.docker_host());
    docker(&["context", "create", "elsewhere", "--docker", &host]).success();
    whole_job(
        &machine,
        &[("DOCKER_CONFIG", config), ("DOCKER_HOST", ""), ("DOCKER_CONTEXT", "elsewhere")],
    );
    docker(&["context", "use", "elsewhere"]).success();
    machine.replace_without_cache();
    whole_job(&machine, &[("DOCKER_CONFIG", config), ("DOCKER_HOST", "")]);
}

/// Only the script knows which engine is meant.
#[test]
fn a_script_that_stands_before_the_client() {
    let machine = machine();
    let engine = &machine.job.engine;
    let dir = tempfile::tempdir().expect("a directory");
    let (host, bin) = (engine.docker_host(), engine.bin().display());
    script(dir.path(), "docker", &format!("DOCKER_HOST={host} exec {bin}/docker \"$@\""));
    let programs = format!("{}:/usr/bin:/bin", dir.path().display());
    whole_job(&machine, &[("DOCKER_HOST", "unix:///run/no-engine.sock"), ("PATH", &programs)]);
}

/// A builder outside of the job's engine, as far as the client knows: the BuildKit of an
/// engine behind a port.
struct Far {
    server: Server,
    /// The client's notes of its builders.
    notes: tempfile::TempDir,
}

impl Far {
    fn of(machine: &Machine) -> Self {
        need_programs(&["socat=socat"]);
        let (port, engine) = (free_port(), &machine.job.engine);
        let notes = tempfile::tempdir().expect("a directory");
        let server = Server::start(
            port,
            engine
                .command("/usr/bin/socat")
                .arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"))
                .arg("EXEC:docker buildx dial-stdio"),
        );
        let far = Self { server, notes };
        let address = format!("tcp://127.0.0.1:{port}");
        far.client(machine, &["create", "--name=far", "--driver=remote", &address]);
        far
    }

    fn client(&self, machine: &Machine, words: &[&str]) {
        let run = machine.docker(["buildx"]).args(words.iter().copied());
        let run = run.env("DOCKER_HOST", NOWHERE).env("BUILDX_CONFIG", self.notes.path());
        run.run().success();
    }
}

/// Where no engine is. The client selects a builder for one address.
const NOWHERE: &str = "unix:///nowhere/docker.sock";
const FAR: [&str; 4] = ["build", "--builder=far", "--output=out", "."];

#[test]
fn a_remote_builder_without_an_engine() {
    let machine = Machine::new(
        Builder::Buildkit(Generation::V28_5Containerd),
        &[
            ("Dockerfile", DOCKERFILE),
            ("docker-bake.hcl", "target \"default\" {\n  output = [\"out\"]\n}\n"),
        ],
    );
    let far = Far::of(&machine);
    let run = |words: &[&str]| {
        let run = machine.dockercache(words.iter().copied());
        let run = run.env("DOCKER_HOST", NOWHERE);
        run.env("BUILDX_CONFIG", far.notes.path()).run()
    };
    let builds = |words: &[&str]| {
        let _ = fs::remove_dir_all(machine.project.path().join("out"));
        let told = run(words).success().stderr.clone();
        assert!(told.contains("the build runs without cache: "), "{told}");
        assert!(told.contains("engine is not reachable"), "{told}");
        assert_eq!(machine.project.read("out/size").trim(), "300000");
    };
    builds(&FAR);
    builds(&[&["buildx"], &FAR[..]].concat());
    builds(&["buildx", "bake", "--builder=far"]);
    far.client(&machine, &["use", "far"]);
    builds(&["buildx", "build", "--output=out", "."]);
    builds(&["buildx", "bake"]);

    // One that is down fails the build in the client's own words.
    let Far { server, notes } = far;
    drop(server);
    let down = machine.dockercache(FAR).env("DOCKER_HOST", NOWHERE);
    let down = down.env("BUILDX_CONFIG", notes.path()).run();
    let told = &down.code(1).stderr;
    assert!(told.contains("the build runs without cache: "), "{told}");
    assert!(told.contains("ERROR: failed to build"), "{told}");
}

#[test]
fn a_remote_builder_beside_an_engine() {
    let machine =
        Machine::new(Builder::Buildkit(Generation::V28_5Containerd), &[("Dockerfile", DOCKERFILE)]);
    let far = Far::of(&machine);
    let run = |words: &[&str]| {
        let run = machine.dockercache(words.iter().copied());
        run.env("BUILDX_CONFIG", far.notes.path()).run()
    };
    run(&["restore"]).success();
    run(&FAR).success();
    run(&["save", "--strict"]).success();
    machine.replace();
    run(&["restore"]).success();
    run(&FAR).success().build_report().assert_all_cached();
}

fn machine() -> Machine {
    Machine::new(Builder::Buildkit(Generation::V28_5), &[("Dockerfile", DOCKERFILE)])
}

fn whole_job(machine: &Machine, environment: &[(&str, &str)]) {
    let run = |words: &[&str]| {
        machine.dockercache(words.iter().copied()).envs(environment.iter().copied()).run()
    };
    assert!(run(&["restore"]).success().stderr.contains("miss"));
    run(&BUILD).success();
    let image = machine.job.engine.image_id("app");
    run(&["save"]).success();
    machine.replace();
    assert!(run(&["restore"]).success().stderr.contains("hit"));
    run(&BUILD).success().build_report().assert_all_cached();
    assert_eq!(machine.job.engine.image_id("app"), image);
}

fn socket(engine: &Engine) -> &str {
    engine.docker_host().strip_prefix("unix://").expect("a socket")
}

fn script(dir: &Path, name: &str, line: &str) {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{line}\n")).expect("a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// One certificate for both sides, signed by an authority of its own.
fn certificates(dir: &Path) {
    let openssl = |args: &str| {
        done(Command::new("openssl").current_dir(dir).args(args.split(' ')));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca-key.pem -out ca.pem -subj /CN=test -days 2"));
    openssl(&format!("req {key} -keyout key.pem -out request.pem -subj /CN=localhost"));
    fs::write(dir.join("extensions"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
    openssl(
        "x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 \
         -extfile extensions -out cert.pem",
    );
}

#[track_caller]
fn done(command: &mut Command) {
    let output = command.output().expect("the program runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A program that listens; ended when it is dropped.
struct Server(Child);

impl Server {
    fn start(port: u16, command: &mut Command) -> Self {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        let server = Self(quiet.spawn().expect("a server"));
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "{command:?} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
