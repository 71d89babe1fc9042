//! The recipe: a TOML file (and `--set` overrides) parsed once into a value that cannot be wrong.
//!
//! Every key is declared once, in `keys`; parsing, `--set`, the resolved recipe of a run folder,
//! docs/reference/recipe.md and the suggestions for misspelt keys all come from that declaration.
//! What a plugin declares (options of a loss or a sampler) is checked by the plugin host, with the
//! lines kept here.

mod columns;
mod docs;
mod elsewhere;
mod hub_name;
mod keys;
mod plural;
mod refusal;
mod section;
mod setting;
mod source;
mod unread;
mod variables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use docs::markdown;
pub use elsewhere::{known_elsewhere, value_elsewhere};
pub use hub_name::{KINDS, Named, kind};
pub use keys::*;
pub use plural::{PluginChoice, PluginOption, Validation};
pub use refusal::RecipeError;
pub use setting::{OnResume, OrAuto, toml_text};

use section::Section;
use setting::Setting;
use source::Entries;

/// Keys of a section with their values as TOML.
type Rows = Vec<(&'static str, Option<String>)>;

/// The most tokens that `train.micro_batch_tokens = "auto"` becomes: larger micro-batches are not
/// faster (docs/explanation/speed.md).
pub const AUTO_MOST: usize = 4096;

/// How a resolved recipe begins.
const RESOLVED: &str = "# Resolved from ";

/// Everything a run is told. Two equal recipes play the same game.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Keys outside any section.
    pub run: Run,
    /// `[model]`
    pub model: Model,
    /// `[plugins]`
    pub plugins: Plugins,
    /// `[data]`
    pub data: Data,
    /// `[adapter]`
    pub adapter: Adapter,
    /// `[generate]`
    pub generate: Generate,
    /// `[loss]`
    pub loss: Loss,
    /// `[loss]`: what is not `name` belongs to the plugin.
    pub loss_options: Vec<PluginOption>,
    /// `[train]`
    pub train: Train,
    /// `[game]`
    pub game: Game,
    /// `[eval]`
    pub eval: Eval,
    /// `[sft]`
    pub sft: Sft,
    /// `[compare]`
    pub compare: Compare,
    /// What names that can come to mean something else stand for since the run began, for its
    /// manifest: `model.source org/name@main` -> `org/name@COMMIT`.
    pub resolved: BTreeMap<String, String>,
    /// Where each given key stands (`recipe.toml:14`, `--set train.lr=…`).
    places: BTreeMap<String, String>,
    /// The recipe file's name, for keys it does not give.
    file: String,
    /// Every key stands in the file, defaults included: it is [`Recipe::resolved`]'s.
    spelt_out: bool,
    /// Folder that relative paths start from.
    folder: PathBuf,
}

impl Recipe {
    /// Reads `path` and lays the overrides (`section.key=value`) over it.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Recipe, RecipeError> {
        let file = path.display().to_string();
        let refused = |rule: String| RecipeError {
            place: file.clone(),
            rule,
        };
        let bytes =
            std::fs::read(path).map_err(|e| refused(format!("the recipe cannot be read: {e}")))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| refused("no recipe: it is no text (UTF-8), as a TOML file is".into()))?;
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        Recipe::parse(&file, &text, &folder, overrides)
    }

    /// A recipe of defaults and overrides alone.
    pub fn without_file(overrides: &[String]) -> Result<Recipe, RecipeError> {
        Recipe::parse("(no recipe)", "", Path::new(""), overrides)
    }

    /// From text; `file` is its name in messages, `folder` where relative paths start.
    pub fn parse(
        file: &str,
        text: &str,
        folder: &Path,
        overrides: &[String],
    ) -> Result<Recipe, RecipeError> {
        let mut entries = Entries::from_toml(file, text)?;
        for one in overrides {
            entries.lay_over(one)?;
        }
        let places = entries.places();
        let run = Run::read(&mut entries)?;
        let folder = match &run.root {
            Some(root) => folder.join(root),
            None => folder.to_path_buf(),
        };
        let recipe = Recipe {
            run,
            model: Model::read(&mut entries)?,
            plugins: Plugins::read(&mut entries)?,
            data: Data::read(&mut entries)?,
            adapter: Adapter::read(&mut entries)?,
            generate: Generate::read(&mut entries)?,
            loss: Loss::read(&mut entries)?,
            loss_options: entries.plugin_options("loss")?,
            train: Train::read(&mut entries)?,
            game: Game::read(&mut entries)?,
            eval: Eval::read(&mut entries)?,
            sft: Sft::read(&mut entries)?,
            compare: Compare::read(&mut entries)?,
            resolved: BTreeMap::new(),
            places,
            file: file.to_string(),
            spelt_out: text.starts_with(RESOLVED),
            folder,
        };
        entries.refuse_the_rest(&keys::all())?;
        recipe.check_across_keys()?;
        recipe.check_repeats()?;
        Ok(recipe)
    }

    /// `train.micro_batch_tokens`; while it is still to be chosen, the most that is.
    pub fn micro_batch_tokens(&self) -> usize {
        match self.train.micro_batch_tokens {
            OrAuto::Auto => AUTO_MOST,
            OrAuto::Of(tokens) => tokens,
        }
    }

    /// Where `key` (`data.train`) is given, for messages about its value.
    pub fn place(&self, key: &str) -> String {
        self.places
            .get(key)
            .cloned()
            .unwrap_or_else(|| format!("{}: (default of {key})", self.file))
    }

    /// Whether `key` stands in the recipe or in what is laid over it.
    pub fn gives(&self, key: &str) -> bool {
        self.places.contains_key(key)
    }

    /// Whether `key` is given, and not only as the default that a resolved recipe spells out.
    pub fn says(&self, key: &str) -> bool {
        let Some(place) = self.places.get(key) else {
            return false;
        };
        if !self.spelt_out || place.starts_with("--set") {
            return true;
        }
        let defaults = Recipe::without_file(&[]).map(|recipe| recipe.values());
        defaults.is_ok_and(|defaults| defaults.get(key) != self.values().get(key))
    }

    /// Whether every key stands in the text, defaults included, as in a run folder's `recipe.toml`.
    pub fn is_spelt_out(&self) -> bool {
        self.spelt_out
    }

    /// Names `instead` as the place of every key that `--set` does not give: nobody has the text.
    pub fn stands_nowhere(&mut self, instead: &str) {
        let places = self.places.values_mut();
        let in_text = places.filter(|place| !place.starts_with("--set"));
        in_text.for_each(|place| *place = instead.to_owned());
    }

    /// Whether any key of a section is given, as [`Recipe::says`] has it.
    pub fn says_any(&self, section: &str) -> bool {
        let within = |key: &str| key.split_once('.').is_some_and(|(own, _)| own == section);
        let mut keys = self.places.keys();
        keys.any(|key| within(key) && self.says(key))
    }

    /// An error about the value of `key`.
    pub fn refuse(&self, key: &str, rule: impl Into<String>) -> RecipeError {
        RecipeError {
            place: self.place(key),
            rule: format!("{key} {}", rule.into()),
        }
    }

    /// An error about a key that is not given and has no default.
    pub fn missing(&self, key: &str, what: &str) -> RecipeError {
        RecipeError {
            place: self.file.clone(),
            rule: format!("{key} is missing: {what}"),
        }
    }

    /// Where a relative path of this recipe points.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.join(path)
    }

    /// The resolved recipe: every key with its value, defaults included. Reading it back gives this
    /// recipe.
    pub fn resolved(&self) -> String {
        let folder = if self.folder.as_os_str().is_empty() {
            Path::new(".")
        } else {
            &self.folder
        };
        let root = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        let text = self.canonical();
        format!(
            "{RESOLVED}{} by randori; relative paths start from `root`.\nroot = {}\n{text}",
            self.file,
            toml_text(&root.display().to_string())
        )
    }

    /// The resolved recipe without the folder it lies in: equal texts, equal games.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        for (section, rows) in self.sections() {
            if !section.is_empty() {
                out.push_str(&format!("\n[{section}]\n"));
            }
            for (key, value) in rows {
                out.push_str(&format!("{} = {value}\n", toml_edit::Key::new(key)));
            }
        }
        out
    }

    /// Key by key, as a run folder's manifest keeps it; the folder the recipe lies in is no part of
    /// it.
    pub fn values(&self) -> BTreeMap<String, String> {
        let full = |section, (key, value): (String, String)| (source::full(section, &key), value);
        self.sections()
            .into_iter()
            .flat_map(|(section, rows)| rows.into_iter().map(move |row| full(section, row)))
            .collect()
    }

    /// Sections in order, with every key that has a value and the value as TOML, on one line; a
    /// loss's options stand with it.
    fn sections(&self) -> Vec<(&'static str, Vec<(String, String)>)> {
        let sections: [(&str, Rows); 12] = [
            (Run::NAME, self.run.show()),
            (Model::NAME, self.model.show()),
            (Plugins::NAME, self.plugins.show()),
            (Data::NAME, self.data.show()),
            (Adapter::NAME, self.adapter.show()),
            (Generate::NAME, self.generate.show()),
            (Loss::NAME, self.loss.show()),
            (Train::NAME, self.train.show()),
            (Game::NAME, self.game.show()),
            (Eval::NAME, self.eval.show()),
            (Sft::NAME, self.sft.show()),
            (Compare::NAME, self.compare.show()),
        ];
        let given = |(name, rows): (&'static str, Rows)| {
            let shown = |(key, value): (&str, Option<String>)| Some((key.to_string(), value?));
            let mut rows: Vec<(String, String)> = rows.into_iter().filter_map(shown).collect();
            rows.retain(|(key, _)| !(name == Run::NAME && key == "root"));
            if name == Loss::NAME {
                let options = self.loss_options.iter();
                rows.extend(options.map(|o| (o.name.clone(), o.show())));
            }
            (name, rows)
        };
        sections.into_iter().map(given).collect()
    }

    /// Full names of the keys that may change in this way when a run is resumed.
    pub fn keys_that(on_resume: OnResume) -> Vec<String> {
        let keys = keys::all().into_iter();
        keys.filter(|key| key.on_resume == on_resume)
            .map(|key| source::full(key.section, key.name))
            .collect()
    }

    /// What the keys mean that are not given beside the others of this recipe, as
    /// [`Recipe::values`] has them.
    pub fn defaults(&self) -> BTreeMap<String, String> {
        let alone = Recipe::without_file(&[]);
        let mut values = alone.map(|recipe| recipe.values()).unwrap_or_default();
        let unshared = Data {
            validation_share: None,
            ..self.data.clone()
        };
        if unshared.kept_aside().is_none() {
            // where other data is measured on, no share is none
            let none = Some(0.0_f64).show();
            values.extend(none.map(|none| ("data.validation_share".to_string(), none)));
        }
        values
    }

    /// Lists of what is tried or measured once each: one value twice would count as two.
    fn check_repeats(&self) -> Result<(), RecipeError> {
        fn repeats<T: PartialEq>(list: &[T]) -> bool {
            (1..list.len()).any(|i| list[..i].contains(&list[i]))
        }
        let (eval, compare) = (&self.eval, &self.compare);
        let lists = [
            ("eval.seeds", repeats(&eval.seeds), eval.seeds.show()),
            (
                "compare.seeds",
                repeats(&compare.seeds),
                compare.seeds.show(),
            ),
            ("compare.lrs", repeats(&compare.lrs), compare.lrs.show()),
            (
                "compare.epochs",
                repeats(&compare.epochs),
                compare.epochs.show(),
            ),
        ];
        match lists.into_iter().find(|(_, repeats, _)| *repeats) {
            Some((key, _, shown)) => {
                let shown = shown.unwrap_or_default();
                Err(self.refuse(key, format!("must have each value once, got {shown}")))
            }
            None => Ok(()),
        }
    }

    /// Rules that span keys.
    fn check_across_keys(&self) -> Result<(), RecipeError> {
        if self.generate.min_new_tokens > self.generate.max_new_tokens {
            return Err(self.refuse(
                "generate.min_new_tokens",
                format!(
                    "must be <= generate.max_new_tokens = {}, got {}",
                    self.generate.max_new_tokens, self.generate.min_new_tokens
                ),
            ));
        }
        let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
        if self.run.name.is_empty()
            || self.run.name.starts_with('.')
            || !self.run.name.chars().all(plain)
        {
            return Err(self.refuse(
                "name",
                format!(
                    "must be a plain folder name (letters, digits, - _ .), got \"{}\"",
                    self.run.name
                ),
            ));
        }
        if !self.adapter.init.0.is_empty() && self.adapter.kind == AdapterKind::Full {
            return Err(self.refuse("adapter.init", "starts a LoRA adapter; with adapter.kind = \"full\" give the model itself in model.source"));
        }
        let on_gpu = self.model.device == ComputeDevice::Cuda;
        if self.train.offload_optimizer && !on_gpu {
            return Err(self.refuse(
                "train.offload_optimizer",
                "must be false but with model.device = \"cuda\", got true with model.device = \"cpu\"",
            ));
        }
        if self.train.offload_inputs && !(self.train.checkpoint && on_gpu) {
            let device = if on_gpu { "cuda" } else { "cpu" };
            return Err(self.refuse(
                "train.offload_inputs",
                format!(
                    "must be false but with train.checkpoint = true and model.device = \"cuda\", got true with train.checkpoint = {} and model.device = \"{device}\"",
                    self.train.checkpoint
                ),
            ));
        }
        let clip = self.train.clip;
        if clip > 0.0 && clip as f32 == 0.0 {
            return Err(self.refuse(
                "train.clip",
                format!("must be 0 (never) or > 0 in f32 too, where it is 0, got {clip:e}"),
            ));
        }
        let validated = !self.data.validation.sets().is_empty() || self.data.kept_aside().is_some();
        if self.compare.continued_sft && !validated {
            return Err(self.refuse(
                "compare.continued_sft",
                "chooses its settings on a validation split: give data.validation or data.validation_share",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
