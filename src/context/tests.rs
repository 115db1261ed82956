//! Tests of the whole module on real directories.

use super::{
    BuildContext, ContentDigest, ContextDigest, ContextError, ContextQuery, EntryKind, ListForm,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// A context with files of one line each.
fn context(files: &[&str]) -> TempDir {
    let temp = tempfile::tempdir().unwrap();
    for file in files {
        write(temp.path(), file, file);
    }
    temp
}

fn write(root: &Path, file: &str, content: &str) {
    let path = root.join(file);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

fn open(root: &TempDir) -> BuildContext {
    BuildContext::open(root.path(), None).unwrap()
}

fn digest(root: &TempDir, query: &ContextQuery) -> Result<ContextDigest, ContextError> {
    open(root).digest(query)
}

fn copy(root: &TempDir, sources: &[&str]) -> String {
    digest(root, &ContextQuery::copy(sources.iter().copied())).unwrap().digest.hex()
}

fn paths(digest: &ContextDigest) -> String {
    let paths: Vec<_> = digest.entries.iter().map(|entry| entry.path.to_string_lossy()).collect();
    paths.join(" ")
}

fn message(result: Result<ContextDigest, ContextError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn a_context_that_is_none() {
    let temp = context(&["file"]);
    let error = |name: &str| BuildContext::open(&temp.path().join(name), None).unwrap_err();
    assert!(matches!(error("nothing"), ContextError::NoContext { .. }));
    assert!(matches!(error("file"), ContextError::NotADirectory { .. }));
    assert!(error("nothing").to_string().ends_with("nothing` does not exist"));
}

#[test]
fn what_is_sent_is_told_before_it_is_there() {
    let temp = context(&["x", "docker/App"]);
    let sends = |path: &str, dockerfile: Option<&str>| {
        let dockerfile = dockerfile.map(|name| temp.path().join(name));
        let context = BuildContext::open(temp.path(), dockerfile.as_deref()).unwrap();
        context.sends(Path::new(path))
    };
    assert!(sends("cache/index.json", None));
    for (ignored, sent) in [
        ("cache", false),
        ("cache*", false),
        ("**/cache", false),
        ("*", false),
        ("./cache/", false),
        ("[a-c]ache", false),
        ("*\n!x", false),
        ("*\n!cache", true),
        ("cache/blobs", true),
        ("caches", true),
    ] {
        write(temp.path(), ".dockerignore", ignored);
        assert_eq!(sends("cache/index.json", None), sent, "{ignored}");
    }
    write(temp.path(), "docker/App.dockerignore", "cache");
    assert!(!sends("cache/index.json", Some("docker/App")));
    assert!(sends("cache/index.json", None));
}

#[test]
fn a_missing_source_is_named() {
    let temp = context(&["here", "dir/file", "secret", "conf/inner"]);
    symlink("gone", temp.path().join("broken")).unwrap();
    for source in ["nothing", "dir/nothing", "here/below", "broken", "../nothing"] {
        let place = temp.path().canonicalize().unwrap().join(source.trim_start_matches("../"));
        let expected =
            format!("`{source}` is not in the build context (looked for `{}`)", place.display());
        assert_eq!(message(digest(&temp, &ContextQuery::copy([source]))), expected);
        let filtered =
            ContextQuery { excludes: vec!["x".to_owned()], ..ContextQuery::copy([source]) };
        assert_eq!(message(digest(&temp, &filtered)), expected);
    }
    // Through a wildcard, the link that leads nowhere is named.
    let dangling = message(digest(&temp, &ContextQuery::copy(["bro*"])));
    assert!(dangling.starts_with("`broken` is not in the build context (looked"), "{dangling}");
    // A wildcard may match nothing.
    assert_eq!(digest(&temp, &ContextQuery::copy(["no*"])).unwrap().entries, []);

    write(temp.path(), ".dockerignore", "secret\nconf/*\n");
    for source in ["secret", "conf/inner"] {
        let error = message(digest(&temp, &ContextQuery::copy([source])));
        assert!(error.contains(source) && error.contains(".dockerignore` ignores it"), "{error}");
    }
}

#[test]
fn bad_patterns_are_named() {
    let temp = context(&["a"]);
    let bad = ContextQuery {
        excludes: vec!["ok".to_owned(), "[z-".to_owned()],
        ..ContextQuery::copy(["a"])
    };
    assert!(message(digest(&temp, &bad)).starts_with("invalid pattern `[z-`: "));
    let bad = message(digest(&temp, &ContextQuery::copy(["a[*"])));
    assert!(bad.starts_with("invalid pattern `a[*`: "), "{bad}");
}

#[test]
fn an_unreadable_file_is_an_error_unless_it_does_not_count() {
    let temp = context(&["closed", "open"]);
    let closed = temp.path().join("closed");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&closed).is_ok() {
        return; // Root reads everything.
    }
    assert!(message(digest(&temp, &ContextQuery::copy(["."]))).contains("closed"));
    assert!(digest(&temp, &ContextQuery::copy(["open"])).is_ok());
    write(temp.path(), ".dockerignore", "closed");
    assert!(digest(&temp, &ContextQuery::copy(["."])).is_ok());
}

#[test]
fn a_loop_of_links_is_an_error_only_where_it_is_followed() {
    let temp = context(&["dir/file"]);
    symlink("two", temp.path().join("dir/one")).unwrap();
    symlink("one", temp.path().join("dir/two")).unwrap();
    assert!(digest(&temp, &ContextQuery::copy(["dir"])).is_ok());
    assert!(
        message(digest(&temp, &ContextQuery::copy(["dir/one"])))
            .contains("too many symbolic links")
    );
}

#[test]
fn reads_what_is_asked_for_and_once() {
    let temp = context(&["src/a", "src/deep/b", "go.mod", "docs/c", "node_modules/d/e"]);
    let context = open(&temp);
    let dependencies = ContextQuery::copy(["go.mod"]);
    context.digest(&dependencies).unwrap();
    let cost = context.read_cost();
    assert_eq!((cost.directories, cost.files, cost.bytes), (1, 1, 6));

    let sources = context.digest(&ContextQuery::copy(["go.mod", "src/"])).unwrap();
    assert_eq!(paths(&sources), "go.mod src src/a src/deep src/deep/b");
    assert_eq!(sources.bytes, 21);
    let cost = context.read_cost();
    assert_eq!((cost.directories, cost.files), (3, 3));

    // A wildcard in the first component goes no deeper than it must.
    context.digest(&ContextQuery::copy(["go.*", "doc*/c"])).unwrap();
    let cost = context.read_cost();
    assert_eq!((cost.directories, cost.files), (4, 4));

    context.digest(&ContextQuery::copy(["."])).unwrap();
    let cost = context.read_cost();
    assert_eq!((cost.directories, cost.files), (6, 5));
    context.digest(&ContextQuery::copy(["."])).unwrap();
    assert_eq!(context.read_cost(), cost);
    assert_eq!(cost.bytes, context.digest(&ContextQuery::copy(["."])).unwrap().bytes);
}

#[test]
fn filters_keep_out_of_what_they_exclude() {
    let temp = context(&["a/keep/x", "a/heavy/y", "b/heavy/z"]);
    let listed = |query: &ContextQuery| {
        let context = open(&temp);
        let digest = context.digest(query).unwrap();
        (paths(&digest), context.read_cost().directories)
    };
    let excluding =
        ContextQuery { excludes: vec!["**/heavy".to_owned()], ..ContextQuery::copy(["."]) };
    assert_eq!(listed(&excluding), ("a a/keep a/keep/x b".to_owned(), 4));
    let parents = ContextQuery { parents: true, ..ContextQuery::copy(["a/*/x"]) };
    assert_eq!(listed(&parents), ("a a/keep a/keep/x".to_owned(), 4));
}

#[test]
fn parents_keep_the_path_and_a_pivot_cuts_it() {
    let temp = context(&["x/a/file", "x/b/file", "y/a/file"]);
    let parents = |source: &str| ContextQuery { parents: true, ..ContextQuery::copy([source]) };
    let seen = |source: &str| paths(&digest(&temp, &parents(source)).unwrap());
    assert_eq!(seen("x/a/file"), "x x/a x/a/file");
    assert_eq!(seen("./x/a"), "x x/a x/a/file");
    assert_eq!(seen("*/a/file"), "x x/a x/a/file y y/a y/a/file");
    assert_eq!(seen("x/./a/file"), "x x/a x/a/file");
    assert_eq!(seen("**/b/file"), "x x/b x/b/file");
    assert_eq!(seen("**/nothing"), "");
    let missing = message(digest(&temp, &parents("x/nothing")));
    assert!(missing.starts_with("`x/nothing` is not in the build context ("), "{missing}");
}

#[test]
fn a_source_s_own_place_does_not_count() {
    let temp = context(&["a/x", "b/x", "c/y"]);
    for file in ["a/x", "b/x", "c/y"] {
        write(temp.path(), file, "same");
    }
    assert_eq!(copy(&temp, &["a/x"]), copy(&temp, &["b/x"]));
    assert_eq!(copy(&temp, &["a"]), copy(&temp, &["b/"]));
    assert_ne!(copy(&temp, &["a"]), copy(&temp, &["c"]), "the name lands");
}

#[test]
fn one_source_in_different_words() {
    let temp = context(&["src/a", "src/deep/b", "other"]);
    let whole = copy(&temp, &["src"]);
    for same in
        [&["src/"] as &[&str], &["./src"], &["/src"], &["x/../src"], &["src", "src/a"], &["../src"]]
    {
        assert_eq!(copy(&temp, same), whole, "{same:?}");
    }
    assert_eq!(copy(&temp, &["src", "other"]), copy(&temp, &["other", "src"]));
    assert_eq!(copy(&temp, &["."]), copy(&temp, &["/"]));
    let mount = digest(&temp, &ContextQuery::mounts(["src"])).unwrap();
    assert_eq!(mount.digest.hex(), whole);
    assert!(digest(&temp, &ContextQuery::mounts(["s*"])).is_err(), "no wildcards in mounts");
}

#[test]
fn links_are_followed_where_a_source_names_them() {
    let temp = context(&["real/file"]);
    symlink("real", temp.path().join("link")).unwrap();
    symlink("/real/file", temp.path().join("absolute")).unwrap();
    symlink("../../../../real", temp.path().join("above")).unwrap();
    assert_eq!(copy(&temp, &["link"]), copy(&temp, &["real"]));
    assert_eq!(copy(&temp, &["above"]), copy(&temp, &["real"]));
    assert_eq!(copy(&temp, &["link/file"]), copy(&temp, &["absolute"]));
    let seen = digest(&temp, &ContextQuery::copy(["link"])).unwrap();
    assert_eq!(paths(&seen), "real real/file");
    // Inside a source a link is a link.
    let seen = digest(&temp, &ContextQuery::copy(["."])).unwrap();
    let kinds: Vec<_> = seen.entries.iter().map(|entry| entry.kind).collect();
    let (link, directory) = (EntryKind::Symlink, EntryKind::Directory);
    assert_eq!(kinds, [link, link, link, directory, EntryKind::File]);
}

/// Found by random changes on Docker 26.1: an edit of `target`, where only the link is copied.
#[test]
fn older_builders_follow_links_inside_of_what_a_wildcard_matches() {
    let temp = context(&["src/file", "target"]);
    symlink("/target", temp.path().join("src/link")).unwrap();
    let of = |form: ListForm, source: &str| {
        digest(&temp, &ContextQuery { form, ..ContextQuery::copy([source]) }).unwrap().digest
    };
    let forms = [ListForm::Names, ListForm::NamesAndTargets];
    let before = forms.map(|form| [of(form, "s*"), of(form, "src")]);
    write(temp.path(), "target", "something else");
    let after = forms.map(|form| [of(form, "s*"), of(form, "src")]);
    assert_eq!(after[0], before[0], "the link is the same");
    assert_ne!(after[1][0], before[1][0]);
    assert_eq!(after[1][1], before[1][1], "without a wildcard it is never followed");

    fs::remove_file(temp.path().join("target")).unwrap();
    let refused = |form: ListForm| {
        digest(&temp, &ContextQuery { form, ..ContextQuery::copy(["s*"]) }).is_err()
    };
    assert_eq!(forms.map(refused), [false, true], "older builders fail then");
}

#[test]
fn lists_files_that_are_not_ignored() {
    let temp = context(&["a/b", "a/c", ".dockerignore", "skip/d"]);
    write(temp.path(), ".dockerignore", "skip\na/*\n!a/c\n");
    symlink("a", temp.path().join("link")).unwrap();
    let files = open(&temp).files().unwrap();
    assert_eq!(files, [".dockerignore", "a/c", "link"].map(PathBuf::from));
    assert!(open(&temp).ignore_file().unwrap().ends_with(".dockerignore"));
}

#[test]
fn names_that_differ_by_case_are_two_names() {
    let temp = context(&["Readme", "readme", "src/A", "src/a"]);
    let of = |name: &str| paths(&digest(&temp, &ContextQuery::copy([name])).unwrap());
    assert_eq!((of("Readme"), of("readme")), ("Readme".to_owned(), "readme".to_owned()));
    assert_eq!(of("src/*"), "src/A src/a");
    write(temp.path(), ".dockerignore", "README\nsrc/A\n");
    assert_eq!(of("src"), "src src/a");
    assert_eq!(of("Readme"), "Readme");
}

#[test]
fn the_classic_builder_counts_where_a_file_is() {
    let temp = context(&["x/file", "y/file", "x/other"]);
    fs::write(temp.path().join("y/file"), "x/file").unwrap();
    let of = |sources: &[&str]| {
        let form = ListForm::Sources;
        let query = ContextQuery { form, ..ContextQuery::copy(sources.iter().copied()) };
        digest(&temp, &query).unwrap().digest
    };
    assert_eq!(copy(&temp, &["x/file"]), copy(&temp, &["y/file"]));
    assert_ne!(of(&["x/file"]), of(&["y/file"]));
    assert_ne!(of(&["x/file", "y/file"]), of(&["y/file", "x/file"]));
    let before = (of(&["x"]), of(&["x/f*"]));
    write(temp.path(), "x/other", "changed");
    assert_ne!(of(&["x"]), before.0);
    assert_eq!(of(&["x/f*"]), before.1);
}

#[test]
fn the_digest_alone_is_the_same() {
    let temp = context(&["a", "src/b", "src/deep/c"]);
    for sources in [["."], ["src"], ["s*"]] {
        for form in [ListForm::Paths, ListForm::Names, ListForm::Sources] {
            let query = ContextQuery { form, ..ContextQuery::copy(sources) };
            assert_eq!(
                open(&temp).digest_alone(&query).unwrap(),
                digest(&temp, &query).unwrap().digest
            );
        }
    }
}

#[test]
fn names_that_are_not_utf8_count() {
    let temp = context(&["file"]);
    let before = copy(&temp, &["."]);
    fs::write(temp.path().join(OsStr::from_bytes(b"n\xff")), "").unwrap();
    let first = copy(&temp, &["."]);
    fs::rename(
        temp.path().join(OsStr::from_bytes(b"n\xff")),
        temp.path().join(OsStr::from_bytes(b"n\xfe")),
    )
    .unwrap();
    assert_ne!(before, first);
    assert_ne!(first, copy(&temp, &["."]));
}

#[test]
fn a_file_larger_than_the_buffer() {
    let temp = context(&[]);
    let size = 3 * 128 * 1024 + 17;
    write(temp.path(), "large", &"x".repeat(size));
    let seen = digest(&temp, &ContextQuery::copy(["large"])).unwrap();
    assert_eq!(seen.bytes, size as u64);
    write(temp.path(), "large", &format!("{}y", "x".repeat(size - 1)));
    assert_ne!(digest(&temp, &ContextQuery::copy(["large"])).unwrap().digest, seen.digest);
}

/// The digest of a query is part of keys: it must not change by accident.
#[test]
fn the_joined_form_is_stable() {
    let temp = context(&[]);
    for (name, content) in [("a", "data0"), ("b", "data1")] {
        write(temp.path(), name, content);
        let mode = fs::Permissions::from_mode(0o644);
        fs::set_permissions(temp.path().join(name), mode).unwrap();
    }
    let joined = b"sha256:cd8e75bca50f2d695f220d0cb0997d8ead387e4f926e8669a92d7f104cc9885b\0\
        sha256:c2b5e234f5f38fc5864da7def04782f82501a40d46192e4207d5b3f0c3c4732b";
    assert_eq!(copy(&temp, &["b", "a"]), ContentDigest::of(joined).hex());
}

/// Both forms of a list, by hand. The digests of Docker 28.5's form were compared with its records.
#[test]
fn lists_have_two_forms() {
    let temp = context(&["d/a1", "d/a2"]);
    let of = |form: ListForm| {
        let query = ContextQuery { form, ..ContextQuery::copy(["d/a*"]) };
        digest(&temp, &query).unwrap()
    };
    let paths = of(ListForm::Paths);
    let [first, second] = [0, 1].map(|at| paths.entries[at].digest.to_string());
    let joined = |list: String| {
        let list = ContentDigest::of(list.as_bytes()).to_string();
        ContentDigest::of(list.as_bytes())
    };
    assert_eq!(paths.digest, joined(format!("\0a1{first}\0a2{second}")));
    assert_eq!(of(ListForm::Names).digest, joined(format!("a1{first}\0a2{second}")));
}

/// What is in a generated context.
#[derive(Debug, Clone, PartialEq)]
enum Item {
    File { content: Vec<u8>, executable: bool },
    Link(String),
}

type Items = BTreeMap<String, Item>;

fn any_items() -> impl Strategy<Value = Items> {
    let path = prop::collection::vec("[a-d]", 0..3).prop_map(|mut parts| {
        // Files and directories have names of their own, so that none is both.
        for part in &mut parts {
            part.push_str(".d");
        }
        parts
    });
    let path = (path, "[a-d]{1,2}(\\.txt)?").prop_map(|(mut parts, name)| {
        parts.push(name);
        parts.join("/")
    });
    let item = prop_oneof![
        4 => (prop::collection::vec(any::<u8>(), 0..40), any::<bool>())
            .prop_map(|(content, executable)| Item::File { content, executable }),
        1 => "[a-d/.]{1,6}".prop_map(Item::Link),
    ];
    prop::collection::btree_map(path, item, 1..12)
}

/// Makes the items in a directory, in an order, at a time, for an owner.
fn make(root: &Path, items: &Items, backwards: bool, time: u64, owner: u32) {
    let mut order: Vec<_> = items.iter().collect();
    if backwards {
        order.reverse();
    }
    for (path, item) in order {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match item {
            Item::Link(target) => symlink(target, &path).unwrap(),
            Item::File { content, executable } => {
                fs::write(&path, content).unwrap();
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
                let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(time);
                fs::File::options()
                    .append(true)
                    .open(&path)
                    .unwrap()
                    .set_modified(modified)
                    .unwrap();
                // Only root may give files away.
                chown(&path, Some(owner), Some(owner)).ok();
            }
        }
    }
}

fn queries() -> Vec<ContextQuery> {
    let excluding =
        ContextQuery { excludes: vec!["**/*.txt".to_owned()], ..ContextQuery::copy(["."]) };
    let parents = ContextQuery { parents: true, ..ContextQuery::copy(["**/*.txt"]) };
    vec![ContextQuery::copy(["."]), ContextQuery::copy(["*"]), excluding, parents]
}

/// The digests of the queries that work: a dangling link that a wildcard names is an error.
fn digests(root: &Path) -> Vec<Option<String>> {
    let context = BuildContext::open(root, None).unwrap();
    queries().iter().map(|query| context.digest(query).ok().map(|seen| seen.digest.hex())).collect()
}

fn digests_of(items: &Items) -> Vec<Option<String>> {
    let temp = tempfile::tempdir().unwrap();
    make(temp.path(), items, false, 1_000_000, 0);
    digests(temp.path())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_time_owner_and_place_do_not_count(items in any_items(), time in 0u64..2_000_000_000) {
        let temp = tempfile::tempdir().unwrap();
        let elsewhere = temp.path().join("another/checkout");
        fs::create_dir_all(&elsewhere).unwrap();
        make(&elsewhere, &items, true, time, 1234);
        prop_assert_eq!(digests(&elsewhere), digests_of(&items));
    }

    #[test]
    fn content_mode_target_and_name_count(items in any_items(), at in any::<prop::sample::Index>(), what in 0..4) {
        let (path, item) = items.iter().nth(at.index(items.len())).unwrap();
        let mut changed = items.clone();
        match (what, item.clone()) {
            (0, Item::File { mut content, executable }) => {
                content.push(0);
                changed.insert(path.clone(), Item::File { content, executable });
            }
            (1, Item::File { content, executable }) => {
                changed.insert(path.clone(), Item::File { content, executable: !executable });
            }
            (0 | 1, Item::Link(target)) => {
                changed.insert(path.clone(), Item::Link(format!("{target}x")));
            }
            (2, item) => {
                changed.remove(path);
                changed.insert(format!("{path}new"), item);
            }
            (_, _) => {
                changed.remove(path);
                // A directory that is left empty goes as well.
            }
        }
        prop_assert_ne!(&digests_of(&changed)[0], &digests_of(&items)[0]);
    }

    #[test]
    fn what_an_instruction_does_not_see_does_not_count(items in any_items(), extra in prop::collection::vec(any::<u8>(), 0..9)) {
        let temp = tempfile::tempdir().unwrap();
        make(&temp.path().join("seen"), &items, false, 1, 0);
        let seen = ContextQuery::copy(["seen"]);
        let before = BuildContext::open(temp.path(), None).unwrap().digest(&seen).unwrap();
        fs::write(temp.path().join("unseen"), &extra).unwrap();
        fs::write(temp.path().join("seen/ignored"), &extra).unwrap();
        fs::write(temp.path().join(".dockerignore"), "seen/ignored").unwrap();
        let after = BuildContext::open(temp.path(), None).unwrap().digest(&seen).unwrap();
        prop_assert_eq!(before, after);
    }

    /// A context that has answered other questions answers as a fresh one.
    #[test]
    fn what_was_asked_before_does_not_count(items in any_items()) {
        let temp = tempfile::tempdir().unwrap();
        make(temp.path(), &items, false, 1, 0);
        let context = BuildContext::open(temp.path(), None).unwrap();
        let files = context.files().unwrap();
        prop_assert_eq!(files.len(), items.len());
        for query in queries() {
            let again = BuildContext::open(temp.path(), None).unwrap().digest(&query).ok();
            prop_assert_eq!(context.digest(&query).ok(), again);
        }
    }
}
