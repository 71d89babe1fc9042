//! The loop's contract besides convergence: order of calls, which opponent, the data window, the
//! stop rule, and that a resumed game makes exactly the missing calls.

use std::{any::Any, collections::BTreeMap};

use randori_core::{
    Ended, Game, Iteration, Journal, PairLogps, Rules, Signals, Stage, StopRule, Stores, Window,
    play,
};

/// Players whose state is a word: the policy that ends iteration t is `theta{t+1}`. They record
/// every call.
#[derive(Default)]
struct Scripted {
    calls: Vec<String>,
    stages: Vec<(usize, Stage, bool)>,
    /// Margin that evaluation answers, by iteration; 1 where not given.
    margins: Vec<f64>,
    /// Calls that may be made before everything fails, as after a kill.
    budget: Option<usize>,
}

#[derive(Debug, PartialEq)]
enum Stopped {
    Killed,
    NotKept,
}

impl Scripted {
    fn call(&mut self, what: String) -> Result<(), Stopped> {
        if self.budget == Some(0) {
            return Err(Stopped::Killed);
        }
        self.budget = self.budget.map(|left| left - 1);
        self.calls.push(what);
        Ok(())
    }
}

impl Game for Scripted {
    type Policy = String;
    type Opponent = String;
    type Generated = Vec<String>;
    type Pairs = String;
    type Workspace = ();
    type Error = Stopped;

    fn start(&mut self) -> Result<String, Stopped> {
        Ok("theta0".into())
    }
    fn freeze(&mut self, policy: &String) -> Result<String, Stopped> {
        Ok(policy.clone())
    }
    fn generate(
        &mut self,
        now: &Iteration,
        opponent: &String,
        _: &mut (),
    ) -> Result<Vec<String>, Stopped> {
        self.call(format!("{opponent} generates"))?;
        Ok(vec![format!("y{}", now.t)])
    }
    fn score(
        &mut self,
        _: &Iteration,
        opponent: &String,
        window: &Window<Vec<String>>,
        _: &mut (),
    ) -> Result<String, Stopped> {
        let all: Vec<String> = window
            .iter()
            .map(|(t, g)| format!("{t}:{}", g.join(",")))
            .collect();
        self.call(format!("{opponent} scores {}", all.join(" ")))?;
        Ok(format!("{}|{opponent}", all.join(" ")))
    }
    fn train(
        &mut self,
        now: &Iteration,
        policy: String,
        pairs: &String,
        _: &mut (),
    ) -> Result<String, Stopped> {
        let Iteration {
            t,
            learning_rate,
            beta,
            epochs,
        } = now;
        self.call(format!(
            "{policy} trains on {pairs} lr {learning_rate:e} beta {beta} epochs {epochs}"
        ))?;
        Ok(format!("theta{}", t + 1))
    }
    fn evaluate(
        &mut self,
        now: &Iteration,
        policy: &String,
        opponent: &String,
        _: &String,
        _: &mut (),
    ) -> Result<Signals, Stopped> {
        self.call(format!("{policy} against {opponent}"))?;
        Ok(signals(self.margins.get(now.t).copied().unwrap_or(1.0)))
    }
    fn enters(&mut self, now: &Iteration, stage: Stage, restored: bool) {
        self.stages.push((now.t, stage, restored));
    }
}

/// A journal in memory: what a run folder does, without the folder.
#[derive(Default)]
struct Shelf {
    kept: BTreeMap<(usize, Stage), Box<dyn Any>>,
    restored: Vec<(usize, Stage)>,
}

impl From<Missing> for Stopped {
    fn from(_: Missing) -> Self {
        Stopped::NotKept
    }
}

struct Missing;

impl Journal for Shelf {
    type Workspace = ();
    type Error = Missing;
    fn finished(&self, t: usize, stage: Stage) -> bool {
        self.kept.contains_key(&(t, stage))
    }
}

impl<A: Any + Clone> Stores<A> for Shelf {
    fn restore(&mut self, t: usize, stage: Stage) -> Result<A, Missing> {
        self.restored.push((t, stage));
        self.kept
            .get(&(t, stage))
            .and_then(|a| a.downcast_ref())
            .cloned()
            .ok_or(Missing)
    }
    fn record<E: From<Missing>>(
        &mut self,
        t: usize,
        stage: Stage,
        make: impl FnOnce(&mut ()) -> Result<A, E>,
    ) -> Result<A, E> {
        let made = make(&mut ())?;
        self.kept.insert((t, stage), Box::new(made.clone()));
        Ok(made)
    }
}

fn rules(iterations: usize) -> Rules {
    Rules {
        iterations,
        ..Rules::paper()
    }
}

fn signals(margin: f64) -> Signals {
    let pair = PairLogps {
        policy_real: -1.0 + margin,
        policy_generated: -1.0,
        opponent_real: -1.0,
        opponent_generated: -1.0,
        real_tokens: 3,
        generated_tokens: 5,
    };
    Signals::of(&[pair; 100], 1.0)
}

#[test]
fn the_paper_s_game_call_by_call() {
    let mut game = Scripted::default();
    let out = play(&mut game, &mut Shelf::default(), &rules(4)).unwrap();
    assert_eq!(
        (out.policy.as_str(), out.ended),
        ("theta4", Ended::AllPlayed)
    );
    // Defect 7 of the official code: the opponent of iteration t is theta_t, never theta_0 for
    // ever. And the window: gen_0, gen_0 + gen_1, gen_1 + gen_2, gen_2 + gen_3, each scored by the
    // opponent of the day.
    assert_eq!(
        game.calls,
        [
            "theta0 generates",
            "theta0 scores 0:y0",
            "theta0 trains on 0:y0|theta0 lr 5e-7 beta 0.1 epochs 2",
            "theta1 against theta0",
            "theta1 generates",
            "theta1 scores 0:y0 1:y1",
            "theta1 trains on 0:y0 1:y1|theta1 lr 5e-7 beta 0.1 epochs 2",
            "theta2 against theta1",
            "theta2 generates",
            "theta2 scores 1:y1 2:y2",
            "theta2 trains on 1:y1 2:y2|theta2 lr 1e-7 beta 0.1 epochs 2",
            "theta3 against theta2",
            "theta3 generates",
            "theta3 scores 2:y2 3:y3",
            "theta3 trains on 2:y2 3:y3|theta3 lr 1e-7 beta 5 epochs 2",
            "theta4 against theta3",
        ]
    );
}

#[test]
fn windows_of_one_and_of_three() {
    let scored = |window| {
        let mut game = Scripted::default();
        play(
            &mut game,
            &mut Shelf::default(),
            &Rules { window, ..rules(4) },
        )
        .unwrap();
        let scores = game
            .calls
            .into_iter()
            .filter(|call| call.contains("scores"));
        scores
            .map(|call| call.split_once("scores ").unwrap().1.to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(scored(1), ["0:y0", "1:y1", "2:y2", "3:y3"]);
    assert_eq!(
        scored(3),
        ["0:y0", "0:y0 1:y1", "0:y0 1:y1 2:y2", "1:y1 2:y2 3:y3"]
    );
}

#[test]
fn killed_before_any_call_and_resumed_the_game_is_the_same() {
    for window in [1, 2, 3] {
        let rules = Rules { window, ..rules(4) };
        let mut whole = Scripted::default();
        let undisturbed = play(&mut whole, &mut Shelf::default(), &rules).unwrap();
        for kill in 0..whole.calls.len() {
            let mut shelf = Shelf::default();
            let mut first = Scripted {
                budget: Some(kill),
                ..Scripted::default()
            };
            assert_eq!(
                play(&mut first, &mut shelf, &rules).unwrap_err(),
                Stopped::Killed
            );
            let mut second = Scripted::default();
            let resumed = play(&mut second, &mut shelf, &rules).unwrap();
            let calls = [first.calls, second.calls].concat();
            assert_eq!(
                calls, whole.calls,
                "killed before call {kill}, window {window}"
            );
            assert_eq!(
                resumed, undisturbed,
                "killed before call {kill}, window {window}"
            );
        }
    }
}

#[test]
fn killed_again_and_again_it_still_ends() {
    let mut shelf = Shelf::default();
    let mut calls = Vec::new();
    for _ in 0..15 {
        let mut game = Scripted {
            budget: Some(1),
            ..Scripted::default()
        };
        assert_eq!(
            play(&mut game, &mut shelf, &rules(4)).unwrap_err(),
            Stopped::Killed
        );
        calls.extend(game.calls);
    }
    let mut game = Scripted {
        budget: Some(1),
        ..Scripted::default()
    };
    assert_eq!(
        play(&mut game, &mut shelf, &rules(4)).unwrap().policy,
        "theta4"
    );
    assert_eq!(calls.len() + game.calls.len(), 16);
}

#[test]
fn a_finished_game_makes_no_call_and_a_longer_one_goes_on() {
    let mut shelf = Shelf::default();
    let short = play(&mut Scripted::default(), &mut shelf, &rules(2)).unwrap();
    let mut again = Scripted::default();
    assert_eq!(play(&mut again, &mut shelf, &rules(2)).unwrap(), short);
    assert!(again.calls.is_empty() && again.stages.is_empty());

    let mut longer = Scripted::default();
    play(&mut longer, &mut shelf, &rules(3)).unwrap();
    assert_eq!(
        longer.calls[..2],
        ["theta2 generates", "theta2 scores 1:y1 2:y2"]
    );
}

#[test]
fn the_game_is_told_what_was_restored() {
    let mut shelf = Shelf::default();
    play(
        &mut Scripted {
            budget: Some(2),
            ..Scripted::default()
        },
        &mut shelf,
        &rules(1),
    )
    .unwrap_err();
    let mut game = Scripted::default();
    play(&mut game, &mut shelf, &rules(1)).unwrap();
    let restored: Vec<bool> = game
        .stages
        .iter()
        .map(|(_, _, restored)| *restored)
        .collect();
    assert_eq!(restored, [true, true, false, false]);
}

#[test]
fn the_stop_rule_waits_for_its_patience_and_survives_a_resume() {
    let check = |margins: &[f64], patience: usize, iterations: usize, ended: Ended| {
        let stop = StopRule {
            patience,
            noise: 2.0,
            margin: 0.05,
        };
        let rules = Rules { stop, ..rules(6) };
        let mut shelf = Shelf::default();
        let mut game = Scripted {
            margins: margins.to_vec(),
            ..Scripted::default()
        };
        let out = play(&mut game, &mut shelf, &rules).unwrap();
        assert_eq!(
            (out.signals.len(), out.ended),
            (iterations, ended),
            "{margins:?}, patience {patience}"
        );
        let mut again = Scripted {
            margins: margins.to_vec(),
            ..Scripted::default()
        };
        assert_eq!(play(&mut again, &mut shelf, &rules).unwrap(), out);
        assert!(again.calls.is_empty());
    };
    check(&[1.0, 0.01, 1.0], 1, 2, Ended::Indistinguishable);
    check(&[1.0, 0.01, 1.0, 0.0, 0.02], 2, 5, Ended::Indistinguishable);
    check(&[0.0; 6], 0, 6, Ended::AllPlayed);
    check(&[1.0; 6], 1, 6, Ended::AllPlayed);
    check(
        &[1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
        1,
        6,
        Ended::Indistinguishable,
    );
}

#[test]
fn a_draw_is_what_noise_or_ties_explain() {
    let rule = StopRule {
        patience: 1,
        noise: 2.0,
        margin: 0.0,
    };
    let check = |pairs: usize, accuracy: f64, ties: f64, draw: bool| {
        let signals = Signals {
            pairs,
            accuracy,
            ties,
            margin: 0.1,
            ..Signals::none()
        };
        assert_eq!(
            rule.draw(&signals),
            draw,
            "{accuracy} of {pairs}, ties {ties}"
        );
    };
    check(100, 0.59, 0.0, true); // two standard errors: 0.10
    check(100, 0.61, 0.0, false);
    check(10_000, 0.52, 0.0, false);
    check(10_000, 0.30, 0.0, true); // worse than chance cannot tell either
    check(10_000, 0.02, 0.96, true); // 96 % of y' equal y
    check(10_000, 0.30, 0.5, false);
    check(100, 0.61, f64::NAN, false);
    assert!(
        !rule.draw(&Signals::none()),
        "what was not measured decides nothing"
    );
}

#[test]
fn a_resume_loads_only_what_is_still_needed() {
    let mut shelf = Shelf::default();
    play(&mut Scripted::default(), &mut shelf, &rules(3)).unwrap();
    shelf.restored.clear();
    play(&mut Scripted::default(), &mut shelf, &rules(4)).unwrap();
    let evals = (0..3).map(|t| (t, Stage::Eval));
    let needed = [(2, Stage::Policy), (2, Stage::Generated)]
        .into_iter()
        .chain(evals);
    assert_eq!(shelf.restored, needed.collect::<Vec<_>>());
}

/// A stage that was undone by hand is made again where it belongs, and what follows is restored.
#[test]
fn a_gap_is_filled_in_its_place() {
    let mut shelf = Shelf::default();
    let whole = play(&mut Scripted::default(), &mut shelf, &rules(3)).unwrap();
    shelf.kept.remove(&(0, Stage::Eval));
    let mut game = Scripted::default();
    assert_eq!(play(&mut game, &mut shelf, &rules(3)).unwrap(), whole);
    assert_eq!(game.calls, ["theta1 against theta0"]);
}
