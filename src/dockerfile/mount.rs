//! The value of `RUN --mount`: one CSV record of keys and values.

use super::error::{Problem, suggest};
use super::path;

/// What is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MountKind {
    /// Files of the build context, a stage, or an image.
    #[default]
    Bind,
    /// A directory that outlives the build; its content is never part of the key.
    Cache,
    /// An empty file system in memory.
    Tmpfs,
    /// A secret; its value is never part of the key.
    Secret,
    /// An SSH agent.
    Ssh,
}

impl MountKind {
    /// Returns the word that stands in a Dockerfile.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bind => "bind",
            Self::Cache => "cache",
            Self::Tmpfs => "tmpfs",
            Self::Secret => "secret",
            Self::Ssh => "ssh",
        }
    }
}

/// One mount of a `RUN`, expanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// The stage or image that the files come from; the build context if not given.
    pub from: Option<String>,
    /// The path there.
    pub source: String,
    /// The path in the container.
    pub target: String,
    /// Whether the command can't write to it.
    pub read_only: bool,
    /// The identity of a cache, a secret, or an agent.
    pub id: Option<String>,
    /// How a cache is shared by builds.
    pub sharing: Option<String>,
    /// Whether the build fails without the secret or the agent.
    pub required: bool,
    /// The size of a tmpfs, as written.
    pub size: Option<String>,
    /// The mode bits of a cache, a secret, or an agent.
    pub mode: Option<u32>,
    /// The owner.
    pub user: Option<u32>,
    /// The group.
    pub group: Option<u32>,
    /// The variable that a secret is passed in.
    pub variable: Option<String>,
}

impl Mount {
    /// Gives a cache its whole identity: the builder's namespace, and what is written, or else the
    /// target.
    pub(crate) fn fill_cache_identity(&mut self, namespace: &str) {
        let id = match &self.id {
            Some(id) => id.clone(),
            None if self.target.starts_with('/') => path::join("/", &self.target),
            None => path::join("/", &self.target).split_off(1),
        };
        self.id = Some(format!("{namespace}/{id}"));
    }

    /// Gives a secret its identity, target, and mode where they are not written.
    pub(crate) fn fill_secret_defaults(&mut self) {
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        if !self.source.is_empty() {
            self.id = Some(std::mem::take(&mut self.source));
        }
        let id = self.id.get_or_insert_with(|| last(&self.target));
        if self.variable.is_none() {
            if self.target.is_empty() {
                self.target = format!("/run/secrets/{}", last(id));
            }
            self.mode.get_or_insert(0o400);
            self.user.get_or_insert(0);
            self.group.get_or_insert(0);
        }
    }
}

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// Checks what can be checked before variables are known.
pub(crate) fn check(text: &str) -> Result<(), Problem> {
    from_of(text).map(|_| ())
}

/// Returns the `from` of a mount; it takes no variables.
pub(crate) fn from_of(text: &str) -> Result<Option<String>, Problem> {
    let mut from = None;
    for field in csv_fields(text)? {
        let (key, value) = field.split_once('=').unwrap_or((&field, ""));
        if !key.eq_ignore_ascii_case("from") {
            continue;
        }
        if value.find('$').is_some_and(|dollar| dollar + 1 < value.len()) {
            return Err(problem(
                "'from' doesn't support variable expansion, define alias stage instead",
            ));
        }
        from = Some(value.to_owned()).filter(|value| !value.is_empty());
    }
    Ok(from)
}

/// Parses a mount; `expand` expands each value.
pub(crate) fn parse(
    text: &str,
    expand: &dyn Fn(&str) -> Result<String, Problem>,
) -> Result<Mount, Problem> {
    let mut mount = Mount::default();
    let mut read_only = None;
    for field in csv_fields(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(expand(value)?)),
            None => (field.to_lowercase(), None),
        };
        let keyed = matches!(mount.kind, MountKind::Secret | MountKind::Ssh);
        let kind = mount.kind.as_str();
        let unexpected = || problem(&format!("unexpected key '{key}' for mount type '{kind}'"));
        let Some(value) = value else {
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(true),
                "readwrite" | "rw" => read_only = Some(false),
                "required" if keyed => mount.required = true,
                "required" => return Err(unexpected()),
                _ => {
                    return Err(problem(&format!(
                        "invalid field '{field}' must be a key=value pair"
                    )));
                }
            }
            continue;
        };
        match key.as_str() {
            "type" => mount.kind = kind_of(&value)?,
            "from" => mount.from = Some(value).filter(|value| !value.is_empty()),
            "source" | "src" => mount.source = value,
            "target" | "dst" | "destination" => mount.target = value,
            "readonly" | "ro" => read_only = Some(boolean(&key, &value)?),
            "readwrite" | "rw" => read_only = Some(!boolean(&key, &value)?),
            "required" if keyed => mount.required = boolean(&key, &value)?,
            "size" if mount.kind == MountKind::Tmpfs => mount.size = Some(value),
            "env" if mount.kind == MountKind::Secret => mount.variable = Some(value),
            "required" | "size" | "env" => return Err(unexpected()),
            "id" => mount.id = Some(value).filter(|value| !value.is_empty()),
            "sharing" => mount.sharing = Some(sharing(&value)?),
            "mode" => mount.mode = Some(number(&key, &value, 8)?),
            "uid" => mount.user = Some(number(&key, &value, 10)?),
            "gid" => mount.group = Some(number(&key, &value, 10)?),
            _ => {
                let hint = suggest(&key, KEYS)
                    .map(|key| format!(" (did you mean {key}?)"))
                    .unwrap_or_default();
                return Err(problem(&format!("unexpected key '{key}' in '{field}'{hint}")));
            }
        }
    }
    mount.read_only =
        read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
    validate(&mount)?;
    Ok(mount)
}

fn validate(mount: &Mount) -> Result<(), Problem> {
    let kind = mount.kind.as_str();
    if matches!(mount.kind, MountKind::Bind | MountKind::Tmpfs) {
        for (name, value) in [("mode", mount.mode), ("uid", mount.user), ("gid", mount.group)] {
            if value.is_some() {
                return Err(problem(&format!("{name} not allowed for {kind:?} type mounts")));
            }
        }
    }
    if mount.kind == MountKind::Secret {
        if mount.from.is_some() {
            return Err(problem("secret mount should not have a from"));
        }
        if mount.sharing.is_some() {
            return Err(problem("secret mount should not define sharing"));
        }
        if mount.source.is_empty() && mount.target.is_empty() && mount.id.is_none() {
            return Err(problem("invalid secret mount. one of source, target required"));
        }
        if !mount.source.is_empty() && mount.id.is_some() {
            return Err(problem("both source and id can't be set"));
        }
    }
    if mount.sharing.is_some() && mount.kind != MountKind::Cache {
        return Err(problem(&format!("invalid cache sharing set for {kind} mount")));
    }
    Ok(())
}

fn kind_of(value: &str) -> Result<MountKind, Problem> {
    use MountKind::{Bind, Cache, Secret, Ssh, Tmpfs};
    let kinds = [Bind, Cache, Tmpfs, Secret, Ssh];
    kinds.into_iter().find(|kind| kind.as_str().eq_ignore_ascii_case(value)).ok_or_else(|| {
        let hint = suggest(value, kinds.map(MountKind::as_str))
            .map(|kind| format!(" (did you mean {kind}?)"))
            .unwrap_or_default();
        problem(&format!("unsupported mount type {value:?}{hint}"))
    })
}

fn sharing(value: &str) -> Result<String, Problem> {
    let lower = value.to_lowercase();
    if ["shared", "private", "locked"].contains(&lower.as_str()) {
        return Ok(lower);
    }
    Err(problem(&format!(
        "unsupported sharing value {value:?} (expected shared, private, or locked)"
    )))
}

fn boolean(key: &str, value: &str) -> Result<bool, Problem> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(problem(&format!("invalid value for {key}: {value}"))),
    }
}

fn number(key: &str, value: &str, radix: u32) -> Result<u32, Problem> {
    u32::from_str_radix(value, radix)
        .map_err(|_| problem(&format!("invalid value {value} for {key}")))
}

/// Splits one CSV record.
fn csv_fields(text: &str) -> Result<Vec<String>, Problem> {
    let fail = |reason: &str| problem(&format!("failed to parse csv mounts: {reason}"));
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            rest = quoted;
            loop {
                let (part, after) = rest.split_once('"').ok_or_else(|| fail("missing \""))?;
                field.push_str(part);
                rest = after;
                match rest.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        rest = after;
                    }
                    None => break,
                }
            }
            fields.push(field);
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            if rest[..end].contains('"') {
                return Err(fail("bare \" in non-quoted field"));
            }
            fields.push(rest[..end].to_owned());
            rest = &rest[end..];
        }
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.is_empty() => return Ok(fields),
            None => return Err(fail("extraneous or missing \" in quoted field")),
        }
    }
}

fn problem(reason: &str) -> Problem {
    Problem::Mount { reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        let expand = |value: &str| Ok(value.replace("$x", "/ex"));
        parse(text, &expand).map_err(|problem| problem.to_string())
    }

    #[test]
    fn keys_and_defaults() {
        let bind = mount("from=build,source=a,\"target=$x,y\"").unwrap();
        assert_eq!(bind.kind, MountKind::Bind);
        assert!(bind.read_only);
        assert_eq!(bind.target, "/ex,y");
        let cache = mount("type=cache,target=/c,sharing=LOCKED,uid=5,mode=0755").unwrap();
        assert!(!cache.read_only);
        assert_eq!((cache.user, cache.mode), (Some(5), Some(0o755)));
        assert_eq!(cache.sharing.as_deref(), Some("locked"));
        assert!(mount("type=secret,id=a,required").unwrap().required);
        assert!(!mount("target=/a,rw").unwrap().read_only);
    }

    #[test]
    fn wrong_mounts_are_refused() {
        for (text, expected) in [
            ("type=bnd", "unsupported mount type \"bnd\" (did you mean bind?)"),
            ("targt=/x", "unexpected key 'targt' in 'targt=/x' (did you mean target?)"),
            ("target", "invalid field 'target' must be a key=value pair"),
            ("type=bind,uid=1", "uid not allowed for \"bind\" type mounts"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("size=1", "unexpected key 'size' for mount type 'bind'"),
            ("ro=maybe", "invalid value for ro: maybe"),
            ("\"a", "failed to parse csv mounts: missing \""),
        ] {
            assert_eq!(mount(text).unwrap_err(), expected, "{text}");
        }
        assert!(check("from=$stage").is_err());
        assert_eq!(from_of("type=bind,from=a").unwrap().as_deref(), Some("a"));
    }
}
