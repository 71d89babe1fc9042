//! What a section of the recipe is.

use super::refusal::RecipeError;
use super::setting::Key;
use super::source::Entries;

/// A section of the recipe; implemented by `section!`.
pub trait Section: Sized {
    /// "" at the top.
    const NAME: &'static str;
    /// Its keys in order.
    fn keys() -> Vec<Key>;
    /// Takes its keys out of `entries`.
    fn read(entries: &mut Entries) -> Result<Self, RecipeError>;
    /// Keys with values as TOML.
    fn show(&self) -> Vec<(&'static str, Option<String>)>;
}
