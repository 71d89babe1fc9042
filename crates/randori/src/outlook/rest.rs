//! The time that stages still take: each one's work, counted beforehand, at the speed that was
//! planned for its kind, which gives way to the one that is measured.

use std::sync::LazyLock;
use std::time::Duration;

/// Seconds of work before anything is said: less is no measurement.
const ENOUGH: f64 = 3.0;
/// The planned speed counts as if it had been measured for so many seconds. A stage that has just
/// begun seems far slower than it is: of many answers that are drawn side by side the first is
/// there after the time of most of them.
const WEIGHT: f64 = 60.0;

/// Seconds a token of each [`Kind`], as they are planned; `None`: nobody can say.
pub type Rates = [Option<f64>; 3];

/// Plans the rates when they are first asked for, since that measures the machine for half a
/// second: a run that is over before needs none.
pub type Planner = Box<dyn FnOnce() -> Rates + Send>;

/// What the speed of a stage depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tokens are drawn one after the other.
    Answers,
    /// Passes forward.
    Scores,
    /// Passes forward and back.
    Steps,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Answers, Kind::Scores, Kind::Steps];

    /// Of a stage that counts in this unit.
    pub fn of(unit: &str) -> Option<Kind> {
        match unit {
            "prompts" | "answers" => Some(Kind::Answers),
            "pairs" | "examples" => Some(Kind::Scores),
            "steps" => Some(Kind::Steps),
            _ => None,
        }
    }

    /// Time of a token beside one of a pass forward. It holds for a kind of which nothing is
    /// planned and nothing has run yet.
    fn supposed(self) -> f64 {
        match self {
            Kind::Answers | Kind::Scores => 1.0,
            Kind::Steps => 3.0, // forward, again for the tape, and back
        }
    }
}

/// A stage that is to come.
#[derive(Clone, Debug, PartialEq)]
pub struct Ahead {
    /// What its label begins with.
    pub label: String,
    /// What its speed depends on.
    pub kind: Kind,
    /// Its work, in tokens of a pass forward.
    pub tokens: f64,
}

/// The stage that runs.
pub struct Running<'a> {
    /// As it was expected.
    pub stage: &'a Ahead,
    /// The share of it that was done before this process.
    pub first: f64,
    /// The share of it that is done now.
    pub done: f64,
    /// Seconds since this process began it.
    pub seconds: f64,
}

/// Tokens, and the seconds that they took.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    tokens: f64,
    seconds: f64,
}

/// The stages ahead, and what those of this process took.
pub struct Rest {
    ahead: Vec<Ahead>,
    spent: [Spent; 3],
    planned: LazyLock<Rates, Planner>,
}

impl Rest {
    /// Nothing has run yet.
    pub fn of(ahead: Vec<Ahead>, planner: Planner) -> Rest {
        Rest {
            ahead,
            spent: Default::default(),
            planned: LazyLock::new(planner),
        }
    }

    /// A stage begins; those that were expected before it will not come. `None`: it was not
    /// expected.
    pub fn begin(&mut self, label: &str, kind: Kind) -> Option<Ahead> {
        let is_it = |stage: &Ahead| stage.kind == kind && label.starts_with(&stage.label);
        let at = self.ahead.iter().position(is_it)?;
        self.ahead.drain(..=at).next_back()
    }

    /// The stage is over.
    pub fn end(&mut self, now: &Running) {
        self.spent = self.with(Some(now));
    }

    /// The time of all that is left; `None` where that is nothing, or nobody can say yet.
    pub fn left(&self, now: Option<&Running>) -> Option<Duration> {
        let spent = self.with(now);
        let seconds: f64 = spent.iter().map(|kind| kind.seconds).sum();
        if seconds.max(now.map_or(0.0, |now| now.seconds)) < ENOUGH {
            return None;
        }
        let work = |kind: Kind| spent[kind as usize].tokens * kind.supposed();
        let work: f64 = Kind::ALL.into_iter().map(work).sum();
        let a_token = |kind: Kind| {
            let Spent { tokens, seconds: s } = spent[kind as usize];
            match self.planned[kind as usize] {
                Some(rate) => Some((WEIGHT + s) / (WEIGHT / rate + tokens)),
                None if tokens > 0.0 => Some(s / tokens),
                None => (work > 0.0).then(|| seconds / work * kind.supposed()),
            }
        };
        let ahead = self.ahead.iter().map(|stage| (stage.kind, stage.tokens));
        let here = now.map(|now| (now.stage.kind, (1.0 - now.done) * now.stage.tokens));
        let left: Option<f64> = ahead
            .chain(here)
            .map(|(kind, tokens)| Some(tokens * a_token(kind)?))
            .sum();
        let left = left?;
        let time = Duration::try_from_secs_f64(left).ok();
        time.filter(|time| !time.is_zero())
    }

    /// What each kind has taken once the running stage is where it is.
    fn with(&self, now: Option<&Running>) -> [Spent; 3] {
        let mut spent = self.spent;
        if let Some(now) = now.filter(|now| now.done > now.first) {
            let of_kind = &mut spent[now.stage.kind as usize];
            of_kind.tokens += (now.done - now.first) * now.stage.tokens;
            of_kind.seconds += now.seconds;
        }
        spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(label: &str, kind: Kind, tokens: f64) -> Ahead {
        let label = label.to_string();
        Ahead {
            label,
            kind,
            tokens,
        }
    }

    fn at(stage: &Ahead, first: f64, done: f64, seconds: f64) -> Running<'_> {
        Running {
            stage,
            first,
            done,
            seconds,
        }
    }

    /// Two iterations of three stages, by a clock that the test moves.
    fn rest() -> Rest {
        with_rates([None; 3])
    }

    /// The same with planned rates.
    fn with_rates(rates: Rates) -> Rest {
        let of = |t: usize| {
            [
                stage(&format!("{t}: generated"), Kind::Answers, 100.0),
                stage(&format!("{t}: log-probs"), Kind::Scores, 200.0),
                stage(&format!("{t}: policy"), Kind::Steps, 300.0),
            ]
        };
        Rest::of((0..2).flat_map(of).collect(), Box::new(move || rates))
    }

    fn seconds(left: Option<Duration>) -> f64 {
        left.map_or(f64::NAN, |time| time.as_secs_f64())
    }

    #[test]
    fn what_is_left_is_the_work_ahead_at_the_speed_so_far() {
        let mut rest = rest();
        let generated = rest.begin("0: generated", Kind::Answers).unwrap();
        assert_eq!(rest.left(Some(&at(&generated, 0.0, 0.0, 60.0))), None);
        // 50 tokens in 5 s: 0.1 s a token, for a step's three times that
        let half = at(&generated, 0.0, 0.5, 5.0);
        let supposed = 0.1 * (50.0 + 100.0 + 2.0 * 200.0 + 2.0 * 3.0 * 300.0);
        assert!((seconds(rest.left(Some(&half))) - supposed).abs() < 1e-9);
        rest.end(&at(&generated, 0.0, 1.0, 10.0));

        // from here on passes forward have a speed of their own: 1 s a token
        let scores = rest.begin("0: log-probs", Kind::Scores).unwrap();
        rest.end(&at(&scores, 0.0, 1.0, 200.0));
        // 210 s for 300 tokens of a pass
        let step = 3.0 * 210.0 / 300.0;
        let own = 0.1 * 100.0 + 200.0 + step * 600.0;
        assert!((seconds(rest.left(None)) - own).abs() < 1e-9);

        // and when all have one, nothing is supposed
        let policy = rest.begin("0: policy", Kind::Steps).unwrap();
        rest.end(&at(&policy, 0.0, 1.0, 600.0));
        assert!((seconds(rest.left(None)) - (10.0 + 200.0 + 600.0)).abs() < 1e-9);
        rest.begin("1: policy", Kind::Steps).unwrap();
        assert_eq!(rest.left(None), None, "nothing is left");
    }

    /// What a killed process did says nothing of this one's speed.
    #[test]
    fn a_resumed_stage_counts_from_where_it_was_resumed() {
        let mut rest = rest();
        let policy = rest.begin("1: policy", Kind::Steps).unwrap();
        // a tenth of 300 tokens in 6 s; a tenth is left
        let now = at(&policy, 0.8, 0.9, 6.0);
        assert!((seconds(rest.left(Some(&now))) - 6.0).abs() < 1e-9);
    }

    #[test]
    fn a_moment_is_no_measurement() {
        let mut rest = rest();
        let generated = rest.begin("0: generated", Kind::Answers).unwrap();
        let now = |seconds| rest.left(Some(&at(&generated, 0.0, 0.5, seconds)));
        assert_eq!(now(2.9), None);
        assert!(now(3.1).is_some());
    }

    /// A game that ends early, and a stage that nobody expected.
    #[test]
    fn stages_that_are_passed_over_are_not_waited_for() {
        let mut rest = rest();
        assert_eq!(rest.begin("loading", Kind::Steps), None);
        assert_eq!(rest.begin("0: policy", Kind::Scores), None);
        let policy = rest.begin("1: policy, of two", Kind::Steps).unwrap();
        assert_eq!(policy.label, "1: policy");
        let now = at(&policy, 0.0, 0.25, 10.0);
        assert!((seconds(rest.left(Some(&now))) - 30.0).abs() < 1e-9);
    }
    /// Tokens of answers, log-probs and steps of `rest`, at the planned rates.
    const PLANNED: Rates = [Some(0.5), Some(0.1), Some(2.0)];

    #[test]
    fn with_nothing_measured_the_time_is_the_plans() {
        let mut rest = with_rates(PLANNED);
        let generated = rest.begin("0: generated", Kind::Answers).unwrap();
        let plan = 200.0 * 0.5 + 400.0 * 0.1 + 600.0 * 2.0;
        let now = at(&generated, 0.0, 0.0, 60.0);
        assert!((seconds(rest.left(Some(&now))) - plan).abs() < 1e-9);
        // a slow start of one kind says nothing of the others, and little of its own: 1 token in
        // 30 s counts beside the 120 that take 60 s
        let now = at(&generated, 0.0, 0.01, 30.0);
        let answers = 199.0 * (60.0 + 30.0) / (120.0 + 1.0);
        let left = answers + 400.0 * 0.1 + 600.0 * 2.0;
        assert!((seconds(rest.left(Some(&now))) - left).abs() < 1e-9);
    }

    #[test]
    fn with_much_measured_the_time_is_the_measured() {
        let mut rest = with_rates(PLANNED);
        rest.ahead = vec![
            stage("long", Kind::Answers, 1e9),
            stage("rest", Kind::Answers, 100.0),
        ];
        let long = rest.begin("long", Kind::Answers).unwrap();
        rest.end(&at(&long, 0.0, 1.0, 3e9));
        assert!((seconds(rest.left(None)) / 300.0 - 1.0).abs() < 1e-6);
    }

    /// Work goes on at 3 s a token where 0.5 were planned, and at 0.1.
    #[test]
    fn between_both_the_time_goes_from_one_to_the_other() {
        for (measured, rises) in [(3.0, true), (0.1, false)] {
            let mut last = 0.5;
            for tokens in [10.0, 100.0, 1e3, 1e4, 1e5] {
                let mut rest = with_rates(PLANNED);
                let all = stage("all", Kind::Answers, tokens);
                rest.ahead = vec![stage("rest", Kind::Answers, 1000.0)];
                rest.end(&at(&all, 0.0, 1.0, measured * tokens + 3.0));
                let rate = seconds(rest.left(None)) / 1000.0;
                let (low, high) = if rises { (last, 3.31) } else { (0.1, last) };
                assert!(low < rate && rate < high, "{tokens}: {rate}");
                last = rate;
            }
        }
    }

    /// Measuring the machine costs half a second, which a short run does not pay.
    #[test]
    fn rates_are_planned_once_and_not_in_the_first_seconds() {
        use std::sync::Arc;
        use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = asked.clone();
        let planner = Box::new(move || {
            counted.fetch_add(1, Relaxed);
            PLANNED
        });
        let all = stage("all", Kind::Answers, 100.0);
        let rest = Rest::of(vec![stage("rest", Kind::Answers, 100.0)], planner);
        for (seconds, times) in [(1.0, 0), (2.9, 0), (3.1, 1), (50.0, 1)] {
            let left = rest.left(Some(&at(&all, 0.0, 0.5, seconds)));
            assert_eq!((left.is_some(), asked.load(Relaxed)), (times > 0, times));
        }
    }
}
