//! What other trainers call the keys of a recipe and their values: for errors about unknown ones,
//! and for the pages that lead here from those trainers.

use randori_host::nearest;

/// The table; its first lines say what its columns are.
const TABLE: &str = include_str!("elsewhere.txt");

/// Shorter names are near to too many others.
const SHORTEST: usize = 5;

/// A line of the table.
#[derive(Clone, Copy)]
struct Row {
    /// The other tools' name of a key; of a value, `KEY=VALUE` with our key.
    name: &'static str,
    /// The tools, the one that errors name first.
    tools: &'static str,
    /// Our keys, or our value.
    ours: Option<&'static str>,
    /// What else there is to know.
    note: &'static str,
}

fn rows() -> impl Iterator<Item = Row> {
    let lines = TABLE.lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| {
        let mut columns = line.split('|').map(str::trim);
        Some(Row {
            name: columns.next()?,
            tools: columns.next()?,
            ours: columns.next().filter(|ours| *ours != "-"),
            note: columns.next()?,
        })
    })
}

impl Row {
    fn tool(&self) -> &'static str {
        self.tools.split(' ').next().unwrap_or_default()
    }

    /// A sentence with the note at its end.
    fn with_note(&self, sentence: String) -> String {
        match self.note {
            "" => sentence,
            note => format!("{sentence}: {note}"),
        }
    }
}

fn keys() -> impl Iterator<Item = Row> {
    rows().filter(|row| !row.name.contains('='))
}

/// As other trainers spell names.
fn plain(name: &str) -> String {
    name.to_ascii_lowercase().replace('-', "_")
}

/// What a key of another trainer is here: "TRL's `learning_rate` is `train.lr` here". `value` is
/// what it is set to, where that is a text; of several keys that of its `section` is meant.
pub fn known_elsewhere(name: &str, section: &str, value: Option<&str>) -> Option<String> {
    let name = plain(name);
    let row = keys().find(|row| row.name == name)?;
    Some(said(within(row, section), value))
}

/// The row as it is meant in a section: a note that begins with that section's own key names it
/// (`train.lr | sft.lr in supervised training`).
fn within(row: Row, section: &str) -> Row {
    let own = row.note.split(' ').next().unwrap_or_default();
    let of_section = own
        .split_once('.')
        .is_some_and(|(first, _)| first == section);
    match of_section && row.note.ends_with("in supervised training") {
        true => Row {
            ours: Some(own),
            note: "",
            ..row
        },
        false => row,
    }
}

/// The same of a name that is one of another trainer's, or near one.
pub fn key_elsewhere(name: &str, section: &str, value: Option<&str>) -> Option<String> {
    let near = || {
        let name = plain(name);
        let near = nearest(&name, keys().map(|row| row.name))?;
        known_elsewhere(near, section, value).filter(|_| name.len() >= SHORTEST)
    };
    known_elsewhere(name, section, value).or_else(near)
}

fn said(row: Row, value: Option<&str>) -> String {
    let tool = row.tool();
    let Some(ours) = row.ours else {
        return row.with_note(format!("{tool}'s `{}` has no key here", row.name));
    };
    let each: Vec<String> = ours.split(' ').map(|key| format!("`{key}`")).collect();
    let each = each.join(" and ");
    let said = row.with_note(format!("{tool}'s `{}` is {each} here", row.name));
    match value.and_then(|value| value_elsewhere(ours, value)) {
        Some(more) => format!("{said}; {more}"),
        None => said,
    }
}

/// What another trainer's value of our `key` is here: `axolotl's "dpo" is "spin" here`.
pub fn value_elsewhere(key: &str, value: &str) -> Option<String> {
    let name = format!("{key}={}", value.to_ascii_lowercase());
    let row = rows().find(|row| row.name == name)?;
    let tool = row.tool();
    Some(row.with_note(match row.ours {
        Some(ours) => format!("{tool}'s \"{value}\" is \"{ours}\" here"),
        None => format!("{tool}'s \"{value}\" is not here"),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use randori_host::{Host, Kind};

    use super::super::{Recipe, keys, source::full};
    use super::*;

    const PAGES: [(&str, &[&str]); 2] = [
        ("from-trl.md", &["TRL", "PEFT", "Unsloth"]),
        (
            "from-llama-factory.md",
            &["LLaMA-Factory", "axolotl", "mlx-lm"],
        ),
    ];

    fn page(name: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/how-to");
        std::fs::read_to_string(folder.join(name)).unwrap()
    }

    /// Every line is whole, its keys are keys of a recipe or options of a stock loss, and its value
    /// is one that its key takes.
    #[test]
    fn what_the_table_leads_to_exists() {
        let mut host = Host::default();
        host.add_static(&randori_plugin_losses::PLUGIN).unwrap();
        let items = host.plugins().iter().flat_map(|plugin| &plugin.items);
        let losses: Vec<_> = items.filter(|item| item.kind == Kind::Loss).collect();
        let mut known: BTreeSet<String> = keys::all()
            .iter()
            .map(|key| full(key.section, key.name))
            .collect();
        let options = losses.iter().flat_map(|loss| &loss.options);
        known.extend(options.map(|option| format!("loss.{}", option.name)));
        let tools: BTreeSet<&str> = PAGES
            .iter()
            .flat_map(|(_, tools)| *tools)
            .copied()
            .collect();
        let mut names = BTreeSet::new();
        for row in rows() {
            assert!(names.insert(row.name), "{} stands there twice", row.name);
            for tool in row.tools.split(' ') {
                assert!(tools.contains(tool), "{}: {tool} has no page", row.name);
            }
            let Some((key, value)) = row.name.split_once('=') else {
                for key in row.ours.into_iter().flat_map(|ours| ours.split(' ')) {
                    assert!(known.contains(key), "{}: there is no {key}", row.name);
                }
                continue;
            };
            assert!(known.contains(key), "{}: there is no {key}", row.name);
            let takes = |value: &str| match key {
                "loss.name" => losses.iter().any(|loss| loss.name == value),
                _ => Recipe::without_file(&[format!("{key}={value}")]).is_ok(),
            };
            assert!(!takes(value), "{key} takes {value} as it is");
            assert!(
                row.ours.is_none_or(takes),
                "{key} does not take {:?}",
                row.ours
            );
        }
        let lines = TABLE
            .lines()
            .filter(|l| !l.is_empty() && !l.starts_with('#'));
        assert_eq!(lines.clone().count(), names.len());
        assert!(lines.clone().all(|line| line.matches('|').count() == 3));
    }

    /// The tables of the two pages are the table's lines of their tools.
    #[test]
    fn the_pages_are_the_table() {
        for (name, tools) in PAGES {
            let page = page(name);
            for tool in tools {
                let (_, rest) = page
                    .split_once(&format!("\n| {tool} | here | |\n"))
                    .unwrap();
                let (table, _) = rest.split_once("\n\n").unwrap();
                let found: Vec<&str> = table.lines().skip(1).collect();
                let has = |row: &Row| row.tools.split(' ').any(|one| one == *tool);
                let wanted: Vec<String> = rows().filter(has).map(shown).collect();
                assert_eq!(found, wanted, "{name}, {tool}");
            }
        }
    }

    /// A row of a page.
    fn shown(row: Row) -> String {
        let quoted = |name: &str| format!("`{name}`");
        let (name, ours) = match (row.name.split_once('='), row.ours) {
            (Some((key, value)), Some(ours)) => {
                (format!("{value:?} of `{key}`"), format!("{ours:?}"))
            }
            (Some((key, value)), None) => (format!("{value:?} of `{key}`"), String::new()),
            (None, ours) => {
                let keys = ours.unwrap_or_default().split_whitespace();
                let keys: Vec<String> = keys.map(quoted).collect();
                (quoted(row.name), keys.join(", "))
            }
        };
        format!("| {name} | {ours} | {} |", row.note)
    }

    /// What the pages show whole, a script and a file of settings, has no setting that the table
    /// does not know.
    #[test]
    fn what_the_pages_show_whole_is_in_the_table() {
        let known = |name: &str| rows().any(|row| row.name == name);
        let block = |page: &str, language: &str| {
            let (_, rest) = page.split_once(&format!("```{language}\n")).unwrap();
            rest.split_once("```").unwrap().0.to_owned()
        };
        let script = block(&page("from-trl.md"), "python");
        let lines = script.lines().filter(|line| line.starts_with("    "));
        let settings: Vec<&str> = lines
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        assert!(settings.len() >= 10, "{settings:?}");
        let yaml = block(&page("from-llama-factory.md"), "yaml");
        let lines = yaml.lines().filter(|line| !line.starts_with('#'));
        let keys: Vec<&str> = lines
            .filter_map(|line| Some(line.split_once(':')?.0))
            .collect();
        assert!(keys.len() >= 10, "{keys:?}");
        for name in settings.iter().chain(&keys) {
            assert!(known(name.trim()), "{name} is not in the table");
        }
    }

    #[test]
    fn sentences() {
        for (name, value, said) in [
            (
                "learning_rate",
                None,
                "TRL's `learning_rate` is `train.lr` here: sft.lr in supervised training",
            ),
            ("lora-r", None, "TRL's `lora_r` is `adapter.rank` here"),
            (
                "learning_rte",
                None,
                "TRL's `learning_rate` is `train.lr` here: ",
            ),
            (
                "loss_type",
                Some("dpo"),
                "TRL's `loss_type` is `loss.name` here; axolotl's \"dpo\" is \"spin\" here: DPO's",
            ),
            (
                "packing",
                None,
                "TRL's `packing` has no key here: rows are always packed",
            ),
        ] {
            let got = key_elsewhere(name, "", value).unwrap();
            assert!(got.starts_with(said), "{got}");
        }
        assert_eq!(key_elsewhere("frobnicate", "", None), None);
        for (name, said) in [
            ("learning_rate", "TRL's `learning_rate` is `sft.lr` here"),
            ("warmup_ratio", "TRL's `warmup_ratio` is `sft.warmup` here"),
        ] {
            assert_eq!(key_elsewhere(name, "sft", None).unwrap(), said);
        }
        assert_eq!(value_elsewhere("loss.name", "spin"), None);
    }
}
