//! What the docker client's configuration says of a registry: credentials, and authorities.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use oci_client::client::{Certificate, CertificateEncoding};
use oci_client::secrets::RegistryAuth;

use super::variables::Variables;

/// How Docker's own registry is called in a configuration.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// Whose password an identity token is, where a registry takes it as one (Azure's does).
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// The credentials for a registry, and how to call them in a message.
pub(crate) struct Login {
    pub(crate) auth: RegistryAuth,
    pub(crate) name: String,
}

/// Finds the credentials. The error is for a message.
pub(crate) fn login(host: &str, environment: &Variables) -> Result<Login, String> {
    let anonymous = || Login {
        auth: RegistryAuth::Anonymous,
        name: format!("without credentials: the docker client has none for `{host}`"),
    };
    let Some(directory) = environment.path("DOCKER_CONFIG", ".docker") else {
        return Ok(anonymous());
    };
    let file = directory.join("config.json");
    let Ok(reader) = File::open(&file).map(BufReader::new) else { return Ok(anonymous()) };
    let server = if host == "docker.io" { DOCKER_HUB } else { host };
    let basic =
        |user: String, password, name| Login { auth: RegistryAuth::Basic(user, password), name };
    let source = file.display();
    match get_credential_from_reader(reader, server) {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            let name = format!("with the credentials of `{user}` from {source}");
            Ok(basic(user, password, name))
        }
        Ok(DockerCredential::IdentityToken(token)) => {
            let name = format!("with the identity token from {source}");
            Ok(basic(TOKEN_USER.to_owned(), token, name))
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(anonymous()),
        // Helpers say so on their standard output, all in the same words.
        Err(CredentialRetrievalError::HelperFailure { stdout, .. })
            if stdout.contains("credentials not found") =>
        {
            Ok(anonymous())
        }
        // What a helper printed may be a secret.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
            Err(format!("the credential helper `{helper}` of {source} failed"))
        }
        Err(error) => Err(format!("the credentials in {source} can't be read: {error}")),
    }
}

/// The certificates of authorities that docker trusts for this registry, apart from the system's.
pub(crate) fn authorities(host: &str, environment: &Variables) -> Vec<Certificate> {
    let own = environment.path("DOCKER_CONFIG", ".docker").map(|path| path.join("certs.d"));
    own.into_iter()
        .chain([PathBuf::from("/etc/docker/certs.d")])
        .filter_map(|directory| fs::read_dir(directory.join(host)).ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "crt"))
        .filter_map(|path| fs::read(path).ok())
        .map(|data| Certificate { encoding: CertificateEncoding::Pem, data })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login_with(config: &str) -> Result<Login, String> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("config.json"), config).unwrap();
        let path = directory.path().to_str().unwrap();
        login("registry.example.com:5000", &Variables::from_iter([("DOCKER_CONFIG", path)]))
    }

    #[test]
    fn credentials_are_found_and_not_shown() {
        // `ci:hunter2`
        let login =
            login_with(r#"{"auths": {"registry.example.com:5000": {"auth": "Y2k6aHVudGVyMg=="}}}"#)
                .unwrap();
        assert_eq!(login.auth, RegistryAuth::Basic("ci".to_owned(), "hunter2".to_owned()));
        assert!(login.name.contains("`ci`") && !login.name.contains("hunter2"), "{}", login.name);
    }

    #[test]
    fn an_identity_token_is_a_password() {
        let login = login_with(
            r#"{"auths": {"https://registry.example.com:5000": {"identitytoken": "secret"}}}"#,
        )
        .unwrap();
        assert_eq!(login.auth, RegistryAuth::Basic(TOKEN_USER.to_owned(), "secret".to_owned()));
        assert!(!login.name.contains("secret"), "{}", login.name);
    }

    #[test]
    fn other_registries_get_no_credentials() {
        let login = login_with(r#"{"auths": {"example.com": {"auth": "Y2k6aHVudGVyMg=="}}}"#);
        assert_eq!(login.unwrap().auth, RegistryAuth::Anonymous);
    }

    #[test]
    fn a_helper_that_is_not_there_is_said() {
        let error =
            login_with(r#"{"credsStore": "absent-in-every-test"}"#).map(|_| ()).unwrap_err();
        assert!(error.contains("credential helper"), "{error}");
    }
}
