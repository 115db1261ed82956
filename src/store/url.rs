//! Where a store is: `registry://HOST/REPO[:TAG]`, `s3://BUCKET/PREFIX`, `gs://…`, `az://…`.

use std::fmt;
use std::str::FromStr;

/// The place of a store.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A repository of an OCI registry.
    Registry {
        /// Host and port.
        host: String,
        /// The repository.
        repository: String,
        /// The tag that always names the last saved cache, for builders that are not told of
        /// any other.
        tag: String,
    },
    /// A prefix in a bucket.
    Object {
        /// `s3`, `gs` or `az`.
        scheme: String,
        /// The bucket or container.
        bucket: String,
        /// The prefix, without slashes around it; often empty.
        prefix: String,
    },
}

/// The tag where none is given.
const TAG: &str = "cache";

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry { host, repository, tag } if tag == TAG => {
                write!(f, "registry://{host}/{repository}")
            }
            Self::Registry { host, repository, tag } => {
                write!(f, "registry://{host}/{repository}:{tag}")
            }
            Self::Object { scheme, bucket, prefix } if prefix.is_empty() => {
                write!(f, "{scheme}://{bucket}")
            }
            Self::Object { scheme, bucket, prefix } => write!(f, "{scheme}://{bucket}/{prefix}"),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StoreUrl {
    type Err = String;

    /// The error never repeats the URL: it may hold credentials.
    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").ok_or(
            "a store is named like registry://HOST/REPOSITORY, s3://BUCKET/PREFIX, \
             gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
        )?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') || path.contains('?') {
            return Err("a store's URL must not hold credentials: they come from the docker \
                        client's configuration, or from the environment of the cloud's own tools"
                .to_owned());
        }
        if host.is_empty() {
            return Err(format!("{scheme}:// needs a host or bucket"));
        }
        match scheme {
            "registry" => Self::registry(host, path),
            "s3" | "gs" | "az" => Ok(Self::Object {
                scheme: scheme.to_owned(),
                bucket: host.to_owned(),
                prefix: path.trim_matches('/').to_owned(),
            }),
            _ => Err(format!("`{scheme}://` is no kind of store: use registry, s3, gs or az")),
        }
    }
}

impl StoreUrl {
    fn registry(host: &str, path: &str) -> Result<Self, String> {
        let (repository, tag) = path.split_once(':').unwrap_or((path, TAG));
        let is_name = |part: &str| {
            part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
        };
        if repository.is_empty() {
            return Err(format!("a repository is missing after `{host}/`"));
        }
        if !repository.split('/').all(is_name) {
            return Err(format!(
                "`{repository}` is no repository: lower case letters, digits, `.`, `_`, `-`, and \
                 `/` between parts"
            ));
        }
        let is_tag = tag.len() <= 128
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
            && tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        if !is_tag {
            return Err(format!("`{tag}` is no tag"));
        }
        Ok(Self::Registry {
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_alike() {
        for url in [
            "registry://registry.example.com:5000/team/app-cache",
            "registry://127.0.0.1:5000/app:main",
            "s3://bucket",
            "s3://bucket/a/prefix",
            "gs://bucket/x",
            "az://container/x",
        ] {
            assert_eq!(url.parse::<StoreUrl>().unwrap().to_string(), url);
        }
        let slash = "s3://bucket/prefix/".parse::<StoreUrl>().unwrap();
        assert_eq!(slash.to_string(), "s3://bucket/prefix");
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for url in ["registry://user:hunter2@host/app", "s3://bucket/x?secret=hunter2"] {
            let error = url.parse::<StoreUrl>().unwrap_err();
            assert!(error.contains("credentials") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_no_store_is_said() {
        for (url, words) in [
            ("bucket/x", "is named like"),
            ("ftp://host/x", "no kind of store"),
            ("s3:///x", "needs a host"),
            ("registry://host/UPPER", "no repository"),
            ("registry://host/", "a repository is missing"),
            ("registry://host/app:ta/g", "no tag"),
        ] {
            let error = url.parse::<StoreUrl>().unwrap_err();
            assert!(error.contains(words), "{url}: {error}");
        }
    }
}
