//! The day returned by `strftime_now`, formatted as by C's `strftime`, whose flags and widths
//! chrono does not have.

use chrono::{Datelike, Month, NaiveDate};

/// A day of the Gregorian calendar, at midnight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Day(NaiveDate);

/// Maximum width, in characters.
const WIDEST: usize = 100_000;

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
    /// Parses `2024-07-26`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let year: i32 = parts.next()?.parse().ok()?;
        let (month, day) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let valid = parts.next().is_none() && (1..=9999).contains(&year);
        let date = NaiveDate::from_ymd_opt(year, month, day).filter(|_| valid)?;
        Some(Self(date))
    }

    /// Formats midnight of the day as glibc's `strftime` does in the locale `C` (and Python's,
    /// which adds `%f`), with flags, a width and the modifiers `E` and `O`. There is no time zone:
    /// `%z` and `%Z` are empty, and `%s` counts in UTC.
    ///
    /// # Errors
    /// A directive that glibc does not know, which it would copy to the prompt.
    pub(crate) fn format(&self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let length = self.directive(rest, &mut out)?;
            rest = &rest[length..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Formats the directive at the start of a text and returns the directive's length in bytes.
    fn directive(&self, text: &str, out: &mut String) -> Result<usize, String> {
        let unknown = |end: usize| {
            let shown = text[..end].escape_debug();
            format!("`strftime_now` does not know `{shown}`")
        };
        let mut style = Style::default();
        let mut chars = text.char_indices().skip(1).peekable();
        while let Some((_, flag)) = chars.next_if(|(_, c)| "_-0^#".contains(*c)) {
            match flag {
                '^' => style.upper = true,
                '#' => style.swapped = true,
                pad => style.pad = Some(pad),
            }
        }
        while let Some((at, digit)) = chars.next_if(|(_, c)| c.is_ascii_digit()) {
            style.width = style.width * 10 + digit.to_digit(10).unwrap_or(0) as usize;
            if style.width > WIDEST {
                return Err(format!("{}: at most {WIDEST} wide", unknown(at + 1)));
            }
        }
        let mark = chars.next_if(|(_, c)| matches!(c, 'E' | 'O'));
        let Some((at, letter)) = chars.next() else {
            return match text {
                "%" => {
                    out.push('%');
                    Ok(1)
                }
                _ => Err(unknown(text.len())),
            };
        };
        let end = at + letter.len_utf8();
        let allowed = match mark {
            None => true,
            Some((_, 'E')) => "cCxXyY".contains(letter),
            Some(_) => "bBdeHIjmMpSuUVwWy".contains(letter),
        };
        // `%f` is Python's own and takes no flags
        let bare = letter != 'f' || end == 2;
        match self.shown(letter)?.filter(|_| allowed && bare) {
            Some(shown) => out.push_str(&style.written(letter, shown)),
            None => return Err(unknown(end)),
        }
        Ok(end)
    }

    /// The value of a directive's letter; `None` for one that glibc does not know.
    fn shown(&self, letter: char) -> Result<Option<Shown>, String> {
        let date = self.0;
        let number = |value: i64, digits| Shown::Number(value, digits, '0');
        let spaced = |value: i64, digits| Shown::Number(value, digits, '_');
        let [year, iso_year] = [date.year(), date.iso_week().year()].map(i64::from);
        let iso_week = date.iso_week().week().into();
        let (month, day) = (date.month(), date.day().into());
        let of_year = i64::from(date.ordinal());
        let weekday = i64::from(date.weekday().num_days_from_sunday());
        let named = Month::try_from(month as u8).map_or("", |month| month.name());
        let short = |name: &'static str| name.get(..3).unwrap_or_default();
        let since_1970 = date.signed_duration_since(NaiveDate::default());
        let words = |text: &str| Shown::Words(text.to_owned());
        Ok(Some(match letter {
            'Y' => number(year, 1),
            'C' => number(year / 100, 1),
            'y' => number(year % 100, 2),
            'G' => number(iso_year, 1),
            'g' => number(iso_year % 100, 2),
            'm' => number(month.into(), 2),
            'd' => number(day, 2),
            'e' => spaced(day, 2),
            'j' => number(of_year, 3),
            'H' | 'M' | 'S' => number(0, 2),
            'I' => number(12, 2),
            'k' => spaced(0, 2),
            'l' => spaced(12, 2),
            'u' => number((weekday + 6) % 7 + 1, 1),
            'w' => number(weekday, 1),
            'U' => number((of_year + 6 - weekday) / 7, 2),
            'W' => number((of_year + 6 - (weekday + 6) % 7) / 7, 2),
            'V' => number(iso_week, 2),
            's' => spaced(since_1970.num_seconds(), 1),
            'B' => words(named),
            'b' | 'h' => words(short(named)),
            'A' => words(WEEKDAYS[weekday as usize]),
            'a' => words(short(WEEKDAYS[weekday as usize])),
            'p' => words("AM"),
            'P' => words("am"),
            'c' => Shown::Words(self.format("%a %b %e 00:00:00 %Y")?),
            'D' | 'x' => Shown::Words(self.format("%m/%d/%y")?),
            'F' => Shown::Words(self.format("%Y-%m-%d")?),
            'R' => words("00:00"),
            'r' => words("12:00:00 AM"),
            'T' | 'X' => words("00:00:00"),
            'f' => words("000000"),
            'n' => words("\n"),
            't' => words("\t"),
            '%' => words("%"),
            'z' | 'Z' => words(""),
            _ => return Ok(None),
        }))
    }
}

/// Value of a directive, before its flags.
enum Shown {
    /// A number, its minimum digits, and the padding: `0`, or `_` for spaces.
    Number(i64, usize, char),
    Words(String),
}

/// Flags and width between `%` and the letter.
#[derive(Default)]
struct Style {
    /// `0`, `_` (spaces) or `-` (nothing).
    pad: Option<char>,
    upper: bool,
    swapped: bool,
    width: usize,
}

impl Style {
    fn written(&self, letter: char, shown: Shown) -> String {
        let width = self.width;
        match shown {
            Shown::Number(value, digits, pad) => match self.pad.unwrap_or(pad) {
                '-' => format!("{value:width$}"),
                '0' => format!("{value:0most$}", most = width.max(digits)),
                _ => format!("{value:most$}", most = width.max(digits)),
            },
            Shown::Words(text) => {
                let text = match letter {
                    'z' => return text,
                    'P' => text,
                    'p' if self.swapped => text.to_lowercase(),
                    _ if self.upper => text.to_uppercase(),
                    'a' | 'A' | 'b' | 'B' | 'h' if self.swapped => text.to_uppercase(),
                    _ => text,
                };
                match self.pad {
                    Some('0') => format!("{text:0>width$}"),
                    _ => format!("{text:>width$}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values: Python 3.11 on glibc, `TZ=UTC`.
    #[test]
    fn a_day_is_written_as_python_writes_it() {
        for (day, format, right) in [
            ("2024-07-26", "%d %b %Y", "26 Jul 2024"),
            (
                "2024-07-26",
                "%A %B %e, %j 100%%",
                "Friday July 26, 208 100%",
            ),
            ("2000-02-29", "%a %F", "Tue 2000-02-29"),
            ("2024-07-26", "%-d %-m %-H %-I %-j", "26 7 0 12 208"),
            ("2024-07-26", "%I:%M %p %P|%k|%l", "12:00 AM am| 0|12"),
            ("2024-07-26", "%w %u %U %W %V %G %g", "5 5 29 30 30 2024 24"),
            ("2021-01-03", "%w %u %U %W %V %G %g", "0 7 01 00 53 2020 20"),
            ("2018-12-31", "%w %u %U %W %V %G %g", "1 1 52 53 01 2019 19"),
            ("2000-02-29", "%w %u %U %W %V %G %g", "2 2 09 09 09 2000 00"),
            (
                "2021-01-03",
                "%c|%x|%X",
                "Sun Jan  3 00:00:00 2021|01/03/21|00:00:00",
            ),
            ("2024-07-26", "%D %R %C %r", "07/26/24 00:00 20 12:00:00 AM"),
            ("2024-07-26", "%f[%z%Z]%s%n%t", "000000[]1721952000\n\t"),
            ("2024-07-05", "%_d|%_m|%-e|%_j|%0e", " 5| 7|5|187|05"),
            (
                "2024-07-26",
                "%^B %^a %#B %#p %^p %^P",
                "JULY FRI JULY am AM am",
            ),
            (
                "2024-07-05",
                "%010Y %05d %_5d %-5d",
                "0000002024 00005     5     5",
            ),
            (
                "2024-07-05",
                "%10A|%^10b|%012A",
                "    Friday|       JUL|000000Friday",
            ),
            (
                "2024-07-05",
                "%^c|%12F",
                "FRI JUL  5 00:00:00 2024|  2024-07-05",
            ),
            (
                "2024-07-05",
                "%20s|%020s|%5k",
                "          1720137600|00000000001720137600|    0",
            ),
            (
                "2024-07-05",
                "%Od %Oe %OB %Ey %EY %Ec",
                "05  5 July 24 2024 Fri Jul  5 00:00:00 2024",
            ),
            ("0999-12-31", "%Y %C %y %s", "999 9 99 -30610310400"),
            ("2024-07-26", "é %d\u{3000}日%", "é 26\u{3000}日%"),
        ] {
            let written = Day::parse(day).unwrap().format(format);
            assert_eq!(written.as_deref(), Ok(right), "{day} {format}");
        }
    }

    /// glibc copies them to the output.
    #[test]
    fn a_directive_that_nobody_knows_is_an_error() {
        let day = Day::parse("2024-07-26").unwrap();
        for (format, named) in [
            ("%d %Q", "`%Q`"),
            ("%Ed", "`%Ed`"),
            ("%OY", "`%OY`"),
            ("%-f", "`%-f`"),
            ("%:z", "`%:`"),
            ("%d %-", "`%-`"),
            ("%999999999d", "100000 wide"),
        ] {
            let error = day.format(format).unwrap_err();
            assert!(error.contains(named), "{format}: {error}");
        }
    }

    #[test]
    fn what_is_no_day_is_none() {
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
}
