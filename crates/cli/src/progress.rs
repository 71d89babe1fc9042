//! Progress of a stage: one line that changes on a terminal, a plain line every few seconds
//! anywhere else (both on standard error).
//!
//! A stage that is over in a moment shows its last line only.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use randori::{Progress, Watch, clock, escaped, grouped, roughly};

use crate::commands;
use crate::terminal::{Colour, columns, cut, headed, result, said, width};

/// The exit code of a program that Ctrl-C ended, as shells have it.
pub const INTERRUPTED: i32 = 130;
/// Time between plain lines.
const EVERY: Duration = Duration::from_secs(5);
/// Columns of a stage's name, where there is room.
const NAME: usize = 38;
/// Columns of a bar, and of a terminal that has room for one.
const BAR: usize = 24;
const WIDE: usize = 120;

/// Where progress goes.
#[derive(Clone)]
pub struct Console {
    terminal: bool,
    quiet: bool,
    now: Arc<Mutex<Now>>,
}

/// What is shown, and what is known besides.
#[derive(Default)]
struct Now {
    /// The line that changes.
    bar: Option<ProgressBar>,
    /// Of the whole run.
    left: Option<Duration>,
    /// Where the run is kept.
    folder: Option<PathBuf>,
    /// A training runs, which can stop after a step.
    trains: bool,
    /// A server runs that can be told to stop.
    serves: bool,
    /// It is to do so.
    asked: bool,
}

impl Console {
    /// A changing line if stderr is a terminal; nothing if `quiet`.
    pub fn new(quiet: bool) -> Console {
        Console {
            terminal: std::io::stderr().is_terminal(),
            quiet,
            now: Arc::default(),
        }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a line of its own, above the one that changes.
    fn beside(&self, print: impl FnOnce()) {
        match &self.now().bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Asks the training that runs to stop after its step; `false` where none runs.
    pub fn asks_to_stop(&self) -> bool {
        let line = {
            let mut now = self.now();
            now.asked = now.trains || now.serves;
            if !now.asked {
                return false;
            }
            match now.serves {
                true => "stopping once those that wait are answered; Ctrl-C again stops at once",
                false => {
                    "stopping after this step, which is saved then; Ctrl-C again stops at once"
                }
            }
        };
        self.beside(|| errln!("{line}"));
        true
    }

    /// Says what is saved and how to go on, removes what is half written, and ends the program.
    pub fn end(&self) -> ! {
        self.interrupted();
        randori::abandon_unfinished();
        exit(INTERRUPTED)
    }

    /// Says what is saved and how to go on, in the middle of anything.
    fn interrupted(&self) {
        let folder = {
            let mut now = self.now();
            if let Some(bar) = now.bar.take() {
                bar.finish_and_clear();
                bar.set_draw_target(ProgressDrawTarget::hidden());
            }
            now.folder.clone()
        };
        let Some(dir) = folder else {
            errln!("stopped");
            return;
        };
        let (kept, how) = match randori::saved(&dir) {
            Ok(Some(kept)) => (kept, "to go on from there"),
            Ok(None) => ("nothing yet".into(), "the same command starts again"),
            Err(e) => (e.to_string(), "to go on from there"),
        };
        errln!("stopped; saved in {}: {kept}", dir.display());
        errln!("{how}: {}", commands::again());
    }
}

impl Watch for Console {
    fn say(&self, line: String) {
        if !self.quiet {
            self.beside(|| said(&line));
        }
    }

    /// `quiet` keeps it: it is a result rather than progress.
    fn note(&self, line: String) {
        self.beside(|| headed("note:", Colour::Cyan, &line));
    }

    fn warn(&self, line: String) {
        self.beside(|| headed("warning:", Colour::Yellow, &line));
    }

    fn result(&self, text: String) {
        self.beside(|| result(&text));
    }

    fn columns(&self) -> Option<usize> {
        columns(&Term::stdout())
    }

    fn stage(&self, label: &str, total: usize, unit: &'static str) -> Box<dyn Progress> {
        // the bar draws by itself, past the door that escapes, and has one line
        let label = escaped(label).replace(['\n', '\t'], " ");
        let bar = (self.terminal && !self.quiet).then(|| {
            let target = ProgressDrawTarget::stderr_with_hz(8);
            let bar = ProgressBar::with_draw_target(Some(total as u64), target);
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                bar.set_style(style);
            }
            bar
        });
        self.now().bar.clone_from(&bar);
        Box::new(Stage {
            console: self.clone(),
            label,
            total,
            unit,
            note: String::new(),
            began: Instant::now(),
            first: None,
            printed: Instant::now(),
            bar,
            done: 0,
            tokens: 0,
        })
    }

    fn keeps_in(&self, dir: &Path) {
        self.now().folder = Some(dir.to_path_buf());
    }

    fn left(&self, time: Option<Duration>) {
        self.now().left = time;
    }

    fn trains(&self, on: bool) {
        self.now().trains = on;
    }

    fn serves(&self, on: bool) {
        self.now().serves = on;
    }

    fn stops(&self) -> bool {
        self.now().asked
    }

    fn stopped(&self) {
        self.end();
    }
}

/// A running stage; dropping it without [`Progress::finish`] clears its bar.
struct Stage {
    console: Console,
    label: String,
    total: usize,
    unit: &'static str,
    note: String,
    began: Instant,
    /// Where a resumed stage started: it says nothing of today's speed.
    first: Option<usize>,
    printed: Instant,
    bar: Option<ProgressBar>,
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
        if let Some(bar) = &self.bar {
            let share = done as f64 / self.total.max(1) as f64;
            let line = changing(&self.label, share, &self.figures().line(), width());
            bar.set_message(line);
        } else if !self.console.quiet && self.printed.elapsed() >= EVERY && done < self.total {
            errln!("{}", named(&self.label, &self.figures().line()));
            self.printed = Instant::now();
        }
    }

    fn of(&mut self, total: usize) {
        self.total = total;
    }

    fn note(&mut self, note: String) {
        self.note = escaped(&note).into_owned();
    }

    fn finish(mut self: Box<Self>) {
        self.clear();
        if self.console.quiet {
            return;
        }
        let line = named(&self.label, &self.figures().line());
        match self.console.terminal {
            true => errln!("{}", cut(&line, width())),
            false => errln!("{line}"),
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
            left: self.console.now().left,
            note: &self.note,
        }
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            self.console.now().bar = None;
            bar.finish_and_clear();
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A stage's line among others.
fn named(label: &str, figures: &str) -> String {
    format!("  {label:<NAME$} {figures}")
}

/// The line of a stage that runs, in so many columns; narrow ones have no room for a bar.
fn changing(label: &str, share: f64, figures: &str, columns: usize) -> String {
    let line = match columns >= WIDE {
        true => {
            let full = (share.clamp(0.0, 1.0) * BAR as f64) as usize;
            let bar = "█".repeat(full) + &"░".repeat(BAR - full);
            format!("  {label:<NAME$} {bar} {figures}")
        }
        false => format!("  {label} {figures}"),
    };
    cut(&line, columns).into_owned()
}

struct Figures<'a> {
    done: usize,
    first: usize,
    total: usize,
    unit: &'a str,
    tokens: usize,
    elapsed: Duration,
    /// Of the whole run.
    left: Option<Duration>,
    note: &'a str,
}

impl Figures<'_> {
    /// `12/48 prompts · ETA 0:12 · ~2 h 10 min left · 1,204 tok/s`, what matters most first, since
    /// the end may be cut; of a finished stage `48 prompts · 1,204 tok/s · 0:16 · ~2 h 10 min
    /// left`.
    fn line(&self) -> String {
        let seconds = self.elapsed.as_secs_f64();
        let over = self.done >= self.total;
        let count = match over {
            true => format!("{} {}", grouped(self.total), self.unit),
            false => format!(
                "{}/{} {}",
                grouped(self.done),
                grouped(self.total),
                self.unit
            ),
        };
        let now = self.done.saturating_sub(self.first);
        let eta = (!over && now > 0).then(|| {
            let left = seconds * (self.total - self.done) as f64 / now as f64;
            format!("ETA {}", clock(Duration::from_secs_f64(left)))
        });
        let took = over.then(|| clock(self.elapsed));
        let left = self.left.map(|time| match roughly(time) {
            bound if bound.starts_with("under") => format!("{bound} left"),
            time => format!("~{time} left"),
        });
        let note = (!self.note.is_empty()).then(|| self.note.to_string());
        let speed = (self.tokens > 0 && seconds > 0.0).then(|| {
            let a_second = (self.tokens as f64 / seconds) as usize;
            format!("{} tok/s", grouped(a_second))
        });
        let parts = match over {
            true => [Some(count), note, speed, took, left],
            false => [Some(count), eta, left, note, speed],
        };
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join(" · ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(done: usize, first: usize, tokens: usize, seconds: u64) -> Figures<'static> {
        Figures {
            done,
            first,
            total: 48,
            unit: "prompts",
            tokens,
            elapsed: Duration::from_secs(seconds),
            left: None,
            note: "",
        }
    }

    #[test]
    fn lines() {
        let check = |done, first, tokens, seconds, want: &str| {
            assert_eq!(figures(done, first, tokens, seconds).line(), want);
        };
        check(0, 0, 0, 0, "0/48 prompts");
        check(12, 0, 12_000, 10, "12/48 prompts · ETA 0:30 · 1,200 tok/s");
        check(24, 12, 0, 10, "24/48 prompts · ETA 0:20"); // a resumed stage's past is not its speed
        check(48, 0, 480, 100, "48 prompts · 4 tok/s · 1:40");
    }

    #[test]
    fn the_whole_runs_time_stands_beside_the_stages() {
        let of_run = |done| Figures {
            left: Some(Duration::from_secs(7_700)),
            note: "loss 0.5",
            ..figures(done, 0, 0, 10)
        };
        assert_eq!(
            of_run(12).line(),
            "12/48 prompts · ETA 0:30 · ~2 h 10 min left · loss 0.5"
        );
        assert_eq!(
            of_run(48).line(),
            "48 prompts · loss 0.5 · 0:10 · ~2 h 10 min left"
        );
    }

    #[test]
    fn a_changing_line_fits_whatever_the_window() {
        let label = "seed 1, iteration 0: opponent's log-probs";
        let figures = "1,234/12,345 pairs · ETA 12:30 · ~2 h 10 min left · 1,204 tok/s";
        for columns in 1..200 {
            let line = changing(label, 0.4, figures, columns);
            let columns_of_it = console::measure_text_width(&line);
            assert!(
                columns_of_it <= columns,
                "{columns_of_it} of {columns}: {line}"
            );
        }
        assert_eq!(
            changing("policy", 0.5, "1/2 steps", 60),
            "  policy 1/2 steps"
        );
        let (full, empty) = ("█".repeat(12), "░".repeat(12));
        assert_eq!(
            changing("policy", 0.5, "1/2 steps", 120),
            format!("  {:<38} {full}{empty} 1/2 steps", "policy")
        );
    }
}
