//! The templates of CircleCI's cache keys.

use std::collections::BTreeMap;

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

/// What a template can refer to.
pub(crate) struct Facts<'a> {
    /// Variables that CircleCI itself exports. What a step exports is not among them.
    pub(crate) environment: &'a BTreeMap<String, String>,
    /// Reads a file of the job.
    pub(crate) read: &'a dyn Fn(&str) -> Result<Vec<u8>, String>,
}

/// Fills a template in.
pub(crate) fn key(template: &str, facts: &Facts<'_>) -> Result<String, String> {
    if template.contains("<<") {
        return Err(format!("`{template}` has a parameter that was not replaced"));
    }
    let (mut key, mut rest) = (String::new(), template);
    while let Some((before, after)) = rest.split_once("{{") {
        let (expression, after) = after.split_once("}}").ok_or("a template has no end")?;
        key.push_str(before);
        key.push_str(&value(expression.trim(), facts)?);
        rest = after;
    }
    key.push_str(rest);
    if key.len() > 900 {
        return Err(format!("the key has {} characters, 900 are allowed", key.len()));
    }
    Ok(key)
}

fn value(expression: &str, facts: &Facts<'_>) -> Result<String, String> {
    let variable = |name: &str| facts.environment.get(name).cloned().unwrap_or_default();
    if let Some(name) = expression.strip_prefix(".Environment.") {
        return Ok(variable(name));
    }
    if let Some(file) = expression.strip_prefix("checksum ") {
        let file = file.trim().trim_matches('"');
        let content =
            (facts.read)(file).map_err(|e| format!("error computing cache key: {file}: {e}"))?;
        return Ok(base64::engine::general_purpose::STANDARD.encode(Sha256::digest(content)));
    }
    match expression {
        ".Branch" => Ok(variable("CIRCLE_BRANCH")),
        ".Revision" => Ok(variable("CIRCLE_SHA1")),
        ".BuildNum" => Ok(variable("CIRCLE_BUILD_NUM")),
        "arch" => Ok("linux-amd64-6_62".to_owned()),
        "epoch" => {
            let now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970");
            Ok(now.as_secs().to_string())
        }
        _ => Err(format!("unknown template `{expression}`")),
    }
}

#[test]
fn templates() {
    let environment =
        [("CIRCLE_BRANCH", "main"), ("CIRCLE_SHA1", "abc")].map(|(k, v)| (k.into(), v.into()));
    let facts = Facts {
        environment: &environment.into(),
        read: &|file| if file == "/a" { Ok(b"".to_vec()) } else { Err("not there".to_owned()) },
    };
    let all =
        "v1-{{ arch }}-{{ .Branch }}-{{.Revision}}-{{ .Environment.X }}-{{ checksum \"/a\" }}";
    assert_eq!(
        key(all, &facts).unwrap(),
        "v1-linux-amd64-6_62-main-abc--47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    );
    assert!(key("{{ epoch }}", &facts).unwrap().parse::<u64>().is_ok());
    assert!(key("{{ checksum \"/b\" }}", &facts).unwrap_err().contains("error computing"));
    assert!(key(&"x".repeat(901), &facts).is_err());
    assert!(key("v1-<< parameters.x >>", &facts).is_err());
    assert!(key("{{ .Environment }}", &facts).is_err());
}
