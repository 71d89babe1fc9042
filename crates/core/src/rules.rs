//! Rules of a game: number of iterations, window, opponent, settings per iteration, stop rule.

use std::str::FromStr;

use crate::StopRule;

/// Rules of a game. [`Rules::check`] validates them; [`Rules::paper`] is an example.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Maximum number of iterations.
    pub iterations: usize,
    /// Number of iterations whose pairs a policy is trained on: 1 = this one's, 2 = also the
    /// previous one's.
    pub window: usize,
    /// The opponent of each iteration.
    pub opponent: OpponentRule,
    /// Peak learning rate.
    pub learning_rate: PerIteration<f64>,
    /// The paper's lambda, called beta elsewhere: scale of the log-ratios in the loss.
    pub beta: PerIteration<f64>,
    /// Epochs over the window's pairs.
    pub epochs: PerIteration<usize>,
    /// When to stop before the last iteration.
    pub stop: StopRule,
}

impl Rules {
    /// The settings of the paper's experiments (its section 6.1 and the authors' configurations).
    pub fn paper() -> Rules {
        Rules {
            iterations: 4,
            window: 2,
            opponent: OpponentRule::Previous,
            learning_rate: PerIteration(vec![5e-7, 5e-7, 1e-7, 1e-7]),
            beta: PerIteration(vec![0.1, 0.1, 0.1, 5.0]),
            epochs: PerIteration(vec![2]),
            stop: StopRule::never(),
        }
    }

    /// Returns the settings of iteration `t`, from 0.
    pub fn iteration(&self, t: usize) -> Iteration {
        Iteration {
            t,
            learning_rate: self.learning_rate.at(t).unwrap_or(f64::NAN),
            beta: self.beta.at(t).unwrap_or(f64::NAN),
            epochs: self.epochs.at(t).unwrap_or(0),
        }
    }

    /// Validates the rules.
    ///
    /// # Errors
    /// The first invalid setting, under its recipe name.
    pub fn check(&self) -> Result<(), BadRule> {
        at_least_one("game.iterations", self.iterations, None)?;
        at_least_one("game.window", self.window, None)?;
        each("train.lr", &self.learning_rate, above_zero)?;
        each("loss.beta", &self.beta, above_zero)?;
        each("train.epochs", &self.epochs, at_least_one)?;
        if !(self.stop.noise >= 0.0 && self.stop.noise.is_finite()) {
            return Err(BadRule::new(
                "game.stop.noise",
                "must be 0 or more",
                self.stop.noise,
                None,
            ));
        }
        if !self.stop.margin.is_finite() {
            return Err(BadRule::new(
                "game.stop.margin",
                "must be a number",
                self.stop.margin,
                None,
            ));
        }
        Ok(())
    }
}

/// Settings of one iteration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Iteration {
    /// Index of the iteration, from 0.
    pub t: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// The paper's lambda: scale of the log-ratios in the loss.
    pub beta: f64,
    /// Epochs over the pairs.
    pub epochs: usize,
}

/// A setting that may differ between iterations: a list of values, the last of which holds for all
/// later iterations.
#[derive(Debug, Clone, PartialEq)]
pub struct PerIteration<T>(pub Vec<T>);

impl<T: Copy> PerIteration<T> {
    /// The same value in every iteration.
    pub fn constant(value: T) -> Self {
        PerIteration(vec![value])
    }

    /// Value of iteration `t`; `None` only for an empty list, which [`Rules::check`] refuses.
    pub fn at(&self, t: usize) -> Option<T> {
        self.0.get(t).or(self.0.last()).copied()
    }
}

impl<T: Copy> From<T> for PerIteration<T> {
    fn from(value: T) -> Self {
        PerIteration::constant(value)
    }
}

/// The opponent of iteration t.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OpponentRule {
    /// The policy that ended iteration t-1 (SPIN).
    #[default]
    Previous,
}

impl FromStr for OpponentRule {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "previous" => Ok(OpponentRule::Previous),
            _ => Err(format!("there is no opponent `{name}`; there is: previous")),
        }
    }
}

/// An invalid setting.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{name} {rule}: got {value}{}", at.map(|t| format!(" for iteration {t}")).unwrap_or_default())]
pub struct BadRule {
    /// Its recipe key, to which a caller can add the line.
    pub name: &'static str,
    /// What must hold.
    pub rule: &'static str,
    /// The value found.
    pub value: String,
    /// The iteration, for a value in a list.
    pub at: Option<usize>,
}

impl BadRule {
    fn new(
        name: &'static str,
        rule: &'static str,
        value: impl std::fmt::Display,
        at: Option<usize>,
    ) -> Self {
        BadRule {
            name,
            rule,
            value: value.to_string(),
            at,
        }
    }
}

fn each<T: Copy>(
    name: &'static str,
    values: &PerIteration<T>,
    check: impl Fn(&'static str, T, Option<usize>) -> Result<(), BadRule>,
) -> Result<(), BadRule> {
    if values.0.is_empty() {
        return Err(BadRule::new(name, "needs at least one value", "[]", None));
    }
    let in_list = values.0.len() > 1;
    values
        .0
        .iter()
        .enumerate()
        .try_for_each(|(t, value)| check(name, *value, in_list.then_some(t)))
}

fn above_zero(name: &'static str, value: f64, at: Option<usize>) -> Result<(), BadRule> {
    match value > 0.0 && value.is_finite() {
        true => Ok(()),
        false => Err(BadRule::new(name, "must be a number above 0", value, at)),
    }
}

fn at_least_one(name: &'static str, value: usize, at: Option<usize>) -> Result<(), BadRule> {
    match value >= 1 {
        true => Ok(()),
        false => Err(BadRule::new(name, "must be 1 or more", value, at)),
    }
}
