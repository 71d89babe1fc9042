//! How a recipe names a data set of the hub: `org/name`, `org/name@revision:split`,
//! `hub:org/name/path/*.parquet`.

/// A data set of the hub, as a recipe names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `org/name`
    pub repo: String,
    /// A branch, tag or commit.
    pub revision: String,
    /// Which files: a path in the repository, `*` for any part of a name, `**` for any folders.
    pub pattern: Option<String>,
    /// Which split, where the recipe says.
    pub split: Option<String>,
}

/// File names that hold rows, before `.gz` or `.zst`.
pub const KINDS: [&str; 6] = [".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv"];

impl Named {
    /// The data set that a text names; `None` where it names a file of this machine. With a path in
    /// the repository the prefix `hub:`, a revision or a `*` tells the two apart.
    pub fn parse(text: &str) -> Option<Named> {
        let (plain, sure) = match text.strip_prefix("hub:") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let (plain, split) = match plain.rsplit_once(':') {
            Some((plain, split)) if is_name(split) => (plain, Some(split.to_owned())),
            Some(_) => return None,
            None => (plain, None),
        };
        let (org, rest) = plain.split_once('/')?;
        let (name, pattern) = match rest.split_once('/') {
            Some((name, pattern)) => (name, Some(pattern.to_owned())),
            None => (rest, None),
        };
        let (name, revision) = match name.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (name, None),
        };
        let well_formed = is_name(org)
            && is_name(name)
            && revision.is_none_or(is_name)
            && pattern.as_deref() != Some("");
        let meant = sure
            || split.is_some()
            || revision.is_some()
            || match &pattern {
                Some(pattern) => pattern.contains('*'),
                None => kind(name).is_none(),
            };
        (well_formed && meant).then(|| Named {
            repo: format!("{org}/{name}"),
            revision: revision.unwrap_or("main").to_owned(),
            pattern,
            split,
        })
    }

    /// Its name in a recipe at another revision, which also tells it from a file's.
    pub fn at(&self, revision: &str) -> String {
        let part = |mark: char, text: &Option<String>| {
            text.as_ref()
                .map_or(String::new(), |text| format!("{mark}{text}"))
        };
        let (pattern, split) = (part('/', &self.pattern), part(':', &self.split));
        format!("{}@{revision}{pattern}{split}", self.repo)
    }
}

/// What the hub's names are made of.
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
}

/// The kind of data file that a name says.
pub fn kind(file: &str) -> Option<&'static str> {
    let plain = file.trim_end_matches(".gz").trim_end_matches(".zst");
    KINDS.into_iter().find(|kind| plain.ends_with(kind))
}
