//! Which split of a data set its files belong to, by their names.

use crate::recipe::kind;
use crate::request::Split;

/// Files that describe a data set.
pub const ABOUT: [&str; 4] = [
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
];

/// A file's name without folders and endings.
pub fn stem(file: &str) -> &str {
    let name = file.rsplit('/').next().unwrap_or(file);
    match kind(name).and_then(|kind| name.rfind(kind)) {
        Some(at) => &name[..at],
        None => name,
    }
}

/// The split in `SPLIT-00000-of-00003` (the way `push_to_hub` names files), with or without a hash
/// behind.
pub fn sharded(stem: &str) -> Option<&str> {
    let (before, after) = stem.split_once("-of-")?;
    let (split, number) = before.rsplit_once('-')?;
    let digits = |text: &str| text.len() >= 5 && text.bytes().all(|b| b.is_ascii_digit());
    (digits(number) && digits(after.split('-').next()?)).then_some(split)
}

/// The split that a key of the recipe asks for.
pub fn usual(split: Split) -> &'static str {
    match split {
        Split::Train => "train",
        Split::Validation => "validation",
        Split::HeldOut => "test",
    }
}

/// Whether a file belongs to a split: by the way `push_to_hub` names files, by its own name or a
/// folder's, or by a word of its name that means the split.
pub fn belongs(file: &str, split: &str) -> bool {
    if let Some(named) = sharded(stem(file)) {
        return named == split;
    }
    let same: &[&str] = match split {
        "train" => &["train", "training"],
        "validation" => &["validation", "valid", "val", "dev"],
        "test" => &["test", "testing", "eval", "evaluation"],
        _ => &[],
    };
    let folders = file.rsplit_once('/').map_or("", |(folders, _)| folders);
    let word = |text: &str| {
        text.split(|c: char| !c.is_ascii_alphanumeric())
            .any(|word| same.contains(&word.to_ascii_lowercase().as_str()))
    };
    stem(file) == split || folders.split('/').any(|f| f == split || word(f)) || word(stem(file))
}

/// Some of the files, for messages.
pub fn listed<T: AsRef<str>>(files: &[T]) -> String {
    let named: Vec<&str> = files.iter().take(8).map(AsRef::as_ref).collect();
    let more = match files.len().saturating_sub(8) {
        0 => String::new(),
        more => format!(" and {more} others"),
    };
    format!("{}{more}", named.join(", "))
}
