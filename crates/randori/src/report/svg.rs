//! Line charts as inline SVG: no script, no font, no host but the page itself.

use crate::escape::escaped;

/// One line of a chart.
pub struct Line<'a> {
    /// In the legend.
    pub label: &'a str,
    /// (x, y, half-width of the interval or 0); x ascending.
    pub points: Vec<(f64, f64, f64)>,
    /// CSS colour.
    pub colour: &'a str,
    /// Drawn dashed: a level to compare with.
    pub dashed: bool,
}

/// A chart's horizontal axis.
pub struct Axis {
    /// Its title.
    title: &'static str,
    /// What is written at a mark.
    mark: fn(f64) -> String,
}

impl Axis {
    /// Steps of a training.
    pub const STEPS: Axis = Axis {
        title: "steps",
        mark: short,
    };
    /// Players: iteration t at t, the start at [`START`].
    pub const ITERATIONS: Axis = Axis {
        title: "iteration",
        mark: iteration,
    };
}

/// Where the start stands on the axis of iterations.
pub const START: f64 = -1.0;

fn iteration(x: f64) -> String {
    match x < 0.0 {
        true => "start".into(),
        false => short(x),
    }
}

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 44.0;

/// A chart; "" when no line has a finite point.
pub fn chart(title: &str, axis: &Axis, lines: &[Line]) -> String {
    let points = || {
        lines
            .iter()
            .flat_map(|l| &l.points)
            .filter(|p| p.0.is_finite() && p.1.is_finite())
    };
    let Some(_) = points().next() else {
        return String::new();
    };
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| {
            (lo.min(v), hi.max(v))
        })
    };
    let (x0, x1) = bounds(&mut points().map(|p| p.0));
    let (y0, y1) = bounds(&mut points().flat_map(|p| [p.1 - p.2, p.1 + p.2]));
    let pad = if y1 > y0 {
        0.06 * (y1 - y0)
    } else {
        0.5 * y1.abs().max(1e-3)
    };
    let (y0, y1) = (y0 - pad, y1 + pad);
    let x1 = if x1 > x0 { x1 } else { x0 + 1.0 };
    let px = |x: f64| LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let py = |y: f64| HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);

    let mut out = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{0}\"><text class=\"title\" x=\"{LEFT}\" y=\"16\">{0}</text>\n",
        escape(title)
    );
    for tick in ticks(y0, y1, 4) {
        let y = py(tick);
        out.push_str(&format!(
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/><text class=\"tick\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>\n",
            WIDTH - RIGHT, LEFT - 6.0, y + 3.5, short(tick)
        ));
    }
    let mut marks = ticks(x0, x1, 6);
    if x0 == START && marks.first() != Some(&START) {
        marks.insert(0, START);
    }
    for tick in marks.into_iter().filter(|t| t.fract() == 0.0) {
        out.push_str(&format!(
            "<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{}</text>\n",
            px(tick),
            HEIGHT - BOTTOM + 14.0,
            (axis.mark)(tick)
        ));
    }
    out.push_str(&format!(
        "<text class=\"tick\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{}</text>\n",
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - BOTTOM + 28.0,
        escape(axis.title)
    ));
    let mut legend = LEFT;
    for line in lines.iter().filter(|l| !l.points.is_empty()) {
        out.push_str(&polyline(line, &px, &py));
        out.push_str(&format!(
            "<rect x=\"{legend:.0}\" y=\"{}\" width=\"10\" height=\"3\" fill=\"{}\"/><text class=\"tick\" x=\"{:.0}\" y=\"{}\">{}</text>\n",
            HEIGHT - 10.0, line.colour, legend + 14.0, HEIGHT - 5.0, escape(line.label)
        ));
        legend += 30.0 + 6.2 * line.label.chars().count() as f64;
    }
    out.push_str("</svg>\n");
    out
}

/// The line itself with its interval whiskers and, while there are few, its points.
fn polyline(line: &Line, px: &dyn Fn(f64) -> f64, py: &dyn Fn(f64) -> f64) -> String {
    let finite: Vec<&(f64, f64, f64)> = line.points.iter().filter(|p| p.1.is_finite()).collect();
    let path: Vec<String> = finite
        .iter()
        .map(|p| format!("{:.1},{:.1}", px(p.0), py(p.1)))
        .collect();
    let dash = if line.dashed {
        " stroke-dasharray=\"5 4\""
    } else {
        ""
    };
    let mut out = format!(
        "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.8\"{dash} points=\"{}\"/>\n",
        line.colour,
        path.join(" ")
    );
    for &&(x, y, half) in finite.iter().filter(|_| finite.len() <= 20 && !line.dashed) {
        out.push_str(&format!(
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.6\" fill=\"{}\"/>",
            px(x),
            py(y),
            line.colour
        ));
        if half > 0.0 {
            out.push_str(&format!(
                "<line stroke=\"{}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
                line.colour,
                py(y - half),
                py(y + half),
                x = px(x)
            ));
        }
    }
    out
}

/// About `count` round numbers in `low..=high`.
fn ticks(low: f64, high: f64, count: usize) -> Vec<f64> {
    let raw = (high - low) / count as f64;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|m| m * magnitude)
        .find(|s| *s >= raw)
        .unwrap_or(raw);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last.min(first + 50))
        .map(|i| i as f64 * step)
        .collect()
}

fn short(value: f64) -> String {
    let text = format!("{value:.4}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "" | "-0" => "0".into(),
        text => text.into(),
    }
}

/// For text between tags and in attributes; what would draw is spelled, as on a terminal.
pub fn escape(text: &str) -> String {
    escaped(text)
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_ticks() {
        assert_eq!(ticks(0.0, 1.0, 4), [0.0, 0.5, 1.0]);
        assert_eq!(ticks(-12.0, 31.0, 4), [0.0, 20.0]);
        assert_eq!(
            (short(0.5), short(20.0), short(-0.0)),
            ("0.5".into(), "20".into(), "0".into())
        );
    }

    #[test]
    fn nothing_to_draw_is_no_chart() {
        let line = Line {
            label: "a",
            points: vec![(0.0, f64::NAN, 0.0)],
            colour: "red",
            dashed: false,
        };
        assert_eq!(chart("t", &Axis::STEPS, &[line]), "");
    }

    #[test]
    fn text_is_escaped() {
        let line = Line {
            label: "<a>",
            points: vec![(0.0, 1.0, 0.0), (1.0, 2.0, 0.1)],
            colour: "red",
            dashed: false,
        };
        let svg = chart("p & q", &Axis::STEPS, &[line]);
        assert!(svg.contains("p &amp; q") && svg.contains("&lt;a&gt;") && !svg.contains("<a>"));
    }

    /// Iterations have the numbers that they have everywhere, the start its name.
    #[test]
    fn players_are_marked_by_their_names() {
        let marks = |iterations: usize| -> Vec<String> {
            let players = (0..=iterations).map(|i| (START + i as f64, 0.5, 0.0));
            let line = Line {
                label: "a",
                points: players.collect(),
                colour: "red",
                dashed: false,
            };
            let svg = chart("t", &Axis::ITERATIONS, &[line]);
            let marks = svg.split("text-anchor=\"middle\"").skip(1);
            let text = |part: &str| {
                let text = part.split('>').nth(1)?.split('<').next()?;
                Some(text.to_string())
            };
            marks.filter_map(text).collect()
        };
        assert_eq!(marks(3), ["start", "0", "1", "2", "iteration"]);
        assert_eq!(marks(1), ["start", "0", "iteration"]);
        // further apart where there are many
        assert_eq!(marks(10), ["start", "0", "2", "4", "6", "8", "iteration"]);
    }
}
