//! Checks that files inside a crate import each other in no circle, so that a reader who begins at
//! a file's imports comes to an end. A re-exported name counts where it is written: `crate::Error`
//! leads to the file of the error and not to the crate's root. Exceptions are ARCHITECTURE.md's
//! block `circles`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::rust::{Kind, stretches};
use super::{block, first_word, sources, text};

/// Path of a module in its crate; empty for the root.
type Module = Vec<String>;

/// One import: the path as it is written, and the name that it brings.
type Import = (Vec<String>, String);

#[test]
fn files_import_each_other_in_no_circle() {
    let excepted: Vec<String> = block("circles").iter().map(|l| first_word(l)).collect();
    let mut crates: BTreeMap<String, Crate> = BTreeMap::new();
    for path in sources("rs") {
        let shown = path.display().to_string();
        let Some((home, file)) = shown.split_once("/src/") else {
            continue;
        };
        // each file of benches is a program, or of one
        if home.matches('/').count() == 1 {
            let one = crates.entry(home.to_owned()).or_default();
            one.read(file, &text(&path));
        }
    }
    assert!(crates.len() > 10, "{:?}", crates.keys());
    for (home, one) in crates {
        let circles = one.circles();
        match excepted.contains(&home) {
            true => assert!(
                !circles.is_empty(),
                "{home} has no circle: remove it from the list"
            ),
            false => assert!(
                circles.is_empty(),
                "{home}: these files import each other in a circle: {circles:?}"
            ),
        }
    }
}

#[test]
fn a_circle_is_found() {
    let circles = |root: &str, b: &str| {
        let mut one = Crate::default();
        one.read("lib.rs", root);
        one.read(
            "a.rs",
            "use crate::b::{\nself,\nB as C,\n};\n#[cfg(test)]\nmod tests { use crate::d; }",
        );
        one.read("b/mod.rs", b);
        one.read(
            "b/inner.rs",
            "// use super::B;\nconst S: &str = \"crate::a::A\";",
        );
        one.circles()
    };
    assert!(circles("mod a; mod b;", "pub struct B;\nmod inner;\nuse inner::S;").is_empty());
    // a list's last comma imports nothing
    assert!(circles("pub use b::B;", "use super::{\n    b::inner::S,\n};").is_empty());
    assert_eq!(circles("", "use crate::a::A;").len(), 2);
    assert_eq!(circles("pub use a::A;", "fn f(a: crate::A) {}").len(), 2);
    assert_eq!(
        circles("pub use a::A;\nstruct R;", "use super::R;").len(),
        3
    );
}

/// A crate's files with what they import.
#[derive(Default)]
struct Crate {
    imports: BTreeMap<Module, Vec<Import>>,
    /// What each file re-exports: name -> path.
    exports: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
    /// Files that are built for tests alone.
    tests: BTreeSet<Module>,
}

impl Crate {
    fn read(&mut self, file: &str, source: &str) {
        let module = module(file);
        let code = code(source);
        for found in code.split("#[cfg(test)]\nmod ").skip(1) {
            if let Some((name, _)) = found.split_once(';').filter(|(n, _)| !n.contains('{')) {
                self.tests
                    .insert([&module[..], &[name.to_owned()]].concat());
            }
        }
        let code = without_tests(&code);
        let (mut imports, mut exports) = (Vec::new(), BTreeMap::new());
        for statement in code.split(';') {
            let Some(at) = word(statement, "use") else {
                continue;
            };
            let mut found = Vec::new();
            tree("", &statement[at + 3..], &mut found);
            if statement[..at].trim_end().ends_with(['b', ')']) {
                exports.extend(
                    found
                        .iter()
                        .map(|(path, name)| (name.clone(), path.clone())),
                );
            }
            imports.extend(found);
        }
        for start in ["crate::", "super::"] {
            for (at, _) in code.match_indices(start) {
                let before = code[..at].chars().next_back().unwrap_or(' ');
                if before != '$' && before != ':' && !before.is_alphanumeric() && before != '_' {
                    let end = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
                    let path = code[at..].split(end).next().unwrap_or_default();
                    // `crate::{` has been read
                    if !path.ends_with("::") {
                        tree("", path, &mut imports);
                    }
                }
            }
        }
        self.imports.insert(module.clone(), imports);
        self.exports.insert(module, exports);
    }

    /// The files that can be reached from themselves.
    fn circles(&self) -> Vec<String> {
        let edges: BTreeMap<&Module, BTreeSet<Module>> = self
            .imports
            .iter()
            .filter(|(from, _)| !self.tests.contains(*from))
            .map(|(from, imports)| (from, self.edges(from, imports)))
            .collect();
        let reached = |from: &Module| {
            let mut seen = BTreeSet::new();
            let mut open = vec![from];
            while let Some(next) = open.pop() {
                let to = edges.get(next).into_iter().flatten();
                open.extend(to.filter(|to| seen.insert((*to).clone())));
            }
            seen.contains(from)
        };
        let round = edges.keys().filter(|from| reached(from));
        round.map(|from| format!("/{}", from.join("/"))).collect()
    }

    fn edges(&self, from: &Module, imports: &[Import]) -> BTreeSet<Module> {
        let found = imports.iter().filter_map(|(path, _)| {
            let path = self.absolute(from, path)?;
            Some(self.file_of(&path, 0))
        });
        found.filter(|to| to != from).collect()
    }

    /// A path as it is written in `module`, from the crate's root; `None` for another crate's.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Vec<String>> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let first = path.first()?;
        if supers > 0 {
            let above = &module[..module.len().checked_sub(supers)?];
            return Some([above, &path[supers..]].concat());
        }
        match first.as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([&module[..], &path[1..]].concat()),
            _ => {
                let child = [&module[..], std::slice::from_ref(first)].concat();
                let known = self.imports.contains_key(&child);
                known.then(|| [&module[..], path].concat())
            }
        }
    }

    /// The file in which a path's item is written, re-exports followed.
    fn file_of(&self, path: &[String], depth: usize) -> Module {
        let is_file = |n: &usize| self.imports.contains_key(&path[..*n]);
        let n = (0..=path.len()).rev().find(is_file).unwrap_or(0);
        let file = path[..n].to_vec();
        let exported = path
            .get(n)
            .and_then(|name| self.exports.get(&file)?.get(name));
        let further = exported.and_then(|to| self.absolute(&file, to));
        match further {
            Some(to) if depth < 8 => self.file_of(&to, depth + 1),
            _ => file,
        }
    }
}

/// `recipe/keys/mod.rs` -> `recipe::keys`.
fn module(file: &str) -> Module {
    let plain = file.trim_end_matches(".rs");
    let mut parts: Module = plain.split('/').map(str::to_owned).collect();
    let is_root = ["lib", "main"].contains(&plain);
    if is_root || Path::new(file).ends_with("mod.rs") {
        parts.pop();
    }
    parts
}

/// The source without comments and texts.
fn code(source: &str) -> String {
    let kept = stretches(source).into_iter();
    let kept = kept.filter(|(kind, _)| *kind == Kind::Code);
    kept.map(|(_, text)| text).collect()
}

/// The code before its test module, which stands last.
fn without_tests(code: &str) -> &str {
    let begins = |at: &usize| {
        let rest = &code[*at..];
        rest.find(['{', ';'])
            .is_some_and(|end| rest[end..].starts_with('{'))
            && rest[..rest.find('{').unwrap_or(0)].contains("mod ")
    };
    let mut places = code.match_indices("#[cfg(test)]").map(|(at, _)| at);
    match places.find(begins) {
        Some(at) => &code[..at],
        None => code,
    }
}

/// Position of the last occurrence of a word by itself.
fn word(text: &str, word: &str) -> Option<usize> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.rmatch_indices(word).map(|(at, _)| at).find(|at| {
        let after = &text[at + word.len()..];
        !text[..*at].ends_with(part) && after.starts_with(char::is_whitespace)
    })
}

/// The paths of an import: `a::{b, c as d}` are `a::b` and `a::c`, which brings `d`.
fn tree(prefix: &str, text: &str, found: &mut Vec<Import>) {
    let text = text.trim();
    if text.is_empty() {
        return; // behind a list's last comma
    }
    if let Some((before, rest)) = text.split_once('{') {
        let prefix = format!("{prefix}{before}");
        let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
        let mut depth = 0;
        let parts = inner.split(|c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        parts.for_each(|part| tree(&prefix, part, found));
        return;
    }
    let whole = format!("{prefix}{text}");
    let (path, name) = whole.split_once(" as ").unwrap_or((&whole, ""));
    let parts = path.split("::").map(|part| part.trim().to_owned());
    let mut path: Vec<String> = parts.filter(|part| !part.is_empty()).collect();
    if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
        path.pop();
    }
    if let Some(last) = path.last().cloned() {
        let name = if name.is_empty() {
            last
        } else {
            name.trim().to_owned()
        };
        found.push((path, name));
    }
}
