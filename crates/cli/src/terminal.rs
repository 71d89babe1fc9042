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

use randori::escaped;

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
