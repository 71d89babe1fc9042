//! Checks the form of documents and comments: lines of at most 100 columns, names of things that
//! exist, every page of the manual in its index.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use super::{SOURCES, files, first_word, root, rust::lines_with_comments, sources, text};

/// Columns of a line of prose or comment.
const MOST: usize = 100;

/// Files whose comments have not been brought to [`MOST`] columns yet.
const UNREACHED: &str = "tests/graph/long_comments.txt";
/// Environment variable: writes the list anew (after moving files), if it does not grow.
const WRITE: &str = "RANDORI_WRITE_LONG_COMMENTS";

/// Endings of files that name others.
const TEXT: [&str; 12] = [
    "c", "cpp", "cu", "cuh", "h", "hpp", "jinja", "md", "py", "rs", "sh", "toml",
];

#[test]
fn prose_is_at_most_100_columns_wide() {
    let long: Vec<String> = documents()
        .iter()
        .flat_map(|page| {
            let long = long_prose(&text(page));
            long.into_iter()
                .map(move |line| format!("{}:{line}", page.display()))
        })
        .collect();
    assert!(
        long.is_empty(),
        "longer than {MOST} columns; wrap these: {long:#?}"
    );
}

#[test]
fn comments_are_at_most_100_columns_wide() {
    let long: BTreeMap<String, Vec<usize>> = sources("rs")
        .iter()
        .map(|path| (path.display().to_string(), long_comments(&text(path))))
        .filter(|(_, lines)| !lines.is_empty())
        .collect();
    let list = text(Path::new(UNREACHED));
    let excepted: BTreeSet<String> = list
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(first_word)
        .collect();
    if std::env::var_os(WRITE).is_some() {
        let (was, is) = (excepted.len(), long.len());
        assert!(is <= was, "{UNREACHED} only shrinks: {was} files, now {is}");
        let head = list.lines().filter(|line| line.starts_with('#'));
        let lines: Vec<&str> = head.chain(long.keys().map(String::as_str)).collect();
        fs::write(root().join(UNREACHED), lines.join("\n") + "\n").unwrap();
        return;
    }
    let over: Vec<_> = long
        .iter()
        .filter(|(path, _)| !excepted.contains(*path))
        .collect();
    assert!(
        over.is_empty(),
        "comments longer than {MOST} columns, by line; wrap these: {over:#?}"
    );
    let reached: Vec<_> = excepted
        .iter()
        .filter(|path| !long.contains_key(*path))
        .collect();
    assert!(
        reached.is_empty(),
        "no long comment there any more; take these out of {UNREACHED} ({WRITE}=1 does it): \
         {reached:#?}"
    );
}

#[test]
fn what_documents_name_exists() {
    let mut missing = Vec::new();
    for page in documents() {
        for link in links(&text(&page)) {
            if !leads_somewhere(&page, &link) {
                missing.push(format!("{} links to {link}", page.display()));
            }
        }
    }
    for file in named_from() {
        for path in named(&text(&file)) {
            if !root().join(&path).exists() {
                missing.push(format!("{} names {path}", file.display()));
            }
        }
    }
    assert!(missing.is_empty(), "not there: {missing:#?}");
}

#[test]
fn every_page_of_the_manual_is_in_its_index() {
    for (index, folder) in [
        ("docs/README.md", "docs"),
        ("benches/results/README.md", "benches/results"),
    ] {
        let index = Path::new(index);
        let parent = index.parent().unwrap();
        let listed: BTreeSet<PathBuf> = links(&text(index))
            .iter()
            .map(|link| parent.join(link.split('#').next().unwrap()))
            .collect();
        for page in files(&[folder]) {
            let is_page = page.extension().is_some_and(|e| e == "md") && page != index;
            assert!(
                !is_page || listed.contains(&page),
                "{} has no link to {}",
                index.display(),
                page.display()
            );
        }
    }
}

/// Negative test of the checks above.
#[test]
fn the_checks_of_prose_bite() {
    let (fits, long) = ("word ".repeat(20), "word ".repeat(20) + "word");
    let fenced = format!("```\n{long}\n```\n| {long} |\n{}\n", "x".repeat(200));
    assert!(long_prose(&format!("{}\n{fenced}", fits.trim_end())).is_empty());
    assert_eq!(long_prose(&format!("{fenced}{long}\n")), [6]);

    let source = format!("let a = \"// {long}\";\n//! {long}\nf(); // {long}\n/* a\n{long} */\n");
    assert_eq!(long_comments(&source), [2, 3, 5]);
    assert!(long_comments(&format!("// {}\n", "x".repeat(200))).is_empty());

    let page = "[a](b.md#c-d) `x`\n```\n[no](no)\n```\n[e](https://f.g) [h](#i)";
    assert_eq!(links(page), ["b.md#c-d", "#i"]);
    assert_eq!(
        slug("## A GPU's `[data]`, in 4-bit"),
        "a-gpus-data-in-4-bit"
    );
    assert!(leads_somewhere(Path::new("docs/README.md"), "log.md#log"));
    assert!(!leads_somewhere(Path::new("docs/README.md"), "log.md#none"));
    assert!(!leads_somewhere(Path::new("docs/README.md"), "none.md"));

    let none = ["docs", "none.md"].join("/");
    let line = format!("see {none}, or \"../../{none}\". https://a.b/{none} my{none}");
    assert_eq!(named(&line), [none.clone(), none]);
}

// ---- lines

/// Numbers, from 1, of the lines of a Markdown page that are too long; tables and fenced code may
/// be as long as they are.
fn long_prose(page: &str) -> Vec<usize> {
    prose(page)
        .filter(|(_, line)| !line.trim_start().starts_with('|') && is_long(line))
        .map(|(number, _)| number)
        .collect()
}

/// The same of the lines with comments of a Rust file.
fn long_comments(source: &str) -> Vec<usize> {
    let lines: Vec<&str> = source.lines().collect();
    let mut long = lines_with_comments(source);
    long.retain(|number| lines.get(number - 1).is_some_and(|line| is_long(line)));
    long.dedup();
    long
}

/// Too long, and of more than one word: an address cannot be broken.
fn is_long(line: &str) -> bool {
    let mark = |word: &&str| word.chars().all(|c| c.is_ascii_punctuation());
    let mut words = line.split_whitespace().filter(|word| !mark(word));
    line.chars().count() > MOST && words.nth(1).is_some()
}

/// The numbered lines of a Markdown page that are not in fenced code.
fn prose(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    page.lines()
        .enumerate()
        .filter(move |(_, line)| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            !fenced && !fence
        })
        .map(|(at, line)| (at + 1, line))
}

// ---- links and names

/// Where a Markdown page links to inside the repository.
fn links(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, line) in prose(page) {
        for (at, open) in line.match_indices("](") {
            let rest = &line[at + open.len()..];
            let to = rest.split(')').next().unwrap_or_default();
            if !to.contains("://") && !to.starts_with("mailto:") {
                found.push(to.to_owned());
            }
        }
    }
    found
}

/// Whether a link of this page leads to a file or folder, and to its heading where it names one.
fn leads_somewhere(page: &Path, link: &str) -> bool {
    let (path, heading) = link.split_once('#').unwrap_or((link, ""));
    let to = match path {
        "" => root().join(page),
        _ => root().join(page).parent().unwrap().join(path),
    };
    let Ok(to) = to.canonicalize() else {
        return false;
    };
    heading.is_empty() || {
        let page = text(&to);
        let mut headings = prose(&page).filter(|(_, line)| line.starts_with('#'));
        headings.any(|(_, line)| slug(line) == heading)
    }
}

/// What GitHub calls a heading in an address.
fn slug(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    title
        .chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

/// The paths of documents and of results that a text names, from the root.
fn named(text: &str) -> Vec<String> {
    let path = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    let mut found = Vec::new();
    for folder in [concat!("docs", "/"), concat!("benches/results", "/")] {
        for (at, _) in text.match_indices(folder) {
            let (before, rest) = text.split_at(at);
            if before.ends_with(path) && !before.ends_with("../") {
                continue; // a part of another path
            }
            let end = rest.find(|c: char| !path(c)).unwrap_or(rest.len());
            found.push(rest[..end].trim_end_matches('.').to_owned());
        }
    }
    found
}

// ---- files

/// Every Markdown page of the repository.
fn documents() -> Vec<PathBuf> {
    let is_page = |path: &PathBuf| path.extension().is_some_and(|e| e == "md");
    named_from().into_iter().filter(is_page).collect()
}

/// Every text file that may name a document.
fn named_from() -> Vec<PathBuf> {
    let mut folders = vec![".ci", "configs", "docs", "findings"];
    folders.extend(SOURCES);
    let mut found = files(&folders);
    for entry in root().read_dir().unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_file() {
            found.push(PathBuf::from(entry.file_name()));
        }
    }
    found.retain(|path| {
        let ending = path.extension().and_then(|e| e.to_str());
        path.starts_with(".ci") || ending.is_some_and(|e| TEXT.contains(&e))
    });
    found
}
