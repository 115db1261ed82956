//! A docker executor's engine as it is on CircleCI: elsewhere, with no directory in common.
//!
//! `socat` puts TLS before an engine's socket, and `sshd` lets the client in by ssh. The job's own
//! directories are in a mount namespace that the engine knows nothing of.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{Engine, Generation, need_programs};
use crate::world::World;

/// Certificates and keys, where a job's programs see them: not in /tmp.
fn directory() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[track_caller]
fn shell(script: &str, dir: &Path) {
    let output = Command::new("bash").args(["-euc", script]).current_dir(dir).output();
    let output = output.expect("bash");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A server that ends with the test.
struct Server(Child);

impl Server {
    #[track_caller]
    fn start(command: &mut Command, port: u16) -> Self {
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(child.try_wait().expect("a child").is_none(), "the server has ended");
            assert!(started.elapsed() < Duration::from_mins(1), "the server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the client's environment says of the engine.
fn variable(engine: &Engine, name: &str) -> String {
    let command = engine.command("docker");
    let value = command.get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value);
    value.expect("a variable").to_string_lossy().into_owned()
}

/// A first build and one without changes, both through `environment`.
fn two_jobs(engine: &Engine, programs: Vec<PathBuf>, environment: &[(&str, String)]) {
    const BUILD: &str = "Build with cached layers";
    let mut world = World { programs, ..World::new() };
    for (name, value) in environment {
        world.environment.insert((*name).to_owned(), value.clone());
    }
    let first = world.run(engine, "remote_docker");
    assert_eq!(first.success().build(BUILD).cached(), [""; 0]);
    let same = world.run(engine, "remote_docker");
    same.success().build(BUILD).assert_all_cached();
    assert!(same.output("Check Docker layers").contains("restore: hit"));
    assert_eq!(world.cache.entries().len(), 1);
}

#[test]
fn tcp_with_tls() {
    need_programs(&["openssl=openssl", "socat=socat"]);
    let engine = Engine::shared(Generation::V28_5);
    let dir = directory();
    shell(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=ca -keyout ca-key.pem -out ca.pem
         for name in server client; do
           openssl req -newkey rsa:2048 -nodes -subj /CN=$name -keyout $name-key.pem -out $name.csr
           echo subjectAltName=IP:127.0.0.1 > ext
           openssl x509 -req -days 1 -in $name.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial \
             -extfile ext -out $name.pem
         done
         mkdir client && cp ca.pem client/ && mv client.pem client/cert.pem
         mv client-key.pem client/key.pem",
        dir.path(),
    );
    let port = free_port();
    let socket = variable(&engine, "DOCKER_HOST").replace("unix://", "UNIX-CONNECT:");
    let listen = format!(
        "OPENSSL-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork,verify=1,cert=server.pem,\
         key=server-key.pem,cafile=ca.pem"
    );
    let mut socat = Command::new("socat");
    let _server = Server::start(socat.args([listen, socket]).current_dir(dir.path()), port);
    two_jobs(
        &engine,
        Vec::new(),
        &[
            ("DOCKER_HOST", format!("tcp://127.0.0.1:{port}")),
            ("DOCKER_TLS_VERIFY", "1".to_owned()),
            ("DOCKER_CERT_PATH", dir.path().join("client").display().to_string()),
        ],
    );
}

#[test]
fn ssh() {
    need_programs(&["ssh=openssh-client", "sshd=openssh-server"]);
    let engine = Engine::shared(Generation::V28_5);
    let dir = directory();
    let port = free_port();
    let path = |name: &str| dir.path().join(name).display().to_string();
    shell(
        "ssh-keygen -q -N '' -t ed25519 -f key && ssh-keygen -q -N '' -t ed25519 -f host",
        dir.path(),
    );
    // Whatever the client asks for, it gets the engine.
    let client: PathBuf = variable(&engine, "PATH").split(':').next().expect("a directory").into();
    let serve = format!(
        "#!/bin/sh\nDOCKER_HOST={} exec {} system dial-stdio\n",
        variable(&engine, "DOCKER_HOST"),
        client.join("docker").display()
    );
    fs::write(path("serve"), serve).expect("a script");
    shell("chmod 755 serve && cp key.pub authorized_keys && mkdir -p /run/sshd", dir.path());
    let config = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
         PermitRootLogin prohibit-password\nUsePAM no\nPidFile none\nForceCommand {}\n",
        path("host"),
        path("authorized_keys"),
        path("serve")
    );
    fs::write(path("sshd_config"), config).expect("a configuration");
    let client = format!(
        "Host *\n  IdentityFile {}\n  StrictHostKeyChecking no\n  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n",
        path("key")
    );
    fs::write(path("ssh_config"), client).expect("a configuration");
    let wrapper = format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", path("ssh_config"));
    fs::create_dir(path("bin")).expect("a directory");
    fs::write(path("bin/ssh"), wrapper).expect("a script");
    shell("chmod 755 bin/ssh", dir.path());

    let mut sshd = Command::new("/usr/sbin/sshd");
    let _server = Server::start(sshd.args(["-D", "-e", "-f", &path("sshd_config")]), port);
    let host = format!("ssh://root@127.0.0.1:{port}");
    two_jobs(&engine, vec![path("bin").into()], &[("DOCKER_HOST", host)]);
}
