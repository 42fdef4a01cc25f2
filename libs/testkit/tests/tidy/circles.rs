//! No circle of imports: of the modules that stand beside each other in a crate, each with all that is below it, none uses
//! another that, directly or through others, uses it.
//!
//! A module and those below it do not count: a parent declares its children, and they share what it declares. What counts is
//! what a file names: paths that begin with `crate`, `super` or `self`, followed through re-exports. A method of a type that
//! another file implements is not seen. Modules of tests do not count.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use crate::{complain, files, production};

/// The path of a module in its crate; the root's is empty.
type Module = Vec<String>;

/// One crate: each module's file, and the names that its `use` declarations bring into it.
#[derive(Default)]
struct Crate {
    modules: BTreeMap<Module, (PathBuf, String)>,
    names: BTreeMap<(Module, String), Module>,
}

/// How often a name is followed through re-exports.
const FOLLOWED: usize = 8;

impl Crate {
    /// Notes the names that each module's `use` declarations bring into it.
    fn note_names(&mut self) {
        for (module, (_, text)) in &self.modules {
            let statements = text.split(';').filter_map(|statement| {
                let at = statement.rfind("use ")?;
                let before = statement[..at].trim_end();
                let begins =
                    before.is_empty() || before.ends_with(['}', ']', ')', '\n']) || before.ends_with("pub");
                begins.then(|| &statement[at + 4..])
            });
            for path in statements.flat_map(paths_from) {
                let Some((Some(name), path)) = path.split_last().map(|(last, _)| (name_of(last), &path))
                else {
                    continue;
                };
                if let Some(target) = self.absolute(module, path) {
                    self.names.insert((module.clone(), name), target);
                }
            }
        }
    }

    /// A path as it is seen from the root; `None` for one that begins in another crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let clean = |segment: &String| segment.split(" as ").next().unwrap_or_default().to_owned();
        let mut path = path.iter().map(clean).peekable();
        let mut at = match path.peek()?.as_str() {
            "crate" => Module::new(),
            "self" | "super" => module.clone(),
            // A child, by its own name.
            child if self.modules.contains_key(&[module.as_slice(), &[child.to_owned()]].concat()) => {
                module.clone()
            }
            _ => return None,
        };
        for segment in path {
            match segment.as_str() {
                "crate" | "self" | "*" => {}
                "super" => drop(at.pop()),
                _ => at.push(segment),
            }
        }
        Some(at)
    }

    /// The module in which the thing at an absolute path is declared.
    fn declares(&self, path: &Module) -> Module {
        let mut path = path.clone();
        for _ in 0..FOLLOWED {
            let depth = (0..=path.len()).rev().find(|depth| self.modules.contains_key(&path[..*depth]));
            let module = path[..depth.unwrap_or_default()].to_vec();
            let Some(name) = path.get(module.len()) else { return module };
            match self.names.get(&(module.clone(), name.clone())) {
                Some(target) if *target != path => {
                    path = [target.as_slice(), &path[module.len() + 1..]].concat();
                }
                _ => return module,
            }
        }
        path
    }

    /// For each parent: which of its children use which, and a file that shows it.
    fn uses(&self) -> BTreeMap<Module, BTreeMap<(String, String), PathBuf>> {
        let mut uses: BTreeMap<Module, BTreeMap<(String, String), PathBuf>> = BTreeMap::new();
        for (module, (file, text)) in &self.modules {
            for path in paths(text) {
                let Some(absolute) = self.absolute(module, &path) else { continue };
                let target = self.declares(&absolute);
                let shared = module.iter().zip(&target).take_while(|(a, b)| a == b).count();
                if let (Some(from), Some(to)) = (module.get(shared), target.get(shared)) {
                    let edges = uses.entry(module[..shared].to_vec()).or_default();
                    edges.entry((from.clone(), to.clone())).or_insert_with(|| file.clone());
                }
            }
        }
        uses
    }
}

/// The last name of a path, or the one that it is given; `None` where it brings in all of a module.
fn name_of(last: &str) -> Option<String> {
    let name = last.rsplit(" as ").next()?;
    (name != "*" && name != "_").then(|| name.to_owned())
}

/// Every path in a text that begins in its own crate.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for begin in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(begin) {
            let before = text[..at].chars().next_back();
            if !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                found.extend(paths_from(&text[at..]));
            }
        }
    }
    found
}

/// The paths of the tree that a text begins with: `a::{b, c::d}` are two.
fn paths_from(text: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    tree(text, &[], &mut found);
    found
}

/// Reads a tree and returns what is behind it.
fn tree<'a>(text: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            match rest.chars().next() {
                Some('}') => return &rest[1..],
                Some(c) if c.is_alphabetic() || c == '_' || c == '*' || c == '{' => {
                    rest = tree(rest, prefix, found)
                }
                _ => return rest,
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(text.len());
    let (mut segment, mut rest) = (text[..end].to_owned(), &text[end..]);
    if segment.is_empty() {
        found.push(prefix.to_vec());
        return rest;
    }
    if let Some(alias) = rest.strip_prefix(" as ") {
        let end = alias.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(alias.len());
        segment = format!("{segment} as {}", &alias[..end]);
        rest = &alias[end..];
    }
    let path = [prefix, &[segment]].concat();
    match rest.strip_prefix("::") {
        Some(rest) if rest.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '*' || c == '{') => {
            tree(rest, &path, found)
        }
        _ => {
            found.push(path);
            rest
        }
    }
}

/// A file's text without comments and tests.
fn code(text: &str) -> String {
    let lines = production(text).lines().map(|line| line.split(" // ").next().unwrap_or_default());
    lines.filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The crates of production and of the chaos suite, by their folder.
fn crates() -> BTreeMap<String, Crate> {
    let mut crates: BTreeMap<String, Crate> = BTreeMap::new();
    for (path, text) in files(&[".rs"]) {
        let is_ours = ["libs", "services", "chaos-tests"].iter().any(|folder| path.starts_with(folder));
        let name = path.to_string_lossy().into_owned();
        let Some((folder, file)) = name.split_once("/src/") else { continue };
        if !is_ours || name.ends_with("tests.rs") || file.starts_with("bin/") {
            continue;
        }
        let module = module_of(Path::new(file));
        // Where there is a library, its `main.rs` is a crate of its own.
        let of_crate = crates.entry(folder.to_owned()).or_default();
        if file != "main.rs" || !of_crate.modules.contains_key(&module) {
            of_crate.modules.insert(module, (path, code(&text)));
        }
    }
    crates.values_mut().for_each(Crate::note_names);
    crates
}

fn module_of(file: &Path) -> Module {
    let mut module: Module =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    module
}

/// Groups of modules each of which uses every other, directly or through others.
fn circles(edges: &BTreeMap<(String, String), PathBuf>) -> BTreeSet<BTreeSet<&str>> {
    let reached = |from: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(at) = next.pop() {
            let targets = edges.keys().filter(|(from, _)| *from == at).map(|(_, to)| to.as_str());
            next.extend(targets.filter(|to| seen.insert(*to)).map(str::to_owned));
        }
        seen
    };
    let reach: BTreeMap<&str, BTreeSet<&str>> =
        edges.keys().map(|(from, _)| (from.as_str(), reached(from))).collect();
    let circle = |from: &&str| {
        let both = |to: &&&str| reach.get(**to).is_some_and(|back| back.contains(from));
        reach[from].iter().filter(both).copied().collect::<BTreeSet<_>>()
    };
    reach.keys().map(circle).filter(|circle| circle.len() > 1).collect()
}

#[test]
fn imports_go_in_no_circle() {
    let mut wrong = Vec::new();
    for (folder, of_crate) in crates() {
        for (parent, edges) in of_crate.uses() {
            for circle in circles(&edges) {
                let inside = edges.iter().filter(|((from, to), _)| {
                    circle.contains(from.as_str()) && circle.contains(to.as_str()) && from != to
                });
                let inside: Vec<String> = inside
                    .map(|((from, to), file)| format!("{from} uses {to} in {}", file.display()))
                    .collect();
                wrong.push(format!("{folder} {}: {}", parent.join("::"), inside.join(", ")));
            }
        }
    }
    complain("imports go in no circle", &wrong);
}

#[test]
fn a_circle_is_found_through_re_exports_and_below_a_folder() {
    let mut made = Crate::default();
    for (file, text) in [
        ("lib.rs", "mod a;\nmod b;\npub use b::deep::Thing as Renamed;\n"),
        ("a.rs", "use std::fmt;\nuse crate::{\n    Renamed,\n    fmt as other,\n};\n"),
        ("b/mod.rs", "mod deep;\n"),
        ("b/deep.rs", "fn f() { crate::a::g::<u8>() }\nuse super::deep::Own;\n"),
    ] {
        made.modules.insert(module_of(Path::new(file)), (file.into(), code(text)));
    }
    made.note_names();
    let uses = made.uses();
    let edges: Vec<_> = uses[&Module::new()].keys().cloned().collect();
    let edge = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(edges, [edge("a", "b"), edge("b", "a")]);
    assert_eq!(circles(&uses[&Module::new()]), BTreeSet::from([BTreeSet::from(["a", "b"])]));
    assert!(!uses.contains_key(&vec!["b".to_owned()]), "a module may name itself");
}
