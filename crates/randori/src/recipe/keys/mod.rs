//! Every key of a recipe, declared once: name, type, default (as TOML), bounds, documentation.

use std::path::PathBuf;

use super::plural::PluginChoice;
use super::refusal::RecipeError;
use super::section::Section;
use super::setting::{Bound, Key, OnResume, Setting};
use super::source::Entries;

/// A section: `/// doc`, `key: Type = "default", BOUND => CHANGE;`. Without a bound any value of
/// the type is allowed; without a change ([`OnResume`]) a run is not resumed with another value.
macro_rules! section {
    ($(#[doc = $sdoc:literal])* [$path:literal] $name:ident {
        $( $(#[doc = $doc:literal])* $key:ident : $ty:ty = $default:literal $(, $bound:expr)? $(=> $change:ident)? ; )*
    }) => {
        $(#[doc = $sdoc])*
        #[derive(Debug, Clone, PartialEq)]
        #[allow(missing_docs)]
        pub struct $name { $( $(#[doc = $doc])* pub $key: $ty, )* }
        impl $name {
            /// What the section is for.
            pub const DOC: &'static [&'static str] = &[$($sdoc),*];
        }
        impl Section for $name {
            const NAME: &'static str = $path;
            fn keys() -> Vec<Key> {
                vec![$( Key {
                    section: $path, name: stringify!($key), doc: &[$($doc),*], default: $default,
                    shape: <$ty as Setting>::shape(), bound: section!(@bound $($bound)?),
                    on_resume: section!(@change $($change)?),
                } ),*]
            }
            fn read(entries: &mut Entries) -> Result<Self, RecipeError> {
                Ok($name { $( $key: entries.take($path, stringify!($key), $default, &section!(@bound $($bound)?))?, )* })
            }
            fn show(&self) -> Vec<(&'static str, Option<String>)> {
                vec![$( (stringify!($key), Setting::show(&self.$key)) ),*]
            }
        }
    };
    (@bound) => { Bound::ANY };
    (@bound $bound:expr) => { $bound };
    (@change) => { OnResume::Refused };
    (@change $change:ident) => { OnResume::$change };
}

pub mod most;

mod adapter;
mod data;
mod game;
mod model;
mod train;

pub use adapter::*;
pub use data::*;
pub use game::*;
pub use model::*;
pub use train::*;

impl PartialEq for PluginChoice {
    fn eq(&self, other: &Self) -> bool {
        self.show() == other.show()
    }
}

section! {
    /// The run itself.
    [""] Run {
        /// Name of the run; its folder is `runs/NAME`.
        name: String = "\"run\"";
        /// Seed of everything random: initial adapters, the order of examples, sampling.
        seed: u64 = "42";
        /// Folder that relative paths start from; the recipe's own folder where it is not given.
        root: Option<PathBuf> = "" => Free;
    }
}

/// Sections in order, with their documentation.
pub const SECTIONS: &[(&str, &[&str])] = &[
    (Run::NAME, Run::DOC),
    (Model::NAME, Model::DOC),
    (Plugins::NAME, Plugins::DOC),
    (Data::NAME, Data::DOC),
    (Adapter::NAME, Adapter::DOC),
    (Generate::NAME, Generate::DOC),
    (Loss::NAME, Loss::DOC),
    (Train::NAME, Train::DOC),
    (Game::NAME, Game::DOC),
    (Eval::NAME, Eval::DOC),
    (Sft::NAME, Sft::DOC),
    (Compare::NAME, Compare::DOC),
];

/// Every key in order.
pub(super) fn all() -> Vec<Key> {
    let each = [
        Run::keys(),
        Model::keys(),
        Plugins::keys(),
        Data::keys(),
        Adapter::keys(),
        Generate::keys(),
        Loss::keys(),
        Train::keys(),
        Game::keys(),
        Eval::keys(),
        Sft::keys(),
        Compare::keys(),
    ];
    each.into_iter().flatten().collect()
}
