//! The table at the end of a run: one line per player.

use super::summary::{Row, Summary};

/// Column title, measure, digits after the point, factor, and a sign in front.
const COLUMNS: &[(&str, &str, usize)] = &[
    ("exact match", "exact_match", 3),
    ("NLL", "nll_real", 3),
    ("log p(real)", "logps_real", 2),
    ("log p(gen.)", "logps_generated", 2),
    ("margin", "margin", 3),
    ("accuracy", "accuracy", 3),
    ("tokens", "generated_tokens", 1),
];

/// The table as lines, with 95 % intervals where there is more than one seed.
pub fn table(summary: &Summary) -> String {
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
    let mut out = format!("{:label$}", "");
    for (c, column) in COLUMNS.iter().enumerate() {
        out.push_str(&format!("  {:>1$}", column.0, width(c)));
    }
    out.push('\n');
    for (row, cells) in rows.iter().zip(&cells) {
        out.push_str(&format!("{:label$}", row.label));
        for (c, cell) in cells.iter().enumerate() {
            out.push_str(&format!("  {:>1$}", cell, width(c)));
        }
        out.push('\n');
    }
    out
}

/// `0.221 ±0.025`, `0.221`, or `-` where it was not measured.
pub(super) fn cell(row: &Row, name: &str, digits: usize) -> String {
    match row.spread(name) {
        None => "-".into(),
        Some(s) if s.n > 1 => format!("{:.digits$} ±{:.digits$}", s.mean, s.half),
        Some(s) => format!("{:.digits$}", s.mean),
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::tests::example;
    use super::*;

    #[test]
    fn one_line_per_player() {
        let text = table(&example(3));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(
            lines[2].starts_with("iteration 0") && lines[2].contains("0.220 ±0.025"),
            "{text}"
        );
        assert!(lines[4].starts_with("continued SFT"), "{text}");
        let widths: Vec<usize> = lines.iter().map(|l| l.chars().count()).collect();
        assert!(widths.iter().all(|w| *w == widths[0]), "{text}");
        assert!(!table(&example(1)).contains('±'));
    }
}
