//! What one source of an instruction selects, and the digest of it, as the builder resolves sources.
//!
//! A plain source is one digest: of a file, or of a directory with all that is in it; a link is
//! followed inside the context. A source with wildcards, `--exclude`, or `--parents` is a list of the
//! files and directory headers that it lets through.

use super::digest::{self, ContentDigest, FileList};
use super::error::ContextError;
use super::go_path::{Glob, base, has_wildcards};
use super::pattern::{MatchInfo, PatternMatcher};
use super::walk::{Directory, Found, Node, Tree};
use rayon::prelude::*;

/// How the builder writes down what a wildcard or filter lets through.
///
/// The digests differ, what changes them hardly does: `Names` ignores in which directory a file
/// is. Plain sources have one form.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ListForm {
    /// By path: `BuildKit` since its change 6238 of September 2025.
    #[default]
    Paths,
    /// By path, source by source, and plain sources as well: the classic builder, which counts
    /// where a file is.
    Sources,
    /// By name: before that, Docker 28.5 included.
    Names,
    /// By name, with what every link leads to, those inside of a directory included: before
    /// `BuildKit`'s change 6220 of the same month, Docker 28.4 included. Docker 20.10 goes its own
    /// way where a wildcard matches a directory.
    NamesAndTargets,
}

/// One source, resolved to how the builder looks for it.
#[derive(Debug)]
pub(super) struct Selector {
    /// As it was written, for messages.
    pub(super) written: String,
    /// Clean, with a leading slash; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) wildcard: bool,
    pub(super) include: Option<PatternMatcher>,
    pub(super) exclude: Option<PatternMatcher>,
    /// A path that must be among the selected ones.
    pub(super) required: Option<Vec<u8>>,
    pub(super) form: ListForm,
}

/// What a selector selects.
pub(super) struct Selection<'a> {
    pub(super) digest: ContentDigest,
    pub(super) places: Vec<Selected<'a>>,
}

/// A place that counts: with everything below it, or by itself.
pub(super) struct Selected<'a> {
    pub(super) found: Found<'a>,
    pub(super) whole: bool,
}

impl Selector {
    /// Whether the source is more than a plain path.
    pub(super) fn is_filtered(&self) -> bool {
        self.wildcard || self.include.is_some() || self.exclude.is_some()
    }

    /// Computes the digest.
    pub(super) fn select<'a>(&self, tree: &'a Tree) -> Result<Selection<'a>, ContextError> {
        if self.is_filtered() {
            return self.select_filtered(tree);
        }
        let found = tree.lookup(&self.path, true)?.ok_or_else(|| self.missing(tree))?;
        let digest = digest::place(tree, found)?;
        Ok(Selection { digest, places: vec![Selected { found, whole: true }] })
    }

    fn missing(&self, tree: &Tree) -> ContextError {
        missing(tree, &self.written, &self.path)
    }

    fn select_filtered<'a>(&self, tree: &'a Tree) -> Result<Selection<'a>, ContextError> {
        let mut walk = Walk::new(self, tree)?;
        // A wildcard may select nothing; a name may not.
        let prefix = if self.wildcard { plain_prefix(&self.path) } else { &self.path };
        match tree.lookup(prefix, self.wildcard)? {
            Some(found) => {
                walk.visit(found, prefix.to_vec(), (!self.wildcard).then_some(prefix.len()))?;
            }
            None if self.wildcard => {}
            None => return Err(self.missing(tree)),
        }
        let included = walk.included;
        if let Some(required) = &self.required
            && !included.iter().any(|one| one.path.starts_with(required))
        {
            return Err(missing(tree, &self.written, required));
        }

        let resolved =
            included.par_iter().map(|one| resolve(tree, one)).collect::<Result<Vec<_>, _>>()?;
        let digest = match (included.as_slice(), resolved.as_slice()) {
            ([], _) => ContentDigest::of(b""),
            ([one], [(digest, _)]) if base(&one.path) == base(&self.path) => *digest,
            _ => {
                let mut list = FileList::default();
                for (index, (one, (digest, _))) in included.iter().zip(&resolved).enumerate() {
                    match (self.form, &one.path[prefix.len()..]) {
                        (ListForm::Paths | ListForm::Sources, b"") => list.add(b"/", *digest),
                        (ListForm::Paths | ListForm::Sources, path) => list.add(path, *digest),
                        (ListForm::Names | ListForm::NamesAndTargets, _) if index == 0 => {
                            list.add_verbatim(base(&one.path), *digest);
                        }
                        (ListForm::Names | ListForm::NamesAndTargets, _) => {
                            list.add_verbatim(&[b"\0", base(&one.path)].concat(), *digest);
                        }
                    }
                }
                list.finish()
            }
        };
        Ok(Selection { digest, places: resolved.into_iter().map(|(_, place)| place).collect() })
    }
}

/// The digest of an included place: of a directory only its header.
fn resolve<'a>(
    tree: &'a Tree,
    one: &Included<'a>,
) -> Result<(ContentDigest, Selected<'a>), ContextError> {
    match one.found {
        Found::Directory(directory) => {
            let place = Selected { found: one.found, whole: false };
            Ok((digest::header(tree, directory), place))
        }
        Found::Leaf { node: Node::Link { .. }, .. } if one.follow => {
            let gone = || missing(tree, &String::from_utf8_lossy(&one.path[1..]), &one.path);
            let found = tree.lookup(&one.path, true)?.ok_or_else(gone)?;
            Ok((digest::place(tree, found)?, Selected { found, whole: true }))
        }
        found @ Found::Leaf { .. } => {
            Ok((digest::place(tree, found)?, Selected { found, whole: false }))
        }
    }
}

fn missing(tree: &Tree, written: &str, path: &[u8]) -> ContextError {
    ContextError::MissingSource { source_path: written.to_owned(), path: tree.on_disk(path) }
}

/// The leading components without wildcards; empty for the root.
fn plain_prefix(path: &[u8]) -> &[u8] {
    let mut end = 0;
    for component in path.split(|&byte| byte == b'/').skip(1) {
        if has_wildcards(component) {
            break;
        }
        end += 1 + component.len();
    }
    &path[..end]
}

/// A walk over one source that keeps what passes the filters, in the builder's order.
struct Walk<'a, 's> {
    tree: &'a Tree,
    selector: &'s Selector,
    glob: Option<Glob>,
    /// The pattern by component, where a component can only match one.
    components: Option<Vec<Glob>>,
    parents: Vec<Parent<'a>>,
    included: Vec<Included<'a>>,
}

struct Included<'a> {
    /// Its path by the names in the source, which may go through links.
    path: Vec<u8>,
    found: Found<'a>,
    /// Whether a link is followed: where the source itself names it, and on older engines always.
    follow: bool,
}

/// A directory that the walk is in.
struct Parent<'a> {
    path: Vec<u8>,
    directory: &'a Directory,
    included: bool,
    verdict: Verdict,
}

/// How a place fared with the filters.
struct Verdict {
    passes: bool,
    include: Option<(bool, MatchInfo)>,
    exclude: Option<(bool, MatchInfo)>,
}

impl<'a, 's> Walk<'a, 's> {
    fn new(selector: &'s Selector, tree: &'a Tree) -> Result<Self, ContextError> {
        let parse = |pattern: &[u8]| {
            Glob::parse(pattern).map_err(|reason| ContextError::Pattern {
                pattern: selector.written.clone(),
                reason,
            })
        };
        let glob = selector.wildcard.then(|| parse(&selector.path)).transpose()?;
        // A class can match a slash, so such a pattern says nothing about single components.
        let components = (!selector.path.contains(&b'['))
            .then(|| selector.path.split(|&byte| byte == b'/').skip(1).map(parse).collect())
            .and_then(Result::ok);
        Ok(Self { tree, selector, glob, components, parents: Vec::new(), included: Vec::new() })
    }

    /// Visits a place. `root` is the length of the path that the filters are relative to; a wildcard
    /// has none until it has matched.
    fn visit(
        &mut self,
        found: Found<'a>,
        path: Vec<u8>,
        mut root: Option<usize>,
    ) -> Result<(), ContextError> {
        if let Some(glob) = &self.glob
            && root.is_none()
            && glob.matches(&path)
        {
            root = Some(path.len());
        }
        let Some(start) = root else {
            return match found {
                Found::Directory(directory) if self.may_match_below(&path) => {
                    self.visit_entries(directory, &path, root)
                }
                _ => Ok(()),
            };
        };
        let candidate = path.get(start + 1..).unwrap_or_default().to_vec();
        let verdict = self.judge(&candidate);
        match found {
            // The root's own header never counts.
            Found::Directory(directory) if directory.is_root() && path.is_empty() => {
                self.visit_entries(directory, &path, root)
            }
            Found::Directory(directory) => {
                if verdict.passes {
                    self.include(found, path.clone());
                }
                let closed = !candidate.is_empty() && self.is_closed(&candidate, &verdict);
                if closed {
                    return Ok(());
                }
                let included = verdict.passes;
                self.parents.push(Parent { path: path.clone(), directory, included, verdict });
                self.visit_entries(directory, &path, root)?;
                self.parents.pop();
                Ok(())
            }
            Found::Leaf { .. } => {
                if verdict.passes {
                    self.include(found, path);
                }
                Ok(())
            }
        }
    }

    fn visit_entries(
        &mut self,
        directory: &'a Directory,
        path: &[u8],
        root: Option<usize>,
    ) -> Result<(), ContextError> {
        for entry in self.tree.entries(directory)? {
            self.visit(directory.found(entry), [path, &*entry.name].join(&b'/'), root)?;
        }
        Ok(())
    }

    /// Includes a place, after the headers of the directories that it is in.
    fn include(&mut self, found: Found<'a>, path: Vec<u8>) {
        for parent in self.parents.iter_mut().filter(|parent| !parent.included) {
            parent.included = true;
            self.included.push(Included {
                path: parent.path.clone(),
                found: Found::Directory(parent.directory),
                follow: false,
            });
        }
        let follow = self.parents.is_empty() || self.selector.form == ListForm::NamesAndTargets;
        self.included.push(Included { path, found, follow });
    }

    fn judge(&self, candidate: &[u8]) -> Verdict {
        let parent = self.parents.last().map(|parent| &parent.verdict);
        let include = self.selector.include.as_ref().map(|matcher| {
            let info = parent.and_then(|parent| parent.include.as_ref());
            matcher.matches(candidate, info.map(|(_, info)| info))
        });
        let included = include.as_ref().is_none_or(|(matched, _)| *matched);
        // What is not included is not asked about, and leaves no result for what is below.
        let exclude = self.selector.exclude.as_ref().filter(|_| included).map(|matcher| {
            let info = parent.and_then(|parent| parent.exclude.as_ref());
            matcher.matches(candidate, info.map(|(_, info)| info))
        });
        let excluded = exclude.as_ref().is_some_and(|(matched, _)| *matched);
        Verdict { passes: included && !excluded, include, exclude }
    }

    /// Whether nothing below a directory can pass.
    fn is_closed(&self, candidate: &[u8], verdict: &Verdict) -> bool {
        let none_included = match (&self.selector.include, &verdict.include) {
            (Some(matcher), Some((false, info))) => matcher.none_below_match(candidate, info),
            _ => false,
        };
        let all_excluded = match (&self.selector.exclude, &verdict.exclude) {
            (Some(matcher), Some((true, info))) => matcher.all_below_match(candidate, info),
            _ => false,
        };
        none_included || all_excluded
    }

    /// Whether the wildcard may match something below a directory.
    fn may_match_below(&self, path: &[u8]) -> bool {
        let Some(components) = &self.components else {
            return true;
        };
        let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').skip(1).collect();
        names.len() < components.len()
            && components.iter().zip(names).all(|(glob, name)| glob.matches(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    #[test]
    fn splits_before_the_first_wildcard() {
        for (path, prefix) in
            [("/a/b*/c", "/a"), ("/*", ""), ("/a/\\*b/c?", "/a/\\*b"), ("/a/b", "/a/b")]
        {
            assert_eq!(plain_prefix(path.as_bytes()), prefix.as_bytes(), "{path}");
        }
    }

    /// Makes a tree from lines: `dir/`, `link > target`, or `file content`.
    fn make(root: &Path, lines: &[&str]) {
        for line in lines {
            let (path, mode) = if let Some(directory) = line.strip_suffix('/') {
                fs::create_dir(root.join(directory)).unwrap();
                (root.join(directory), 0o755)
            } else if let Some((link, target)) = line.split_once(" > ") {
                symlink(target, root.join(link)).unwrap();
                continue;
            } else {
                let (file, content) = line.split_once(' ').unwrap();
                fs::write(root.join(file), content).unwrap();
                (root.join(file), 0o644)
            };
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }

    fn matcher(patterns: &[&str]) -> Option<PatternMatcher> {
        (!patterns.is_empty())
            .then(|| PatternMatcher::new(patterns.iter().map(|text| text.as_bytes())).unwrap())
    }

    fn digest(root: &Path, path: &str, include: &[&str], exclude: &[&str]) -> String {
        let selector = Selector {
            written: path.to_owned(),
            path: path.as_bytes().to_vec(),
            wildcard: has_wildcards(path.as_bytes()),
            include: matcher(include),
            exclude: matcher(exclude),
            required: None,
            form: ListForm::Paths,
        };
        let tree = Tree::new(root.to_owned(), PatternMatcher::default());
        selector.select(&tree).unwrap().digest.to_string()
    }

    const DATA0: &str = "sha256:cd8e75bca50f2d695f220d0cb0997d8ead387e4f926e8669a92d7f104cc9885b";

    /// The values are the published ones of `BuildKit`'s own tests.
    #[test]
    fn equals_the_builder_s_digests_of_wildcards() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        make(
            root,
            &[
                "bar data1",
                "foo data0",
                "fox data2",
                "x/",
                "x/d0/",
                "x/d0/abc data0",
                "x/d0/def > abc",
                "x/d0/ghi > nosuchfile",
                "y1 > foo",
                "y2 > fox",
            ],
        );
        let one = ContentDigest::of(format!("\0foo{DATA0}").as_bytes()).to_string();
        for (path, expected) in [
            ("/f*o", one.as_str()),
            ("/f*", "sha256:0b6731924f0a32a812bf8a729202e55e54ded331f9e4ff2397f681e43694e086"),
            ("/x/d?", "sha256:6b612ad5c13159112ae26357ef7bd34df29916941ba40ec2ce38dfb70c6c60c3"),
            ("/x/d?/def", DATA0),
            ("/y*", "sha256:982153600b9653a1decb0f961e09e2bc1be335cfcaac9b39dbd1120b65fdf92c"),
            ("/x/d0/def", DATA0),
        ] {
            assert_eq!(digest(root, path, &[], &[]), expected, "{path}");
        }
    }

    #[test]
    fn equals_the_builder_s_digests_of_filtered_sources() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        make(
            root,
            &[
                "target data0",
                "foo/",
                "foo/ghi > target",
                "test/",
                "test/foo data0",
                "d0/",
                "d0/foo/",
                "d0/foo/bar data0",
                "d0/foo-subdir/",
                "d0/foo.subdir data1",
            ],
        );
        let linked = "sha256:9b761577efcb1239cf4be971914c5d7404914dd32ff436401af1764dc5446b83";
        let test = "sha256:8f36dfd60011a21345427f4d3177b1223e11fbb732c18dd07cd8b2a27a0b53ca";
        // A link inside a source is not followed, broken or not.
        assert_eq!(digest(root, "/foo", &[], &[]), linked);
        assert_eq!(digest(root, "/foo", &[], &["*.git"]), linked);
        assert_eq!(
            digest(root, "/fo?", &[], &[]),
            "sha256:2797e710c6d1a89ff2d91c834b828b1dc500f2982430a58241df8e146f4c4bb4"
        );
        assert_eq!(digest(root, "/test", &[], &[]), test);
        assert_eq!(digest(root, "/test", &[], &["*.git"]), test);
        // Names sort as bytes with the slash lowest.
        assert_eq!(
            digest(root, "/d0", &[], &[]),
            "sha256:14276c302c940a80f82ca5477bf766c98a24702d6a9948ee71bb277cdad3ae05"
        );
    }

    #[test]
    fn equals_the_builder_s_digests_of_included_paths() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        make(root, &["prefix/", "prefix/a/", "prefix/a/b/", "prefix/a/b/c/"]);
        let nothing = ContentDigest::of(b"").to_string();
        assert_eq!(digest(root, "/prefix/a", &["**/foo/**"], &[]), nothing);
        make(root, &["prefix/a/b/c/foo/", "prefix/a/b/c/foo/bar abc"]);
        let included = "sha256:aa7448215bbf5b837b35ce64467857d8b9747965573d14d4b31b370586370971";
        assert_eq!(digest(root, "/prefix/a", &["**/foo/**", "**/report"], &[]), included);
        assert_eq!(digest(root, "/prefix/a", &["**/foo", "**/report"], &[]), included);
    }

    /// The builder's `TestChecksumIncludeExclude` and `TestChecksumIncludeSymlink`, as equalities.
    #[test]
    fn includes_and_excludes_as_the_builder() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        make(root, &["foo data0", "bar data1", "d0/", "d0/abc abc", "d1/", "d1/def def"]);
        let of = |include: &[&str], exclude: &[&str]| digest(root, "", include, exclude);
        let star = of(&["d0/*"], &[]);
        let foo = of(&["foo"], &[]);
        let d1 = of(&["d1"], &[]);
        assert_eq!(star, of(&["d0/a*"], &[]));
        assert_ne!(foo, of(&["foo", "bar"], &[]));
        make(root, &["baz data2", "d0/xyz xyz", "d2/"]);
        assert_eq!(of(&["foo"], &[]), foo);
        assert_eq!(of(&["d1"], &[]), d1);
        assert_ne!(of(&["d0/*"], &[]), star);
        assert_eq!(of(&["d0/a*"], &[]), star);
        assert_eq!(of(&["**/abc"], &[]), star);
        assert_eq!(of(&["d0/*"], &["d0/xyz"]), star);
        assert_eq!(of(&["d2/foo"], &[]), ContentDigest::of(b"").to_string());

        make(root, &["mnt/", "mnt/data > ../d0"]);
        assert_eq!(digest(root, "/mnt/data/a*", &[], &[]), digest(root, "/d0/a*", &[], &[]));
    }
}
