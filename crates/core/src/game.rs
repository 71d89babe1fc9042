//! The self-play loop ([`play`]) and the [`Game`] trait that it drives.

use crate::{Iteration, Journal, OpponentRule, Rules, Signals, Stage, Stores, Window};

/// Plays the iterations that the journal does not hold yet.
///
/// Resumable: called again with the same journal after a kill, it restores every finished stage and
/// runs only the missing ones.
pub fn play<G, J>(
    game: &mut G,
    journal: &mut J,
    rules: &Rules,
) -> Result<Outcome<G::Policy>, G::Error>
where
    G: Game,
    J: Journal<Workspace = G::Workspace>
        + Stores<G::Generated>
        + Stores<G::Pairs>
        + Stores<G::Policy>
        + Stores<Signals>,
    G::Error: From<J::Error>,
{
    let (mut policy, mut window, mut history) = so_far(game, journal, rules)?;
    for t in history.len()..rules.iterations {
        if rules.stop.reached(&history) {
            break;
        }
        let now = rules.iteration(t);
        game.begins(&now);
        // The opponent's update (paper, section 4.1): theta_t is whatever ended the last iteration.
        let opponent = match rules.opponent {
            OpponentRule::Previous => game.freeze(&policy)?, // SPIN's theta_t
        };
        let generated = stage(game, journal, &now, Stage::Generated, |game, workspace| {
            game.generate(&now, &opponent, workspace)
        })?;
        window.push(t, generated);
        // The window's pairs, old ones too, with *this* opponent's log-probs: constants of the
        // iteration.
        let pairs = stage(game, journal, &now, Stage::Pairs, |game, workspace| {
            game.score(&now, &opponent, &window, workspace)
        })?;
        policy = stage(game, journal, &now, Stage::Policy, |game, workspace| {
            game.train(&now, policy, &pairs, workspace)
        })?;
        let signals = stage(game, journal, &now, Stage::Eval, |game, workspace| {
            game.evaluate(&now, &policy, &opponent, &pairs, workspace)
        })?;
        game.ended(&now, &signals);
        history.push(signals);
    }
    let ended = match rules.stop.reached(&history) {
        true => Ended::Indistinguishable,
        false => Ended::AllPlayed,
    };
    Ok(Outcome {
        policy,
        signals: history,
        ended,
    })
}

/// The players and their data. Six methods are required; the last three only report progress.
///
/// A method must be a function of its arguments and of what the game was built with: `play` may
/// skip any call whose result the journal holds.
pub trait Game {
    /// The policy under training, e.g. an adapter's tensors.
    type Policy;
    /// A frozen policy. It must share no memory with the policy that training writes to.
    type Opponent;
    /// The opponent's response to every prompt.
    type Generated;
    /// Real and generated responses with the opponent's log-probs of both.
    type Pairs;
    /// Storage for a stage's unfinished work (checkpoints), lent by the journal, so that a killed
    /// stage can resume.
    type Workspace;
    /// Error of any method.
    type Error;

    /// Returns the policy before iteration 0: the supervised fine-tuned model.
    fn start(&mut self) -> Result<Self::Policy, Self::Error>;

    /// Returns a frozen copy of the current policy.
    fn freeze(&mut self, policy: &Self::Policy) -> Result<Self::Opponent, Self::Error>;

    /// Samples the opponent's response to every prompt: y' ~ p_theta_t.
    fn generate(
        &mut self,
        now: &Iteration,
        opponent: &Self::Opponent,
        workspace: &mut Self::Workspace,
    ) -> Result<Self::Generated, Self::Error>;

    /// Computes the opponent's log-probs of the real and generated responses of the whole window.
    fn score(
        &mut self,
        now: &Iteration,
        opponent: &Self::Opponent,
        window: &Window<Self::Generated>,
        workspace: &mut Self::Workspace,
    ) -> Result<Self::Pairs, Self::Error>;

    /// Trains the policy to tell real from generated (paper, eq. 4.7) with this iteration's
    /// settings.
    fn train(
        &mut self,
        now: &Iteration,
        policy: Self::Policy,
        pairs: &Self::Pairs,
        workspace: &mut Self::Workspace,
    ) -> Result<Self::Policy, Self::Error>;

    /// Measures the trained policy against the opponent of this iteration.
    fn evaluate(
        &mut self,
        now: &Iteration,
        policy: &Self::Policy,
        opponent: &Self::Opponent,
        pairs: &Self::Pairs,
        workspace: &mut Self::Workspace,
    ) -> Result<Signals, Self::Error>;

    /// Called when an iteration begins; not for one whose four stages the journal holds.
    fn begins(&mut self, now: &Iteration) {
        let _ = now;
    }

    /// Called when a stage begins; `restored` is true if the journal holds its result already.
    fn enters(&mut self, now: &Iteration, stage: Stage, restored: bool) {
        let _ = (now, stage, restored);
    }

    /// Called when an iteration has ended, with its signals.
    fn ended(&mut self, now: &Iteration, signals: &Signals) {
        let _ = (now, signals);
    }
}

/// Result of a game.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome<P> {
    /// The last policy.
    pub policy: P,
    /// Signals of every iteration, resumed ones included.
    pub signals: Vec<Signals>,
    /// Why it ended.
    pub ended: Ended,
}

/// Why a game ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// All iterations of the rules were played.
    AllPlayed,
    /// The stop rule applied: the policy no longer tells generated from real.
    Indistinguishable,
}

/// What the journal holds of earlier runs: the last policy, the responses still inside the window,
/// and the signals of every finished iteration. An iteration with any stage missing is not
/// finished.
fn so_far<G, J>(
    game: &mut G,
    journal: &mut J,
    rules: &Rules,
) -> Result<(G::Policy, Window<G::Generated>, Vec<Signals>), G::Error>
where
    G: Game,
    J: Journal<Workspace = G::Workspace>
        + Stores<G::Generated>
        + Stores<G::Policy>
        + Stores<Signals>,
    G::Error: From<J::Error>,
{
    let whole = |t: &usize| Stage::ALL.iter().all(|stage| journal.finished(*t, *stage));
    let next = (0..rules.iterations).take_while(whole).count();
    let policy = match next.checked_sub(1) {
        None => game.start()?,
        Some(last) => journal.restore(last, Stage::Policy)?,
    };
    let mut window = Window::new(rules.window);
    for t in (next + 1).saturating_sub(rules.window)..next {
        window.push(t, journal.restore(t, Stage::Generated)?);
    }
    let history = (0..next)
        .map(|t| journal.restore(t, Stage::Eval))
        .collect::<Result<_, _>>()?;
    Ok((policy, window, history))
}

/// Restores one stage, or runs and records it, and tells the game which.
fn stage<G, J, A>(
    game: &mut G,
    journal: &mut J,
    now: &Iteration,
    stage: Stage,
    make: impl FnOnce(&mut G, &mut G::Workspace) -> Result<A, G::Error>,
) -> Result<A, G::Error>
where
    G: Game,
    J: Stores<A> + Journal<Workspace = G::Workspace>,
    G::Error: From<J::Error>,
{
    game.enters(now, stage, journal.finished(now.t, stage));
    journal.stage(now.t, stage, |workspace| make(game, workspace))
}
