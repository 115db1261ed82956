//! The name that keeps one project's caches apart from another's, where the user gives none.
//!
//! A directory's name says little on a CI machine (Jenkins builds `app` in `app@2`, too), so what
//! the CI calls the project comes first, then the git remote, and the directory last. In a
//! repository with several projects, the directory within it is a part of the name.

use std::fs;
use std::path::{Path, PathBuf};

/// What the user and CI systems call a project.
const VARIABLES: &[&str] = &[
    "DOCKERCACHE_PROJECT",
    "CIRCLE_PROJECT_REPONAME",
    "GITHUB_REPOSITORY",
    "CI_PROJECT_PATH",
    "BUILDKITE_PIPELINE_SLUG",
    "JOB_NAME",
    "BITBUCKET_REPO_FULL_NAME",
    "BUILD_REPOSITORY_NAME",
    "DRONE_REPO",
    "TRAVIS_REPO_SLUG",
];

/// The name for the project in `root`; `variable` looks up the environment.
pub(crate) fn project_name(root: &Path, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let set = |name: &str| variable(name).filter(|value| !value.is_empty());
    if let Some(own) = set(VARIABLES[0]) {
        return own;
    }
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let repository = root.ancestors().find(|dir| dir.join(".git").exists());
    let of_ci = VARIABLES.iter().find_map(|name| {
        let value = set(name)?;
        // Each branch of Jenkins' multibranch pipelines is a job of its own.
        Some(match value.rsplit_once('/') {
            Some((job, _)) if *name == "JOB_NAME" && set("BRANCH_NAME").is_some() => job.to_owned(),
            _ => value,
        })
    });
    let name = of_ci.or_else(|| remote_name(&git_directory(repository?)?));
    let Some(name) = name else {
        let directory = root.file_name().map(|name| name.to_string_lossy().into_owned());
        return directory.unwrap_or_else(|| "project".to_owned());
    };
    match repository.and_then(|repository| root.strip_prefix(repository).ok()) {
        Some(inside) if inside != Path::new("") => format!("{name}/{}", inside.display()),
        _ => name,
    }
}

/// Where the repository's configuration is: a worktree and a submodule have a file for `.git`.
fn git_directory(repository: &Path) -> Option<PathBuf> {
    let git = repository.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let text = fs::read_to_string(&git).ok()?;
    let own = repository.join(text.strip_prefix("gitdir:")?.trim());
    let common = fs::read_to_string(own.join("commondir"));
    Some(common.map_or_else(|_| own.clone(), |common| own.join(common.trim())))
}

/// The path in the URL of `origin`, or else of the first remote: `acme/app`. Never the host's part,
/// which may hold a password.
fn remote_name(git: &Path) -> Option<String> {
    let config = fs::read_to_string(git.join("config")).ok()?;
    let mut remotes = Vec::new();
    let mut remote = None;
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            remote = line.strip_prefix("[remote \"").and_then(|rest| rest.strip_suffix("\"]"));
        } else if let (Some(remote), Some((key, url))) = (remote, line.split_once('='))
            && key.trim() == "url"
        {
            remotes.push((remote, url.trim()));
        }
    }
    let origin = remotes.iter().find(|(name, _)| *name == "origin");
    let (_, url) = origin.or(remotes.first())?;
    let path = match url.split_once("://") {
        Some((_, rest)) => rest.split_once('/')?.1,
        None => url.rsplit_once(':').map_or(*url, |(_, path)| path),
    };
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (!path.is_empty()).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(url: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("app@2");
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::create_dir_all(root.join("worker")).unwrap();
        let config = format!("[core]\n\tbare = false\n[remote \"origin\"]\n\turl = {url}\n");
        fs::write(root.join(".git/config"), config).unwrap();
        (dir, root)
    }

    fn name(root: &Path, variables: &[(&str, &str)]) -> String {
        project_name(root, &|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn what_the_ci_says_comes_before_the_remote_and_the_directory() {
        let (_dir, root) = repository("https://x:secret@example.com/acme/app.git");
        assert_eq!(name(&root, &[]), "acme/app");
        let jenkins = [("JOB_NAME", "acme/app-ci")];
        assert_eq!(name(&root, &jenkins), "acme/app-ci");
        assert_eq!(name(&root, &[("JOB_NAME", "")]), "acme/app");
        fs::remove_dir_all(root.join(".git")).unwrap();
        assert_eq!(name(&root, &[]), "app@2");
        assert_eq!(name(&root, &jenkins), "acme/app-ci");
    }

    #[test]
    fn branches_of_a_jenkins_pipeline_are_one_project() {
        let (_dir, root) = repository("");
        for branch in ["main", "feature%2Fx"] {
            let job = format!("acme/app/{branch}");
            assert_eq!(name(&root, &[("JOB_NAME", &job), ("BRANCH_NAME", branch)]), "acme/app");
        }
    }

    #[test]
    fn directories_of_a_repository_are_projects_of_their_own() {
        let (_dir, root) = repository("git@example.com:acme/app.git");
        assert_eq!(name(&root, &[]), "acme/app");
        assert_eq!(name(&root.join("worker"), &[]), "acme/app/worker");
        let github = [("GITHUB_REPOSITORY", "acme/fork")];
        assert_eq!(name(&root.join("worker"), &github), "acme/fork/worker");
        let own = [("DOCKERCACHE_PROJECT", "mine"), github[0]];
        assert_eq!(name(&root.join("worker"), &own), "mine");
    }

    #[test]
    fn every_form_of_a_remote_gives_its_path() {
        for (url, path) in [
            ("ssh://git@example.com:22/group/sub/app.git", "group/sub/app"),
            ("https://example.com/acme/app/", "acme/app"),
            ("git@example.com:acme/app", "acme/app"),
            ("/srv/git/app.git", "srv/git/app"),
        ] {
            let (_dir, root) = repository(url);
            assert_eq!(name(&root, &[]), path, "{url}");
        }
    }

    #[test]
    fn a_worktree_has_the_name_of_its_repository() {
        let (dir, root) = repository("https://example.com/acme/app.git");
        fs::create_dir_all(root.join(".git/worktrees/w")).unwrap();
        fs::write(root.join(".git/worktrees/w/commondir"), "../..\n").unwrap();
        let worktree = dir.path().join("w");
        fs::create_dir(&worktree).unwrap();
        let link = format!("gitdir: {}\n", root.join(".git/worktrees/w").display());
        fs::write(worktree.join(".git"), link).unwrap();
        assert_eq!(name(&worktree, &[]), "acme/app");
    }
}
