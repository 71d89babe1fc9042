//! What a recipe is for: the verb that uses it, and with that the stages that it has.

use anyhow::{Result, bail};

use crate::recipe::{DataFormat, Recipe, Validation};
use crate::request::Request;
use crate::shell::quoted;

/// What a recipe is written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aim {
    /// Supervised fine-tuning, and no game: `randori sft`.
    Sft,
    /// The game, after supervised fine-tuning where the recipe has that: `randori run`.
    #[default]
    Spin,
    /// Preference pairs: `randori train`.
    Dpo,
}

impl Aim {
    /// What a recipe shows itself to be for, and by what.
    pub fn of(recipe: &Recipe) -> (Aim, &'static str) {
        const PAIRS: [&str; 3] = ["train.lr", "train.epochs", "train.batch"];
        let of_pairs = PAIRS.iter().any(|key| recipe.says(key));
        let of_a_game = ["game", "loss", "compare"]
            .iter()
            .any(|section| recipe.says_any(section));
        if recipe.sft.epochs > 0 && recipe.says("sft.epochs") && !of_a_game && !of_pairs {
            return (Aim::Sft, "it has [sft], and nothing of a game or a loss");
        }
        let pairs = matches!(
            recipe.data.format,
            DataFormat::Preference | DataFormat::Spin
        );
        if pairs && !recipe.says_any("game") && recipe.sft.epochs == 0 {
            let why = "data.format is that of pairs, and it has nothing of a game";
            return (Aim::Dpo, why);
        }
        // a game measures itself on rows that it does not train on
        let off = recipe.data.validation == Validation::Off && recipe.data.held_out.0.is_empty();
        match off {
            true => (
                Aim::Dpo,
                "data.validation is \"none\", with which no game is played",
            ),
            false => (Aim::Spin, "it has a game"),
        }
    }

    /// The command that a recipe of this aim is for.
    pub fn command(self) -> &'static str {
        match self {
            Aim::Sft => "randori sft",
            Aim::Spin => "randori run",
            Aim::Dpo => "randori train",
        }
    }
}

/// Refuses to play a game with a recipe that is for another verb. A run's own recipe is a game's:
/// every key stands in it, and does not tell.
///
/// # Errors
/// What it is for, and how it is played all the same.
pub fn refuse_no_game(request: &Request, recipe: &Recipe) -> Result<()> {
    let Some(file) = request.recipe.as_ref().filter(|path| !path.is_dir()) else {
        return Ok(());
    };
    let (aim, why) = Aim::of(recipe);
    let out = match aim {
        Aim::Spin => return Ok(()),
        _ if recipe.is_spelt_out() => return Ok(()),
        Aim::Sft => "",
        Aim::Dpo => " --out FOLDER",
    };
    let (shown, command) = (file.display(), aim.command());
    bail!(
        "{shown}: this recipe is for `{command} {}{out}`: {why}; --set game.iterations=3 plays a \
         game with it all the same",
        quoted(&shown.to_string())
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use std::path::Path;

    use super::*;

    #[test]
    fn a_recipe_shows_what_it_is_for() {
        for (text, aim) in [
            ("", Aim::Spin),
            ("[sft]\nepochs = 2\n[generate]\nbatch = 4", Aim::Sft),
            (
                "[sft]\nepochs = 2\n[train]\nmicro_batch_tokens = 512",
                Aim::Sft,
            ),
            ("[sft]\nepochs = 0", Aim::Spin),
            ("[sft]\nepochs = 2\n[game]\niterations = 1", Aim::Spin),
            ("[sft]\nepochs = 2\n[loss]\nbeta = 0.1", Aim::Spin),
            ("[sft]\nepochs = 2\n[train]\nlr = 1e-5", Aim::Spin),
            (
                "[data]\nvalidation = \"none\"\n[loss]\nname = \"ipo\"",
                Aim::Dpo,
            ),
            ("[data]\nformat = \"preference\"", Aim::Dpo),
            ("[data]\nformat = \"spin\"\n[loss]\nbeta = 0.1", Aim::Dpo),
            (
                "[data]\nformat = \"preference\"\n[game]\niterations = 2",
                Aim::Spin,
            ),
            (
                "[data]\nvalidation = \"none\"\nheld_out = \"h.jsonl\"",
                Aim::Spin,
            ),
        ] {
            let recipe = Recipe::parse("r", text, Path::new(""), &[]).unwrap();
            assert_eq!(Aim::of(&recipe).0, aim, "{text}");
        }
    }

    /// The recipes that ship say at their top which command they are for.
    #[test]
    fn shipped_recipes_are_for_the_command_that_they_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        for (file, aim) in [
            ("sft.toml", Aim::Sft),
            ("dpo.toml", Aim::Dpo),
            ("spin.toml", Aim::Spin),
            ("demo.toml", Aim::Spin),
            ("smollm2-gsm8k.toml", Aim::Spin),
            ("zephyr-7b-spin.toml", Aim::Spin),
        ] {
            let recipe = Recipe::load(&folder.join(file), &[]).unwrap();
            assert_eq!(Aim::of(&recipe).0, aim, "{file}");
        }
    }

    /// The recipe that a script of TRL's becomes in docs/how-to names its data, and shows that
    /// pairs are trained on.
    #[test]
    fn the_recipe_of_the_page_for_trl_is_whole() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let page = std::fs::read_to_string(docs.join("how-to/from-trl.md")).unwrap();
        let (_, rest) = page.split_once("```toml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let recipe = Recipe::parse("smol-dpo.toml", text, Path::new(""), &[]).unwrap();
        assert_eq!(recipe.data.train.0, ["pairs.jsonl"]);
        assert_eq!(Aim::of(&recipe).0, Aim::Dpo);
    }
}
