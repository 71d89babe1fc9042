//! Why a recipe was refused.

/// A recipe was refused: the place, the rule and the value in one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {rule}")]
pub struct RecipeError {
    /// `recipe.toml:14`, `--set train.lr=-1`.
    pub place: String,
    /// What was expected and what was found.
    pub rule: String,
}
