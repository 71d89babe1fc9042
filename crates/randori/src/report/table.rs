//! The table at the end of a run: one line per player.

use super::summary::{Row, Summary};

/// Column title, measure, digits after the point.
const COLUMNS: &[(&str, &str, usize)] = &[
    ("exact match", "exact_match", 3),
    ("NLL", "nll_real", 3),
    ("log p(real)", "logps_real", 2),
    ("log p(gen.)", "logps_generated", 2),
    ("margin", "margin", 3),
    ("accuracy", "accuracy", 3),
    ("tokens", "generated_tokens", 1),
];

/// The table as lines, with 95 % intervals; [`legend`] says over what. In a window of so many
/// columns the last of the table's are left out that have no room, and a line says so and that
/// `file` has them.
pub fn table(summary: &Summary, columns: Option<usize>, file: &str) -> String {
    let rows = summary.rows();
    let label = rows.iter().map(|r| r.label.len()).max().unwrap_or(0);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            COLUMNS
                .iter()
                .map(|&(_, name, digits)| cell(row, name, digits))
                .collect()
        })
        .collect();
    let width = |c: usize| {
        let widest = cells
            .iter()
            .map(|row| row[c].chars().count())
            .max()
            .unwrap_or(0);
        widest.max(COLUMNS[c].0.chars().count())
    };
    let fits = |shown: &usize| {
        let width = label + (0..*shown).map(|c| 2 + width(c)).sum::<usize>();
        columns.is_none_or(|columns| width <= columns)
    };
    let shown = (1..=COLUMNS.len()).rev().find(fits).unwrap_or(1);
    let mut out = format!("{:label$}", "");
    for (c, column) in COLUMNS[..shown].iter().enumerate() {
        out.push_str(&format!("  {:>1$}", column.0, width(c)));
    }
    out.push('\n');
    for (row, cells) in rows.iter().zip(&cells) {
        out.push_str(&format!("{:label$}", row.label));
        for (c, cell) in cells[..shown].iter().enumerate() {
            out.push_str(&format!("  {:>1$}", cell, width(c)));
        }
        out.push('\n');
    }
    if shown < COLUMNS.len() {
        let left: Vec<&str> = COLUMNS[shown..].iter().map(|column| column.0).collect();
        out.push_str(&format!("no room for: {} ({file})\n", left.join(", ")));
    }
    out
}

/// The same in Markdown.
pub fn markdown(summary: &Summary) -> String {
    let line = |first: &str, cells: Vec<String>| format!("| {first} | {} |\n", cells.join(" | "));
    let each = |cell: &dyn Fn(&str, &str, usize) -> String| -> Vec<String> {
        let columns = COLUMNS.iter();
        columns
            .map(|&(title, name, digits)| cell(title, name, digits))
            .collect()
    };
    let titles = line("", each(&|title, _, _| title.into()));
    let rule = line("---", each(&|_, _, _| "---:".into()));
    let rows = summary.rows().into_iter().map(|row| {
        let cells = each(&|_, name, digits| cell(&row, name, digits));
        line(&row.label, cells)
    });
    titles + &rule + &rows.collect::<String>()
}

/// `0.221 ±0.025`, `0.221`, or `-` where it was not measured.
pub(super) fn cell(row: &Row, name: &str, digits: usize) -> String {
    match row.spread(name) {
        None => "-".into(),
        Some(s) => match s.half {
            Some(half) => format!("{:.digits$} ±{half:.digits$}", s.mean),
            None => format!("{:.digits$}", s.mean),
        },
    }
}

/// What the intervals of the table speak of; "" where there are none.
pub fn legend(summary: &Summary) -> String {
    let rows = summary.rows();
    let prompts = rows.iter().map(Row::prompts).min().unwrap_or(0);
    let what = match (summary.played.len(), prompts) {
        (0 | 1, 0 | 1) => return String::new(),
        (0 | 1, n) => format!(
            "{n} held-out prompts; with one seed, what another seed would change is not in it"
        ),
        (seeds, 0 | 1) => {
            format!("{seeds} seeds; what other held-out prompts would change is not in it")
        }
        (seeds, n) => format!("{seeds} seeds and {n} held-out prompts"),
    };
    format!("±: half of the 95 % interval over {what}")
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::example;
    use super::*;

    #[test]
    fn one_line_per_player() {
        let text = table(&example(3), None, "");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(
            lines[2].starts_with("iteration 0") && lines[2].contains("0.220 ±0.025"),
            "{text}"
        );
        assert!(lines[4].starts_with("continued SFT"), "{text}");
        let widths: Vec<usize> = lines.iter().map(|l| l.chars().count()).collect();
        assert!(widths.iter().all(|w| *w == widths[0]), "{text}");
        assert!(!table(&example(1), None, "").contains('±'));
        // in a window the last columns are left out, and said to be
        for columns in 40..widths[0] {
            let narrow = table(&example(3), Some(columns), "summary.json");
            let mut lines: Vec<&str> = narrow.lines().collect();
            let last = lines.pop().unwrap();
            assert!(last.starts_with("no room for: ") && last.ends_with("tokens (summary.json)"));
            assert_eq!(lines.len(), 5);
            assert!(
                lines.iter().all(|line| line.chars().count() <= columns),
                "{columns}\n{narrow}"
            );
        }
        assert_eq!(table(&example(3), Some(widths[0]), ""), text);
        // the same cells
        let markdown = markdown(&example(3));
        let lines: Vec<Vec<&str>> = markdown
            .lines()
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let titles = ["", "exact match", "NLL", "log p(real)", "log p(gen.)"];
        assert_eq!(lines[0][..5], titles);
        assert_eq!(lines.len(), 6);
        assert_eq!(lines[3][..2], ["iteration 0", "0.220 ±0.025"]);
        for (line, told) in lines[2..].iter().zip(text.lines().skip(1)) {
            assert!(
                line.iter().all(|cell| told.contains(cell)),
                "{told}\n{line:?}"
            );
        }
        assert_eq!(legend(&example(1)), "");
        let of = legend(&example(3));
        assert!(
            of.contains("over 3 seeds; what other held-out prompts"),
            "{of}"
        );
    }
}
