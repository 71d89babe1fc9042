//! Progress of a stage: a bar on a terminal, a plain line every few seconds anywhere else (both on stderr).
//!
//! A stage that is over in a moment shows its last line only.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use randori::{Progress, Watch, clock, escaped, grouped};

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
}

impl Watch for Console {
    fn say(&self, line: String) {
        if !self.quiet {
            errln!("{line}");
        }
    }

    /// `quiet` keeps it: it is a result rather than progress.
    fn note(&self, line: String) {
        errln!("note: {line}");
    }

    fn warn(&self, line: String) {
        errln!("warning: {line}");
    }

    fn result(&self, text: String) {
        out!("{text}");
    }

    fn stage(&self, label: &str, total: usize, unit: &'static str) -> Box<dyn Progress> {
        // the bar draws by itself, past the door that escapes
        let label = escaped(label).into_owned();
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
        Box::new(Stage {
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
        })
    }
}

/// A running stage; dropping it without [`Progress::finish`] clears its bar.
struct Stage {
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

impl Progress for Stage {
    fn resumed_at(&mut self, done: usize) {
        self.first = Some(done);
        self.done = done;
    }

    fn set(&mut self, done: usize, tokens: usize) {
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

    fn of(&mut self, total: usize) {
        if self.total != total {
            self.total = total;
            if let Some(bar) = &self.bar {
                bar.set_length(total as u64);
            }
        }
    }

    fn note(&mut self, note: String) {
        self.note = escaped(&note).into_owned();
    }

    fn finish(self: Box<Self>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if !self.quiet {
            errln!("  {:<38} {}", self.label, self.figures().line());
        }
    }
}

impl Stage {
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
}
