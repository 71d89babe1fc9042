//! Format specifications: fill, alignment, width, sign and precision of one value, common to `%`
//! and `format`.

use super::budget;
use super::values::{Number, Outcome, wrong};
use super::written::float;

/// A format specification.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Spec {
    pub(super) fill: Option<char>,
    /// `<`, `>`, `^` or `=` (between sign and digits).
    pub(super) align: Option<char>,
    /// `+` or space, before numbers that are not negative.
    pub(super) sign: Option<char>,
    pub(super) alternate: bool,
    pub(super) zeros: bool,
    pub(super) width: usize,
    /// Separator of thousands.
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) letter: Option<char>,
}

/// Maximum width or precision, in characters.
pub(super) const WIDEST: usize = 100_000;

/// The error of a width or precision beyond [`WIDEST`].
pub(super) fn too_wide<T>() -> Outcome<T> {
    wrong("a text is to be filled up to more than 100,000 characters")
}

/// Reads the next number, if there is one.
pub(super) fn digits(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
) -> Outcome<Option<usize>> {
    let mut value = None;
    while let Some(digit) = chars.next_if(char::is_ascii_digit) {
        let digit = digit.to_digit(10).unwrap_or(0) as usize;
        let now = value.unwrap_or(0_usize) * 10 + digit;
        if now > WIDEST {
            return too_wide();
        }
        value = Some(now);
    }
    Ok(value)
}

/// Parses `[[fill]align][sign][#][0][width][,][.precision][letter]`.
pub(super) fn read_spec(text: &str) -> Outcome<Spec> {
    let mut spec = Spec::default();
    let mut rest = text;
    let mut first = text.chars();
    if let (Some(fill), Some(align)) = (first.next(), first.next())
        && "<>^=".contains(align)
    {
        (spec.fill, spec.align) = (Some(fill), Some(align));
        rest = first.as_str();
    } else if let Some(align) = text.chars().next().filter(|c| "<>^=".contains(*c)) {
        spec.align = Some(align);
        rest = &text[1..];
    }
    let mut chars = rest.chars().peekable();
    spec.sign = chars.next_if(|c| "+- ".contains(*c)).filter(|c| *c != '-');
    spec.alternate = chars.next_if_eq(&'#').is_some();
    spec.zeros = chars.next_if_eq(&'0').is_some();
    spec.width = digits(&mut chars)?.unwrap_or(0);
    spec.grouping = chars.next_if(|c| ",_".contains(*c));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = digits(&mut chars)?;
    }
    spec.letter = chars.next();
    match chars.next() {
        None => Ok(spec),
        Some(_) => wrong(format!("unknown format `{text}`")),
    }
}

/// Formats a string: truncated to the precision, left-aligned by default.
pub(super) fn worded(text: &str, spec: &Spec) -> Outcome<String> {
    if spec.letter.is_some_and(|letter| letter != 's') {
        return wrong("a text cannot be formatted as a number");
    }
    let cut = spec.precision.unwrap_or(usize::MAX);
    let mut spec = spec.clone();
    spec.align = spec.align.or(Some('<'));
    fitted("", &text.chars().take(cut).collect::<String>(), &spec)
}

/// Formats a number, right-aligned by default.
pub(super) fn numeric(value: Number, spec: &Spec) -> Outcome<String> {
    let (negative, mut digits) = match (value, spec.letter) {
        (Number::Whole(whole), None | Some('d' | 'n')) => {
            (whole < 0, whole.unsigned_abs().to_string())
        }
        (Number::Whole(whole), Some('x')) => (whole < 0, format!("{:x}", whole.unsigned_abs())),
        (Number::Whole(whole), Some('X')) => (whole < 0, format!("{:X}", whole.unsigned_abs())),
        (Number::Whole(whole), Some('o')) => (whole < 0, format!("{:o}", whole.unsigned_abs())),
        (Number::Whole(whole), Some('b')) => (whole < 0, format!("{:b}", whole.unsigned_abs())),
        (value, letter) => {
            let float = value.float();
            (
                float.is_sign_negative(),
                float_digits(float.abs(), letter, spec)?,
            )
        }
    };
    if let (None | Some('d' | 'x' | 'X' | 'o'), Number::Whole(_), Some(least)) =
        (spec.letter, value, spec.precision)
    {
        digits = format!("{digits:0>least$}");
    }
    if let Some(mark) = spec.grouping {
        let size = match spec.letter {
            Some('x' | 'X' | 'o' | 'b') => 4,
            _ => 3,
        };
        digits = grouped(&digits, mark, size);
    }
    if let (true, Number::Whole(_), Some(letter @ ('x' | 'X' | 'o' | 'b'))) =
        (spec.alternate, value, spec.letter)
    {
        digits = format!("0{letter}{digits}");
    }
    let sign = match (negative, spec.sign) {
        (true, _) => "-".to_owned(),
        (false, sign) => sign.map(String::from).unwrap_or_default(),
    };
    let mut spec = spec.clone();
    if spec.zeros && spec.align.is_none() {
        (spec.fill, spec.align) = (spec.fill.or(Some('0')), Some('='));
    }
    spec.align = spec.align.or(Some('>'));
    fitted(&sign, &digits, &spec)
}

fn float_digits(value: f64, letter: Option<char>, spec: &Spec) -> Outcome<String> {
    if !value.is_finite() {
        let shown = if value.is_nan() { "nan" } else { "inf" };
        return Ok(match letter {
            Some('E' | 'F' | 'G') => shown.to_uppercase(),
            Some('%') => format!("{shown}%"),
            _ => shown.to_owned(),
        });
    }
    let precision = spec.precision.unwrap_or(6);
    let exponent = |precision: usize| {
        let text = format!("{value:.precision$e}");
        let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, size) = match power.strip_prefix('-') {
            Some(size) => ('-', size),
            None => ('+', power),
        };
        (
            digits.to_owned(),
            format!("e{sign}{size:0>2}"),
            power.parse::<i64>().unwrap_or(0),
        )
    };
    Ok(match letter {
        None if spec.precision.is_none() => float(value),
        Some('f' | 'F') => format!("{value:.precision$}"),
        Some('%') => format!("{:.precision$}%", value * 100.0),
        Some(letter @ ('e' | 'E')) => {
            let (digits, power, _) = exponent(precision);
            let shown = digits + &power;
            if letter == 'E' {
                shown.to_uppercase()
            } else {
                shown
            }
        }
        None | Some('g' | 'G' | 'n') => {
            let precision = precision.max(1);
            let (digits, mark, power) = exponent(precision - 1);
            let bare = |digits: &str| match digits.contains('.') && !spec.alternate {
                true => digits
                    .trim_end_matches('0')
                    .trim_end_matches('.')
                    .to_owned(),
                false => digits.to_owned(),
            };
            let shown = match (-4..precision as i64).contains(&power) {
                true => {
                    let after = (precision as i64 - 1 - power).max(0) as usize;
                    bare(&format!("{value:.after$}"))
                }
                false => bare(&digits) + &mark,
            };
            if letter == Some('G') {
                shown.to_uppercase()
            } else {
                shown
            }
        }
        Some(other) => return wrong(format!("a number has no format `{other}`")),
    })
}

/// Inserts a separator between groups of `size` digits.
fn grouped(digits: &str, mark: char, size: usize) -> String {
    let end = match size {
        3 => digits.find(|c: char| !c.is_ascii_digit()),
        _ => None,
    };
    let end = end.unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(end);
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(size) {
            out.push(mark);
        }
        out.push(c);
    }
    out + rest
}

/// Pads a sign and its digits to the width.
pub(super) fn fitted(sign: &str, body: &str, spec: &Spec) -> Outcome<String> {
    let missing = spec.width.saturating_sub(sign.len() + body.chars().count());
    budget::made(missing)?;
    let fill = spec.fill.unwrap_or(' ');
    let fills = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(match spec.align {
        Some('<') => format!("{sign}{body}{}", fills(missing)),
        Some('^') => {
            let left = missing / 2;
            format!("{}{sign}{body}{}", fills(left), fills(missing - left))
        }
        Some('=') => format!("{sign}{}{body}", fills(missing)),
        _ => format!("{}{sign}{body}", fills(missing)),
    })
}
