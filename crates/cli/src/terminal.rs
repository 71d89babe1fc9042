//! The one door to standard output and standard error. What is printed is for people: it holds text
//! of models, data sets, plugins and servers, and in such text a control character could move the
//! cursor, rename the window or turn the order of letters round. So all text goes out with these
//! characters spelled, as `\u{1b}`, whether or not a terminal reads it; files that Randori writes
//! hold texts as they are.
//!
//! Clippy refuses `println!` and its like everywhere else in this crate.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the one place where it is meant"
)]

use std::borrow::Cow;
use std::fmt;
use std::io::IsTerminal;

use console::Term;
use randori::escaped;

/// Columns where a terminal does not say.
const WIDTH: usize = 80;

/// One line of results, on standard output.
macro_rules! outln {
    ($($text:tt)*) => { $crate::terminal::out(format_args!("{}\n", format_args!($($text)*))) };
}

/// Results that bring their own line ends, on standard output.
macro_rules! out {
    ($($text:tt)*) => { $crate::terminal::out(format_args!($($text)*)) };
}

/// What is no result and brings its own line ends, on standard error.
macro_rules! err {
    ($($text:tt)*) => { $crate::terminal::err(format_args!($($text)*)) };
}

/// One line that is no result, on standard error.
macro_rules! errln {
    ($($text:tt)*) => { $crate::terminal::err(format_args!("{}\n", format_args!($($text)*))) };
}

/// Behind `outln!` and `out!`.
pub fn out(text: fmt::Arguments) {
    print!("{}", escaped(&text.to_string()));
}

/// Behind `errln!` and `err!`.
pub fn err(text: fmt::Arguments) {
    eprint!("{}", escaped(&text.to_string()));
}

/// A line on standard error that begins with a painted word, where there are colours.
pub fn headed(head: &str, colour: Colour, text: &str) {
    let head = match colours(&std::io::stderr()) {
        true => colour.paint(head),
        false => head.to_string(),
    };
    eprintln!("{head} {}", escaped(text));
}

/// What painted words stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// An error, and what is not trained on.
    Red,
    /// What is trained on.
    Green,
    /// A warning.
    Yellow,
    /// What should be known, and who speaks.
    Cyan,
}

impl Colour {
    /// Text that is [`escaped`], in this colour.
    pub fn paint(self, text: &str) -> String {
        let code = match self {
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
            Colour::Cyan => 36,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Whether colours may go to this stream: it is a terminal that has some, and nobody asked for
/// none ([`NO_COLOR`](https://no-color.org), not empty).
pub fn colours(stream: &impl IsTerminal) -> bool {
    let var = |name| std::env::var_os(name).unwrap_or_default();
    stream.is_terminal() && var("NO_COLOR").is_empty() && var("TERM") != "dumb"
}

/// Columns of the terminal that standard error is.
pub fn width() -> usize {
    let size = Term::stderr().size_checked();
    size.map_or(WIDTH, |(_, columns)| usize::from(columns))
}

/// A line in no more than so many columns, what is cut marked by an ellipsis.
pub fn cut(line: &str, columns: usize) -> Cow<'_, str> {
    match console::measure_text_width(line) <= columns {
        true => Cow::Borrowed(line),
        // an ellipsis has one, and `truncate_str` wants to have it
        false => console::truncate_str(line, columns.max(1), "…"),
    }
}

/// A line with colours in it, on standard output. Whoever paints has [`escaped`] what is painted.
pub fn painted(line: &str) {
    println!("{line}");
}

/// `randori plugins | head` closes our output early: that is no failure, and no reason for a
/// panic's message. Any other panic is told as usual, its text escaped.
pub fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let message = info.payload().downcast_ref::<String>();
        if message.is_some_and(|m| m.starts_with("failed printing to") && m.contains("os error 32"))
        {
            std::process::exit(0);
        }
        match escaped(&info.to_string()) {
            Cow::Owned(text) => eprintln!("{text}"),
            Cow::Borrowed(_) => usual(info),
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_columns_that_there_are() {
        let line = "12/48 prompts · ETA 0:30";
        assert_eq!(cut(line, 24), line);
        assert_eq!(cut(line, 23), "12/48 prompts · ETA 0:…");
        assert_eq!(cut(line, 1), "…");
        assert_eq!(cut("", 0), "");
        // letters of two columns are never halved
        for columns in 1..9 {
            let short = cut("日本語モデル", columns);
            assert!(console::measure_text_width(&short) <= columns, "{short}");
        }
        assert_eq!(cut("日本語モデル", 12), "日本語モデル");
        assert_eq!(cut("日本語モデル", 6), "日本…");
        // what has no column counts none
        assert_eq!(cut("e\u{301}e\u{301}", 2), "e\u{301}e\u{301}");
    }

    #[test]
    fn a_painted_word_ends_its_colour() {
        assert_eq!(Colour::Red.paint("x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
