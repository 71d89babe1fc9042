//! Where Jinja's output shows that Python wrote it: True and None, `json.dumps`, `strftime`.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Error, ErrorKind, Output, State};

/// Writes an expression's value as Python's `str` would.
pub(super) fn write(out: &mut Output, _state: &State, value: &Value) -> Result<(), Error> {
    let written = match value.kind() {
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::None => out.write_str("None"),
        ValueKind::Undefined => Ok(()),
        _ => out.write_str(&value.to_string()),
    };
    written.map_err(|_| Error::new(ErrorKind::WriteFailure, "the text cannot be written"))
}

/// What Python can loop over: None is not among it, text is. (`tools is iterable and tools | length > 0`)
pub(super) fn is_iterable(value: &Value) -> bool {
    !matches!(
        value.kind(),
        ValueKind::None | ValueKind::Bool | ValueKind::Number
    )
}

/// `tojson` as transformers defines it: `json.dumps(x, ensure_ascii=False, indent=indent)`, nothing escaped for HTML.
pub(super) fn to_json(value: Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let value: serde_json::Value = serde_json::to_value(&value).map_err(|e| {
        Error::new(
            ErrorKind::BadSerialization,
            format!("cannot write as JSON: {e}"),
        )
    })?;
    let mut out = String::new();
    dump(&value, indent, 0, &mut out);
    Ok(Value::from(out))
}

fn dump(value: &serde_json::Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let open_line = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match value {
        serde_json::Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_str(separator);
                }
                open_line(out, depth + 1);
                dump(item, indent, depth + 1, out);
            }
            open_line(out, depth);
            out.push(']');
        }
        serde_json::Value::Object(map) if !map.is_empty() => {
            out.push('{');
            for (i, (key, item)) in map.iter().enumerate() {
                if i > 0 {
                    out.push_str(separator);
                }
                open_line(out, depth + 1);
                out.push_str(&serde_json::Value::String(key.clone()).to_string());
                out.push_str(": ");
                dump(item, indent, depth + 1, out);
            }
            open_line(out, depth);
            out.push('}');
        }
        plain => out.push_str(&plain.to_string()),
    }
}

/// A day of the (Gregorian) calendar, at midnight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Day {
    year: i64,
    month: usize,
    day: usize,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

impl Day {
    /// Reads `2024-07-26`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let day = Self {
            year: parts.next()?.parse().ok()?,
            month: parts.next()?.parse().ok()?,
            day: parts.next()?.parse().ok()?,
        };
        let valid = parts.next().is_none()
            && (1..=9999).contains(&day.year)
            && (1..=12).contains(&day.month)
            && (1..=day.month_length(day.month)).contains(&day.day);
        valid.then_some(day)
    }

    fn month_length(&self, month: usize) -> usize {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        match month {
            4 | 6 | 9 | 11 => 30,
            2 => 28 + usize::from(leap),
            _ => 31,
        }
    }

    fn of_year(&self) -> usize {
        (1..self.month)
            .map(|month| self.month_length(month))
            .sum::<usize>()
            + self.day
    }

    /// Days since Sunday.
    fn weekday(&self) -> usize {
        let past = self.year - 1;
        ((past * 365 + past / 4 - past / 100 + past / 400 + self.of_year() as i64) % 7) as usize
    }

    /// The day in C's notation; what it does not know it leaves as it is.
    pub(super) fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            match chars.next() {
                Some('Y') => out.push_str(&self.year.to_string()),
                Some('y') => out.push_str(&format!("{:02}", self.year % 100)),
                Some('m') => out.push_str(&format!("{:02}", self.month)),
                Some('d') => out.push_str(&format!("{:02}", self.day)),
                Some('e') => out.push_str(&format!("{:2}", self.day)),
                Some('j') => out.push_str(&format!("{:03}", self.of_year())),
                Some('B') => out.push_str(MONTHS[self.month - 1]),
                Some('b' | 'h') => out.push_str(&MONTHS[self.month - 1][..3]),
                Some('A') => out.push_str(WEEKDAYS[self.weekday()]),
                Some('a') => out.push_str(&WEEKDAYS[self.weekday()][..3]),
                Some('F') => out.push_str(&self.format("%Y-%m-%d")),
                Some('H' | 'M' | 'S') => out.push_str("00"),
                Some('T') => out.push_str("00:00:00"),
                Some('%') => out.push('%'),
                Some(other) => out.extend(['%', other]),
                None => out.push('%'),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_written_as_python_writes_it() {
        let day = Day::parse("2024-07-26").unwrap();
        assert_eq!(day.format("%d %b %Y"), "26 Jul 2024");
        assert_eq!(day.format("%A %B %e, %j 100%%"), "Friday July 26, 208 100%");
        assert_eq!(
            Day::parse("2000-02-29").unwrap().format("%a %F"),
            "Tue 2000-02-29"
        );
        for wrong in [
            "2023-02-29",
            "2024-13-01",
            "2024-07",
            "today",
            "2024-07-26-1",
        ] {
            assert!(Day::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let value =
            serde_json::json!({"a": [1, "é<&>", null, true], "b": {}, "c": {"d": "x\"y\n"}});
        let dumped = |indent| {
            let mut out = String::new();
            dump(&value, indent, 0, &mut out);
            out
        };
        assert_eq!(
            dumped(None),
            r#"{"a": [1, "é<&>", null, true], "b": {}, "c": {"d": "x\"y\n"}}"#
        );
        assert!(
            dumped(Some(2)).starts_with("{\n  \"a\": [\n    1,\n    \"é<&>\",\n    null,"),
            "{}",
            dumped(Some(2))
        );
    }
}
