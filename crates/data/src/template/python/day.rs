//! The day returned by `strftime_now`, formatted as by C's `strftime`.

/// A day of the Gregorian calendar, at midnight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Day {
    year: i64,
    month: usize,
    day: usize,
}

/// 1 January 1970, as counted by [`Day::since_year_1`].
const DAYS_TO_1970: i64 = 719_163;

/// Maximum width, in characters.
const WIDEST: usize = 100_000;

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
    /// Parses `2024-07-26`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
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

    /// Days since 31 December of the year 0.
    fn since_year_1(&self) -> i64 {
        let past = self.year - 1;
        past * 365 + past / 4 - past / 100 + past / 400 + self.of_year() as i64
    }

    /// Days since Sunday.
    fn weekday(&self) -> usize {
        (self.since_year_1() % 7) as usize
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
        let number = |value, digits| Shown::Number(value, digits, '0');
        let spaced = |value, digits| Shown::Number(value, digits, '_');
        let (day, of_year) = (self.day as i64, self.of_year() as i64);
        let weekday = self.weekday() as i64;
        let (iso_year, iso_week) = self.iso_week();
        let words = |text: &str| Shown::Words(text.to_owned());
        Ok(Some(match letter {
            'Y' => number(self.year, 1),
            'C' => number(self.year / 100, 1),
            'y' => number(self.year % 100, 2),
            'G' => number(iso_year, 1),
            'g' => number(iso_year % 100, 2),
            'm' => number(self.month as i64, 2),
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
            's' => spaced((self.since_year_1() - DAYS_TO_1970) * 86_400, 1),
            'B' => words(MONTHS[self.month - 1]),
            'b' | 'h' => words(&MONTHS[self.month - 1][..3]),
            'A' => words(WEEKDAYS[self.weekday()]),
            'a' => words(&WEEKDAYS[self.weekday()][..3]),
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

    /// Year and week by ISO 8601: weeks begin on Monday, and the first one of a year contains 4
    /// January.
    fn iso_week(&self) -> (i64, i64) {
        let weekday = (self.weekday() as i64 + 6) % 7 + 1;
        let week = (self.of_year() as i64 - weekday + 10) / 7;
        let weeks = |year| {
            let (month, day) = (12, 31);
            let last = Self { year, month, day };
            let leap = last.month_length(2) == 29;
            match last.weekday() {
                4 => 53,
                5 if leap => 53,
                _ => 52,
            }
        };
        if week < 1 {
            (self.year - 1, weeks(self.year - 1))
        } else if week > weeks(self.year) {
            (self.year + 1, 1)
        } else {
            (self.year, week)
        }
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
