//! The day that `strftime_now` tells, in C's notation.

/// A day of the (Gregorian) calendar, at midnight.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Day {
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

    /// Days since Sunday.
    fn weekday(&self) -> usize {
        let past = self.year - 1;
        ((past * 365 + past / 4 - past / 100 + past / 400 + self.of_year() as i64) % 7) as usize
    }

    /// The day in C's notation; what it does not know it leaves as it is.
    pub(crate) fn format(&self, format: &str) -> String {
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
}
