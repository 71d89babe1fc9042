//! The plan's lines below each other, within a window's width.

/// A line's cells: stage, what it does, memory, time, and what is known of them.
pub type Cells = [String; 5];

/// The lines below each other. In a window of so many columns that is too narrow for one of them,
/// each has what it does and what is known below itself.
pub fn laid(rows: &[Cells], columns: Option<usize>) -> String {
    let wide = |[stage, does, memory, time, state]: &Cells| {
        let line = format!("{stage:31} {does:45} {memory:>12}{time:>20}   {state}");
        line.trim_end().to_owned()
    };
    let lines: Vec<String> = rows.iter().map(wide).collect();
    let fit = |line: &String| columns.is_none_or(|columns| line.chars().count() <= columns);
    if lines.iter().all(fit) {
        return lines.join("\n") + "\n";
    }
    let longest = rows.iter().map(|row| row[0].chars().count()).max();
    let width = longest.unwrap_or(0);
    let narrow = |[stage, does, memory, time, state]: &Cells| {
        let known = match state.is_empty() {
            true => String::new(),
            false => format!("; {state}"),
        };
        format!("{stage:width$} {memory:>12}{time:>20}\n    {does}{known}\n")
    };
    rows.iter().map(narrow).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Cells> {
        let row = |cells: [&str; 5]| cells.map(String::from);
        vec![
            row(["stage", "does", "memory MiB", "time", ""]),
            row([
                "seed 2, iteration 0: policy",
                "123,456 pairs in 12,345 steps at most",
                "123.4",
                "1:02:03 to 12:34:56",
                "begun; the time is that of all of it",
            ]),
        ]
    }

    #[test]
    fn no_line_is_wider_than_a_window_of_80_columns() {
        let narrow = laid(&rows(), Some(80));
        let widths = narrow.lines().map(|line| line.chars().count());
        assert!(widths.max() <= Some(80), "{narrow}");
        // nothing is cut
        for cell in rows().concat() {
            assert!(narrow.contains(&cell), "no {cell:?} in\n{narrow}");
        }
    }

    #[test]
    fn a_pipe_and_a_wide_window_have_a_line_for_each_stage() {
        let wide = laid(&rows(), None);
        assert_eq!(wide.lines().count(), 2);
        assert_eq!(laid(&rows(), Some(200)), wide);
    }
}
