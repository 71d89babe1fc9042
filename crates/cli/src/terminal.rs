//! The one door to standard output and standard error. What is printed is for people: it holds text
//! of models, data sets, plugins and servers, and in such text a control character could move the
//! cursor, rename the window or turn the order of letters round. So all text goes out with these
//! characters spelled, as `\u{1b}`, whether or not a terminal reads it; files that Randori writes
//! hold texts as they are.
//!
//! Clippy refuses `println!` and its like in this crate: they panic where nobody can be told.

use std::borrow::Cow;
use std::fmt;
use std::io::{Error, ErrorKind, IsTerminal, Write};

use console::Term;
use randori::escaped;

/// Columns where a terminal does not say.
const WIDTH: usize = 80;
/// Columns of a window at least: what is narrower breaks lines by itself.
const NARROWEST: usize = 20;

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
    deliver(&escaped(&text.to_string()));
}

/// Behind `errln!` and `err!`.
pub fn err(text: fmt::Arguments) {
    tell(&escaped(&text.to_string()));
}

/// A line on standard error that begins with a painted word, where there are colours; folded to the
/// window, where there is one.
pub fn headed(head: &str, colour: Colour, text: &str) {
    let line = format!("{head} {}", escaped(text));
    let line = folded(&line, columns(&Term::stderr()));
    match line.strip_prefix(head) {
        Some(rest) if colours(&std::io::stderr()) => {
            tell(&format!("{}{rest}\n", colour.paint(head)));
        }
        _ => tell(&format!("{line}\n")),
    }
}

/// Results with the ends of their lines, on standard output, folded to the window.
pub fn result(text: &str) {
    deliver(&folded(&escaped(text), columns(&Term::stdout())));
}

/// A line that is no result, on standard error, folded to the window.
pub fn said(line: &str) {
    let line = folded(&escaped(line), columns(&Term::stderr())).into_owned();
    tell(&format!("{line}\n"));
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

/// Columns of the window that a stream goes to; `None` where it goes to none.
pub fn columns(stream: &Term) -> Option<usize> {
    let size = stream.is_term().then(|| stream.size_checked())?;
    size.map(|(_, columns)| usize::from(columns).max(NARROWEST))
}

/// Lines broken between words to so many columns, what follows indented by two more. A word that is
/// longer stays whole, and so does all text where there is no window.
fn folded(text: &str, columns: Option<usize>) -> Cow<'_, str> {
    let fits = |line: &str, columns| console::measure_text_width(line) <= columns;
    let Some(columns) = columns.filter(|columns| !text.lines().all(|line| fits(line, *columns)))
    else {
        return Cow::Borrowed(text);
    };
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start_matches(' ').len() + 2;
        let indent = " ".repeat(indent.min(columns / 2));
        let mut row = String::new();
        for word in line.split_inclusive(' ') {
            let longer = format!("{row}{}", word.trim_end());
            if !row.trim().is_empty() && !fits(&longer, columns) {
                out.push_str(row.trim_end());
                out.push('\n');
                row.clone_from(&indent);
            }
            row.push_str(word);
        }
        out.push_str(&row);
    }
    Cow::Owned(out)
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
    deliver(&format!("{line}\n"));
}

/// Text that is ready, to standard output, at once.
fn deliver(text: &str) {
    let written = {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    };
    written.unwrap_or_else(|error| unwritten(&error));
}

/// Ends the program because standard output could not be written: with one line, or quietly where
/// it is a pipe that nobody reads.
pub fn unwritten(error: &Error) -> ! {
    randori::abandon_unfinished();
    if error.kind() == ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    let why = format!("standard output cannot be written: {error}");
    headed("randori:", Colour::Red, &why);
    std::process::exit(1);
}

/// Text that is ready, to standard error. Where that cannot be written there is nobody to tell.
fn tell(text: &str) {
    drop(std::io::stderr().write_all(text.as_bytes()));
}

/// A panic's message is told as usual, but for control characters, which are spelled in it.
pub fn escape_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match escaped(&info.to_string()) {
        Cow::Owned(text) => tell(&format!("{text}\n")),
        Cow::Borrowed(_) => usual(info),
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
    fn lines_are_folded_between_words_where_there_is_a_window() {
        let text = "a note that is long\n  indented  words here\nshort\n";
        assert_eq!(folded(text, None), text);
        assert_eq!(folded(text, Some(40)), text);
        assert_eq!(
            folded(text, Some(12)),
            "a note that\n  is long\n  indented\n    words\n    here\nshort\n"
        );
        // what has no end of line gets none, and a long word is not broken
        assert_eq!(
            folded("see /a/long/path/here", Some(8)),
            "see\n  /a/long/path/here"
        );
        for columns in 12..60 {
            let text = folded("iteration 0: 24 of 24 examples kept", Some(columns));
            let width = text.lines().map(console::measure_text_width).max();
            assert!(width.is_some_and(|width| width <= columns), "{text}");
        }
    }

    #[test]
    fn a_painted_word_ends_its_colour() {
        assert_eq!(Colour::Red.paint("x"), "\u{1b}[31mx\u{1b}[0m");
    }
}
