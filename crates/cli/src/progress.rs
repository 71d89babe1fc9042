//! Progress of a stage: a bar on a terminal, a plain line every few seconds anywhere else (both on stderr).
//!
//! A stage that is over in a moment shows its last line only.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::recipe::Recipe;
use crate::terminal::escaped;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Time between plain lines.
const EVERY: Duration = Duration::from_secs(5);

/// Where progress goes.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    terminal: bool,
    quiet: bool,
}

impl Console {
    /// Bars if stderr is a terminal; nothing if `quiet`.
    pub fn new(quiet: bool) -> Console {
        Console {
            terminal: std::io::stderr().is_terminal(),
            quiet,
        }
    }

    /// One line.
    pub fn say(&self, line: impl AsRef<str>) {
        if !self.quiet {
            errln!("{}", line.as_ref());
        }
    }

    /// What the user should know though nothing failed: it is a result rather than progress, so
    /// `quiet` keeps it.
    pub fn notes(&self, notes: &[String]) {
        notes.iter().for_each(|note| errln!("note: {note}"));
    }

    /// Says so if fewer are taken at a time than before.
    pub fn fewer(&self, label: &str, before: &mut AtOnce, now: usize) {
        if let Some(line) = before.fewer(now, "") {
            self.say(format!("  {label:<38} {line}"));
        }
    }

    /// A stage of `total` units.
    pub fn stage(&self, label: impl Into<String>, total: usize, unit: &'static str) -> Stage {
        // the bar draws by itself, past the door that escapes
        let label = escaped(&label.into()).into_owned();
        let bar = (self.terminal && !self.quiet).then(|| {
            let bar = ProgressBar::with_draw_target(
                Some(total as u64),
                ProgressDrawTarget::stderr_with_hz(8),
            );
            if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24} {msg}") {
                bar.set_style(style);
            }
            bar.set_prefix(format!("  {label:<38}"));
            bar
        });
        Stage {
            label,
            total,
            unit,
            note: String::new(),
            began: Instant::now(),
            first: None,
            printed: Instant::now(),
            bar,
            quiet: self.quiet,
            done: 0,
            tokens: 0,
        }
    }
}

/// How many of something are taken at a time; memory may run out, and there are fewer from then on.
pub struct AtOnce {
    now: usize,
    /// Of what, and the recipe's key.
    unit: &'static str,
    key: &'static str,
}

impl AtOnce {
    /// As the recipe asks.
    pub fn new(now: usize, unit: &'static str, key: &'static str) -> AtOnce {
        AtOnce { now, unit, key }
    }

    /// Rows of a micro-batch.
    pub fn rows(recipe: &Recipe) -> AtOnce {
        let key = "train.micro_batch_tokens";
        AtOnce::new(recipe.micro_batch_tokens(), "tokens", key)
    }

    /// Sequences that are answered.
    pub fn slots(recipe: &Recipe) -> AtOnce {
        AtOnce::new(recipe.generate.batch, "prompts", "generate.batch")
    }

    /// So many.
    pub fn now(&self) -> usize {
        self.now
    }

    /// What is said, once, when there are fewer than before. `place` goes behind "memory ran out".
    pub fn fewer(&mut self, now: usize, place: &str) -> Option<String> {
        if now >= self.now {
            return None;
        }
        let was = std::mem::replace(&mut self.now, now);
        let AtOnce { unit, key, .. } = self;
        Some(format!(
            "memory ran out{place}: repeated with {now} {unit} at a time instead of {was}, and so it goes on ({key})"
        ))
    }
}

/// A running stage; dropping it without [`Stage::finish`] clears its bar.
pub struct Stage {
    label: String,
    total: usize,
    unit: &'static str,
    note: String,
    began: Instant,
    /// Where a resumed stage started: it says nothing of today's speed.
    first: Option<usize>,
    printed: Instant,
    bar: Option<ProgressBar>,
    quiet: bool,
    done: usize,
    tokens: usize,
}

impl Stage {
    /// What was done before this process began it.
    pub fn resumed_at(&mut self, done: usize) {
        self.first = Some(done);
        self.done = done;
    }

    /// `done` units and `tokens` tokens (of this process) so far.
    pub fn set(&mut self, done: usize, tokens: usize) {
        (self.done, self.tokens) = (done, tokens);
        let line = || self.figures().line();
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(line());
        } else if !self.quiet && self.printed.elapsed() >= EVERY && done < self.total {
            errln!("  {:<38} {}", self.label, line());
            self.printed = Instant::now();
        }
    }

    /// The number of units turns out to be `total`.
    pub fn of(&mut self, total: usize) {
        if self.total != total {
            self.total = total;
            if let Some(bar) = &self.bar {
                bar.set_length(total as u64);
            }
        }
    }

    /// Something to see beside the figures, such as `loss 0.512`.
    pub fn note(&mut self, note: String) {
        self.note = escaped(&note).into_owned();
    }

    /// The last line stays. Answers how long the stage took and how many tokens it did.
    pub fn finish(self) -> (Duration, usize) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !self.quiet {
            errln!("  {:<38} {}", self.label, self.figures().line());
        }
        (self.began.elapsed(), self.tokens)
    }

    fn figures(&self) -> Figures<'_> {
        Figures {
            done: self.done,
            first: self.first.unwrap_or(0),
            total: self.total,
            unit: self.unit,
            tokens: self.tokens,
            elapsed: self.began.elapsed(),
            note: &self.note,
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

struct Figures<'a> {
    done: usize,
    first: usize,
    total: usize,
    unit: &'a str,
    tokens: usize,
    elapsed: Duration,
    note: &'a str,
}

impl Figures<'_> {
    /// `12/48 prompts · 1,204 tok/s · ETA 0:12`; of a finished stage `48 prompts · 1,204 tok/s · 0:16`.
    fn line(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let over = self.done >= self.total;
        let mut parts = vec![match over {
            true => format!("{} {}", grouped(self.total), self.unit),
            false => format!(
                "{}/{} {}",
                grouped(self.done),
                grouped(self.total),
                self.unit
            ),
        }];
        if !self.note.is_empty() {
            parts.push(self.note.to_string());
        }
        if self.tokens > 0 && seconds > 0.0 {
            parts.push(format!(
                "{} tok/s",
                grouped((self.tokens as f64 / seconds) as usize)
            ));
        }
        let now = self.done.saturating_sub(self.first);
        match (over, now) {
            (true, _) => parts.push(clock(self.elapsed)),
            (false, 0) => {}
            (false, now) => {
                let left = seconds * (self.total - self.done) as f64 / now as f64;
                parts.push(format!("ETA {}", clock(Duration::from_secs_f64(left))));
            }
        }
        parts.join(" · ")
    }
}

/// `0:07`, `12:30`, `1:02:03`.
pub fn clock(time: Duration) -> String {
    let s = (time.as_secs_f64() + 0.5) as u64;
    match s / 3600 {
        0 => format!("{}:{:02}", s / 60, s % 60),
        h => format!("{h}:{:02}:{:02}", s / 60 % 60, s % 60),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(done: usize, first: usize, tokens: usize, seconds: u64, want: &str) {
        let figures = Figures {
            done,
            first,
            total: 48,
            unit: "prompts",
            tokens,
            elapsed: Duration::from_secs(seconds),
            note: "",
        };
        assert_eq!(figures.line(), want);
    }

    #[test]
    fn lines() {
        check(0, 0, 0, 0, "0/48 prompts");
        check(12, 0, 12_000, 10, "12/48 prompts · 1,200 tok/s · ETA 0:30");
        check(24, 12, 0, 10, "24/48 prompts · ETA 0:20"); // a resumed stage's past is not its speed
        check(48, 0, 480, 100, "48 prompts · 4 tok/s · 1:40");
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

    #[test]
    fn fewer_at_a_time_is_said_once() {
        let mut rows = AtOnce::new(4096, "tokens", "train.micro_batch_tokens");
        assert_eq!(rows.fewer(4096, " in step 1"), None);
        assert_eq!(
            rows.fewer(1024, " in step 2").as_deref(),
            Some(
                "memory ran out in step 2: repeated with 1024 tokens at a time instead of 4096, and so it goes on (train.micro_batch_tokens)"
            )
        );
        assert_eq!((rows.fewer(1024, " in step 3"), rows.now()), (None, 1024));
    }
}
