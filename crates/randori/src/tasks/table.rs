//! The table of tasks' figures, groups above what is in them.

use randori_eval::task::{Figure, pooled};

use super::harness::{Asked, Group};

/// The figures of one task or group.
#[derive(Clone)]
pub struct Line {
    name: String,
    depth: usize,
    shots: Option<usize>,
    count: usize,
    figures: Vec<(String, Figure)>,
}

impl Line {
    /// Of a task: its metrics with their values.
    pub fn of(name: &str, shots: usize, values: Vec<(String, Vec<f64>)>) -> Line {
        let figure = |(metric, values): (String, Vec<f64>)| Some((metric, Figure::of(&values)?));
        let figures: Vec<(String, Figure)> = values.into_iter().filter_map(figure).collect();
        Line {
            name: name.to_owned(),
            depth: 0,
            shots: Some(shots),
            count: figures.first().map_or(0, |(_, figure)| figure.count),
            figures,
        }
    }
}

/// The lines of what was asked, each group's before those of its tasks.
pub fn with_groups(asked: &[Asked], tasks: Vec<Line>) -> Vec<Line> {
    let mut lines = Vec::new();
    for one in asked {
        add(one, &tasks, 0, &mut lines);
    }
    lines
}

fn add(asked: &Asked, tasks: &[Line], depth: usize, lines: &mut Vec<Line>) {
    match asked {
        Asked::Task(task) => {
            let own = tasks.iter().find(|line| line.name == task.name);
            lines.extend(own.map(|line| Line {
                depth,
                ..line.clone()
            }));
        }
        Asked::Group(group) => {
            lines.push(of_group(group, tasks, depth));
            for part in &group.parts {
                add(part, tasks, depth + 1, lines);
            }
        }
    }
}

/// A group's own figures, over all tasks below it.
fn of_group(group: &Group, tasks: &[Line], depth: usize) -> Line {
    let mut names = Vec::new();
    leaves(group, &mut names);
    let own: Vec<&Line> = tasks
        .iter()
        .filter(|line| names.contains(&line.name.as_str()))
        .collect();
    let mut figures = Vec::new();
    for (metric, by_size) in &group.averaged {
        let mut keys: Vec<&str> = Vec::new();
        for (key, _) in own.iter().flat_map(|line| &line.figures) {
            let fits = key.split(',').next() == Some(metric);
            if fits && !keys.contains(&key.as_str()) {
                keys.push(key);
            }
        }
        for key in keys {
            let of = own.iter().flat_map(|line| &line.figures);
            let of: Vec<Figure> = of.filter(|(k, _)| k == key).map(|(_, f)| *f).collect();
            figures.extend(pooled(&of, *by_size).map(|figure| (key.to_owned(), figure)));
        }
    }
    Line {
        name: group.name.clone(),
        depth,
        shots: None,
        count: own.iter().map(|line| line.count).sum(),
        figures,
    }
}

fn leaves<'a>(group: &'a Group, names: &mut Vec<&'a str>) {
    for part in &group.parts {
        match part {
            Asked::Task(task) => names.push(&task.name),
            Asked::Group(group) => leaves(group, names),
        }
    }
}

/// The table; the errors are standard errors, as lm-eval prints them.
pub fn table(who: &str, lines: &[Line]) -> String {
    let mut cells =
        vec![["task", "shots", "items", "metric", "value", "std. error"].map(String::from)];
    for line in lines {
        let name = format!("{:1$}{2}", "", 2 * line.depth, line.name);
        let shots = line.shots.map_or(String::new(), |shots| shots.to_string());
        let first = [name, shots, line.count.to_string()];
        if line.figures.is_empty() {
            let [name, shots, count] = first.clone();
            cells.push([
                name,
                shots,
                count,
                String::new(),
                String::new(),
                String::new(),
            ]);
        }
        for (i, (metric, figure)) in line.figures.iter().enumerate() {
            let [name, shots, count] = match i {
                0 => first.clone(),
                _ => Default::default(),
            };
            let metric = metric.strip_suffix(",none").unwrap_or(metric).to_owned();
            let error = figure
                .error
                .map_or("-".into(), |error| format!("{error:.4}"));
            cells.push([
                name,
                shots,
                count,
                metric,
                format!("{:.4}", figure.mean),
                error,
            ]);
        }
    }
    let width = |c: usize| {
        cells
            .iter()
            .map(|row| row[c].chars().count())
            .max()
            .unwrap_or(0)
    };
    let mut out = format!("{who}\n");
    for row in &cells {
        let mut text = String::new();
        for (c, cell) in row.iter().enumerate() {
            let width = width(c);
            match c {
                0 | 3 => text += &format!("{cell:<width$}  "),
                _ => text += &format!("{cell:>width$}  "),
            }
        }
        out += text.trim_end();
        out.push('\n');
    }
    out.trim_end().to_owned()
}
