//! The files of the AWS command line tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! Read are the keys of a profile, its region, its endpoint, and whose certificates that has. What a
//! profile says of roles, single sign-on, or a process that makes credentials is ignored.

use std::collections::BTreeMap;
use std::path::Path;

use object_store::aws::AmazonS3ConfigKey;

use super::variables::Variables;

/// What of a profile is used.
const KEYS: [(&str, AmazonS3ConfigKey); 5] = [
    ("aws_access_key_id", AmazonS3ConfigKey::AccessKeyId),
    ("aws_secret_access_key", AmazonS3ConfigKey::SecretAccessKey),
    ("aws_session_token", AmazonS3ConfigKey::Token),
    ("region", AmazonS3ConfigKey::Region),
    ("endpoint_url", AmazonS3ConfigKey::Endpoint),
];
/// Variables that name credentials, which come before those of a profile.
const CREDENTIALS: [&str; 4] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
];

/// What was found in the files.
#[derive(Default)]
pub(crate) struct Profile {
    pub(crate) settings: Vec<(AmazonS3ConfigKey, String)>,
    /// A file with the certificates of authorities to trust.
    pub(crate) authorities: Option<String>,
    /// How to call its credentials in a message, if it has any that can be used.
    pub(crate) name: Option<String>,
}

/// Reads the profile that `AWS_PROFILE` names, or the default one. The error is for a message.
pub(crate) fn profile(environment: &Variables) -> Result<Profile, String> {
    let chosen = environment.get("AWS_PROFILE");
    let name = chosen.unwrap_or("default");
    let mut values = BTreeMap::new();
    // Keys in the file of credentials come before those in the file of settings.
    for (variable, at_home, section) in [
        ("AWS_CONFIG_FILE", ".aws/config", format!("profile {name}")),
        ("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials", name.to_owned()),
    ] {
        let Some(path) = environment.path(variable, at_home) else { continue };
        values.extend(section_of(&path, &section));
        if name == "default" {
            values.extend(section_of(&path, name));
        }
    }
    let elsewhere = CREDENTIALS.iter().any(|variable| environment.get(variable).is_some());
    let has_keys = values.contains_key("aws_secret_access_key");
    if chosen.is_some() && !has_keys && !elsewhere {
        return Err(format!(
            "the AWS profile `{name}` holds no keys: `aws configure export-credentials --profile \
             {name} --format env` gives them as variables"
        ));
    }
    if elsewhere {
        values.retain(|key, _| !key.starts_with("aws_"));
    }
    Ok(Profile {
        settings: KEYS.iter().filter_map(|(key, to)| Some((*to, values.remove(*key)?))).collect(),
        authorities: values.remove("ca_bundle"),
        name: (has_keys && !elsewhere).then(|| format!("with the AWS profile `{name}`")),
    })
}

/// The keys and values of a section; none where there is no such file.
fn section_of(path: &Path, section: &str) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut inside = false;
    let mut values = BTreeMap::new();
    for line in text.lines() {
        // Indented lines belong to the value above, which is none of ours.
        let is_setting = !line.starts_with([' ', '\t', '#', ';']);
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.split(']').next()) {
            inside = name.split_whitespace().eq(section.split_whitespace());
        } else if let Some((key, value)) = line.split_once('=').filter(|_| inside && is_setting) {
            values.insert(key.trim().to_lowercase(), value.trim().to_owned());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Vec<(String, String)>, String> {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join(".aws")).unwrap();
        let credentials = "[default]\naws_access_key_id = A\naws_secret_access_key=S=1\n\
                           [ci]\n# no\naws_access_key_id = B\naws_secret_access_key = T\n";
        fs::write(home.path().join(".aws/credentials"), credentials).unwrap();
        let config = "[default]\nregion = eu-west-1\ns3 =\n  max_queue_size = 1\n\
                      [profile ci]\nregion=us-west-2\nca_bundle = /ca.pem\n[profile sso]\nsso_session = x\n";
        fs::write(home.path().join(".aws/config"), config).unwrap();
        let home = [("HOME", home.path().to_str().unwrap())];
        let environment = home.iter().chain(variables).copied().collect();
        let Profile { settings, authorities, .. } = profile(&environment)?;
        let settings = settings.into_iter().map(|(key, value)| (key.as_ref().to_owned(), value));
        Ok(settings.chain(authorities.map(|file| ("ca_bundle".to_owned(), file))).collect())
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn profiles_are_read_from_both_files() {
        let default = pairs(&[
            ("aws_access_key_id", "A"),
            ("aws_secret_access_key", "S=1"),
            ("aws_region", "eu-west-1"),
        ]);
        assert_eq!(read(&[]).unwrap(), default);
        let ci = pairs(&[
            ("aws_access_key_id", "B"),
            ("aws_secret_access_key", "T"),
            ("aws_region", "us-west-2"),
            ("ca_bundle", "/ca.pem"),
        ]);
        assert_eq!(read(&[("AWS_PROFILE", "ci")]).unwrap(), ci);
    }

    #[test]
    fn variables_come_before_profiles() {
        let settings = read(&[("AWS_ACCESS_KEY_ID", "C"), ("AWS_PROFILE", "ci")]).unwrap();
        assert_eq!(settings, pairs(&[("aws_region", "us-west-2"), ("ca_bundle", "/ca.pem")]));
    }

    #[test]
    fn a_profile_without_keys_is_said() {
        for name in ["sso", "absent"] {
            let error = read(&[("AWS_PROFILE", name)]).unwrap_err();
            assert!(error.contains(name) && error.contains("no keys"), "{error}");
        }
    }
}
