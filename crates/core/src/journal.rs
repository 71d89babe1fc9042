//! The journal interface: a store of finished stages, from which the loop restores results.

/// The four stages of an iteration, in order. Each reads the results of those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The opponent's responses.
    Generated,
    /// Real and generated responses with the opponent's log-probs.
    Pairs,
    /// The trained policy.
    Policy,
    /// The iteration's evaluation.
    Eval,
}

impl Stage {
    /// All four, in order.
    pub const ALL: [Stage; 4] = [Stage::Generated, Stage::Pairs, Stage::Policy, Stage::Eval];

    /// The stage's name in a run folder: `generated`, `pairs`, `policy`, `eval`.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Generated => "generated",
            Stage::Pairs => "pairs",
            Stage::Policy => "policy",
            Stage::Eval => "eval",
        }
    }
}

/// A record of which stages are finished.
pub trait Journal {
    /// Storage for a stage's unfinished work.
    type Workspace;
    /// Error of recording or restoring.
    type Error;

    /// Whether the result of stage `stage` of iteration `t` is stored, whole.
    fn finished(&self, t: usize, stage: Stage) -> bool;
}

/// A journal that stores results of type `A`.
pub trait Stores<A>: Journal {
    /// Loads the result of a finished stage.
    ///
    /// # Errors
    /// The stage is not finished.
    fn restore(&mut self, t: usize, stage: Stage) -> Result<A, Self::Error>;

    /// Runs `make`, stores its result, and then marks the stage finished. The value returned must
    /// equal what [`Stores::restore`] returns after a crash, or a resumed game would differ from an
    /// uninterrupted one.
    fn record<E: From<Self::Error>>(
        &mut self,
        t: usize,
        stage: Stage,
        make: impl FnOnce(&mut Self::Workspace) -> Result<A, E>,
    ) -> Result<A, E>;

    /// Restores a finished stage, or runs and records it.
    fn stage<E: From<Self::Error>>(
        &mut self,
        t: usize,
        stage: Stage,
        make: impl FnOnce(&mut Self::Workspace) -> Result<A, E>,
    ) -> Result<A, E> {
        match self.finished(t, stage) {
            true => Ok(self.restore(t, stage)?),
            false => self.record(t, stage, make),
        }
    }
}

/// A journal that stores nothing, for a game played in one go, in memory.
#[derive(Debug, Default, Clone, Copy)]
pub struct NoJournal;

impl Journal for NoJournal {
    type Workspace = ();
    type Error = NothingStored;

    fn finished(&self, _t: usize, _stage: Stage) -> bool {
        false
    }
}

impl<A> Stores<A> for NoJournal {
    fn restore(&mut self, _t: usize, _stage: Stage) -> Result<A, NothingStored> {
        Err(NothingStored)
    }

    fn record<E: From<NothingStored>>(
        &mut self,
        _t: usize,
        _stage: Stage,
        make: impl FnOnce(&mut ()) -> Result<A, E>,
    ) -> Result<A, E> {
        make(&mut ())
    }
}

/// Error of [`NoJournal`] when asked to restore. The loop never asks: no stage is finished there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nothing is stored by this journal")]
pub struct NothingStored;
