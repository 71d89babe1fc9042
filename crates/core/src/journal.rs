//! Where finished work is kept, seen from the loop: a stage is restored, or made and recorded.

/// The four stages of an iteration, in order. Each reads what the ones before it made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The opponent's answers.
    Generated,
    /// Real and generated answers with the opponent's log-probs.
    Pairs,
    /// The trained policy.
    Policy,
    /// The iteration's signals.
    Eval,
}

impl Stage {
    /// All four, in order.
    pub const ALL: [Stage; 4] = [Stage::Generated, Stage::Pairs, Stage::Policy, Stage::Eval];

    /// `generated`, `pairs`, `policy`, `eval`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Generated => "generated",
            Stage::Pairs => "pairs",
            Stage::Policy => "policy",
            Stage::Eval => "eval",
        }
    }
}

/// Knows which stages are finished. One required method.
pub trait Journal {
    /// Where a stage may keep unfinished work.
    type Desk;
    /// What can go wrong while keeping or restoring.
    type Error;

    /// Whether the stage's result is kept, whole.
    fn finished(&self, t: usize, stage: Stage) -> bool;
}

/// Keeps results of type `A`. Two required methods; the loop calls the third.
pub trait Keeps<A>: Journal {
    /// The result of a finished stage; an error for one that is not finished.
    fn restore(&mut self, t: usize, stage: Stage) -> Result<A, Self::Error>;

    /// Makes the stage's result, keeps it, and only then calls the stage finished. What it answers
    /// must equal what [`Keeps::restore`] will answer after a crash, or a resumed game would differ
    /// from an undisturbed one.
    fn record<E: From<Self::Error>>(
        &mut self,
        t: usize,
        stage: Stage,
        make: impl FnOnce(&mut Self::Desk) -> Result<A, E>,
    ) -> Result<A, E>;

    /// Restores a finished stage, or makes and records it.
    fn stage<E: From<Self::Error>>(
        &mut self,
        t: usize,
        stage: Stage,
        make: impl FnOnce(&mut Self::Desk) -> Result<A, E>,
    ) -> Result<A, E> {
        match self.finished(t, stage) {
            true => Ok(self.restore(t, stage)?),
            false => self.record(t, stage, make),
        }
    }
}

/// Keeps nothing: a game played in one go, in memory.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoJournal;

impl Journal for NoJournal {
    type Desk = ();
    type Error = NothingKept;

    fn finished(&self, _t: usize, _stage: Stage) -> bool {
        false
    }
}

impl<A> Keeps<A> for NoJournal {
    fn restore(&mut self, _t: usize, _stage: Stage) -> Result<A, NothingKept> {
        Err(NothingKept)
    }

    fn record<E: From<NothingKept>>(
        &mut self,
        _t: usize,
        _stage: Stage,
        make: impl FnOnce(&mut ()) -> Result<A, E>,
    ) -> Result<A, E> {
        make(&mut ())
    }
}

/// [`NoJournal`] was asked for a result. The loop never does: nothing is finished there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing is kept by this journal")]
pub struct NothingKept;
