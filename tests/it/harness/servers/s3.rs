//! An S3 server in this process, with one account and one bucket.

use std::fs;
use std::path::{Path, PathBuf};

use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;

use super::catalogue::Catalogue;
use super::certificate::{Certified, certify};
use super::disk::Disk;
use super::roles::Roles;
use super::service::{Listening, listen};
use super::{BUCKET, PASSWORD, Server, USER};

/// What an S3 server is started with.
#[derive(Clone, Copy, Default)]
pub(crate) struct S3Settings {
    pub(crate) tls: bool,
    /// Keys are had from a role, and live for seconds.
    pub(crate) role: bool,
    /// How much the server's disk holds, if that is little.
    pub(crate) megabytes: Option<u32>,
    /// How many blobs it lists; else those that there are.
    pub(crate) listed: Option<u32>,
}

/// An S3 server.
pub(crate) struct S3Server {
    server: Listening,
    disk: Disk,
    certified: Option<Certified>,
    role: Option<(Roles, Listening)>,
}

impl S3Server {
    pub(crate) fn start(settings: S3Settings) -> Self {
        let disk = Disk::new(settings.megabytes);
        fs::create_dir(disk.path().join(BUCKET)).expect("a directory");
        let files = FileSystem::new(disk.path()).expect("a file system");
        let mut service = match settings.listed {
            Some(blobs) => S3ServiceBuilder::new(Catalogue::new(files, blobs)),
            None => S3ServiceBuilder::new(files),
        };
        let role = settings.role.then(|| {
            fs::write(disk.path().join("token"), "of the container").expect("a written file");
            let roles = Roles::default();
            service.set_auth(roles.clone());
            let listening = roles.listen();
            (roles, listening)
        });
        if role.is_none() {
            service.set_auth(SimpleAuth::from_single(USER, PASSWORD));
        }
        let certified = settings.tls.then(|| certify(disk.path()));
        let server = listen(service.build(), certified.as_ref());
        Self { server, disk, certified, role }
    }

    /// How many keys the role has given out.
    pub(crate) fn keys_issued(&self) -> usize {
        self.role.as_ref().map_or(0, |(roles, _)| roles.issued())
    }

    /// The directory that holds the objects of the store.
    pub(crate) fn objects(&self) -> PathBuf {
        self.disk.path().join(BUCKET).join("team/app")
    }
}

impl Server for S3Server {
    fn address(&self) -> &str {
        &self.server.address
    }

    fn directory(&self) -> &Path {
        self.disk.path()
    }

    fn url(&self, _address: &str) -> String {
        format!("s3://{BUCKET}/team/app")
    }

    fn authority(&self) -> Option<&Path> {
        self.certified.as_ref().map(|certified| &*certified.authority)
    }

    fn variables(&self, address: &str, password: &str) -> Vec<(&'static str, String)> {
        let authority = self.authority();
        let scheme = if authority.is_some() { "https" } else { "http" };
        let mut variables = vec![("AWS_ENDPOINT_URL", format!("{scheme}://{address}"))];
        match &self.role {
            None => variables.extend([
                ("AWS_ACCESS_KEY_ID", USER.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", password.to_owned()),
            ]),
            Some((_, listening)) => variables.extend([
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("http://{}/", listening.address)),
                (
                    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
                    self.disk.path().join("token").display().to_string(),
                ),
            ]),
        }
        variables.extend(authority.map(|file| ("AWS_CA_BUNDLE", file.display().to_string())));
        variables
    }
}
