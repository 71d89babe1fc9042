//! Times and counts as people read them.

use std::time::Duration;

/// `0:07`, `12:30`, `1:02:03`.
pub fn clock(time: Duration) -> String {
    let s = (time.as_secs_f64() + 0.5) as u64;
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        h => format!("{h}:{:02}:{:02}", s / 60 % 60, s % 60),
    }
}

/// A time that nobody knows better than that: `under 1 min`, `7 min`, `35 min`, `2 h 10 min`,
/// `26 h`, `3 days`.
pub fn roughly(time: Duration) -> String {
    let minutes = time.as_secs_f64() / 60.0;
    let to = |grain: f64| (minutes / grain).round() as u64 * grain as u64;
    if minutes < 0.75 {
        return "under 1 min".into();
    }
    // each grain up to where its own rounding would leave the range
    match minutes {
        m if m < 9.5 => format!("{} min", to(1.0)),
        m if m < 57.5 => format!("{} min", to(5.0)),
        m if m < 595.0 => match (to(10.0) / 60, to(10.0) % 60) {
            (h, 0) => format!("{h} h"),
            (h, rest) => format!("{h} h {rest} min"),
        },
        m if m < 48.0 * 60.0 => format!("{} h", to(60.0) / 60),
        _ => format!("{} days", to(24.0 * 60.0) / (24 * 60)),
    }
}

/// `1,234,567`.
pub fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 player`, `1,234 players`.
pub fn counted(number: usize, what: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {what}{ending}", grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_several() {
        let said = [0, 1, 2, 1234].map(|n| counted(n, "player"));
        assert_eq!(
            said,
            ["0 players", "1 player", "2 players", "1,234 players"]
        );
    }

    /// No more is said than is known: about a tenth.
    #[test]
    fn rough_times() {
        let said = |seconds: u64| roughly(Duration::from_secs(seconds));
        let minute = 60;
        let hour = 60 * minute;
        for (seconds, want) in [
            (0, "under 1 min"),
            (44, "under 1 min"),
            (45, "1 min"),
            (7 * minute + 20, "7 min"),
            (9 * minute + 29, "9 min"),
            (9 * minute + 31, "10 min"),
            (33 * minute, "35 min"),
            (57 * minute + 29, "55 min"),
            (57 * minute + 30, "1 h"),
            (2 * hour + 7 * minute, "2 h 10 min"),
            (9 * hour + 54 * minute, "9 h 50 min"),
            (9 * hour + 55 * minute, "10 h"),
            (26 * hour + 20 * minute, "26 h"),
            (48 * hour, "2 days"),
            (84 * hour, "4 days"),
        ] {
            assert_eq!(said(seconds), want, "{seconds} s");
        }
    }

    #[test]
    fn clocks_and_groups() {
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        assert_eq!(clock(Duration::from_millis(59_600)), "1:00");
        assert_eq!(
            (grouped(0), grouped(999), grouped(1000), grouped(1_234_567)),
            ("0".into(), "999".into(), "1,000".into(), "1,234,567".into())
        );
    }
}
