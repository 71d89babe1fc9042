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

/// Text as it is shown: with control characters spelled, but for the ends of lines and tabs.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_control(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// C0 without tab and line feed, delete, C1, and what turns the direction of the text after it.
fn is_control(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Behind `outln!` and `out!`.
pub fn out(text: fmt::Arguments) {
    print!("{}", escaped(&text.to_string()));
}

/// Behind `errln!` and `err!`.
pub fn err(text: fmt::Arguments) {
    eprint!("{}", escaped(&text.to_string()));
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
    fn control_characters_are_spelled_and_nothing_else_changes() {
        for (text, want) in [
            ("plain, 4 + 4 = 8\n\tnext", "plain, 4 + 4 = 8\n\tnext"),
            ("\u{1b}[2J\u{1b}]0;x\u{7}", "\\u{1b}[2J\\u{1b}]0;x\\u{7}"),
            ("a\rb\u{8}\u{7f}\0", "a\\rb\\u{8}\\u{7f}\\u{0}"),
            ("\u{9b}31m\u{85}\u{9d}", "\\u{9b}31m\\u{85}\\u{9d}"),
            ("\u{202e}fdp.exe\u{202c}", "\\u{202e}fdp.exe\\u{202c}"),
            (
                "\u{2066}\u{2067}\u{2068}\u{2069}",
                "\\u{2066}\\u{2067}\\u{2068}\\u{2069}",
            ),
            // right to left, joined, combined, wide: text like any other
            (
                "שלום\u{200f} می\u{200c}خواهم e\u{301} 漢字 👩\u{200d}🔬",
                "שלום\u{200f} می\u{200c}خواهم e\u{301} 漢字 👩\u{200d}🔬",
            ),
            ("a \\u{1b} b", "a \\u{1b} b"),
        ] {
            assert_eq!(escaped(text), want);
        }
        for c in ('\0'..=' ').chain('\u{7f}'..='\u{a0}') {
            let kept = matches!(c, '\n' | '\t' | ' ' | '\u{a0}');
            assert_eq!(escaped(&c.to_string()) == c.to_string(), kept, "{c:?}");
        }
    }
}
