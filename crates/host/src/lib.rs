//! Finds, checks and loads plugins, and wraps their items in the safe traits of
//! [`randori_sdk::seam`].
//!
//! Besides the SDK this is the only crate that uses the C ABI. It knows neither a tensor library
//! nor a particular plugin: architectures, losses and samplers are loaded from shared libraries or,
//! in a binary that bundles them, added as linked constants by [`Host::add_static`]. Only this
//! crate's tests depend on plugin crates, so that cargo builds their libraries beside the test
//! programs.
//!
//! Loaded plugins are never unloaded.

mod accounts;
mod architecture;
mod dialect;
mod error;
mod frozen;
mod info;
mod library;
mod loss;
mod nearest;
mod object;
mod ops;
mod options;
mod sampler;
mod search;
mod sink;
mod slopes;
mod trust;
#[cfg(test)]
mod versions;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use randori_sdk::{abi, seam};

use info::Functions;
use object::Object;

pub use accounts::group_is_owners_alone;
pub use error::{Error, Result};
pub use info::{ItemInfo, Kind, PluginInfo};
pub use nearest::nearest;
pub use search::SearchPath;

/// Decides whether a plugin may be loaded, before any of its code runs. Gets its file and the
/// SHA-256 (hexadecimal) of the bytes that would be loaded; `Err` is the reason of a refusal.
pub type Ask<'a> = dyn FnMut(&Path, &str) -> std::result::Result<(), String> + 'a;

/// The plugins of this process.
#[derive(Default)]
pub struct Host {
    plugins: Vec<PluginInfo>,
    /// Functions of `plugins[i].items`, in the same order.
    functions: Vec<Vec<Functions>>,
    /// Folders searched, for error messages.
    searched: Vec<PathBuf>,
    /// Names of plugins that are linked in, and come from a file instead.
    replaced: Vec<String>,
    /// Names and dialects of all architectures, once they were asked for.
    families: OnceLock<Vec<seam::Family>>,
}

impl Host {
    /// Loads every plugin of a search path, all of which the caller trusts:
    /// [`Host::discover_asking`] without refusals.
    pub fn discover(path: &SearchPath) -> Result<Host> {
        Host::discover_asking(path, &mut |_, _| Ok(()))
    }

    /// Loads every plugin of a search path. `ask` decides about each that is not in a folder of
    /// [`SearchPath::standard`]. A file that is named like a plugin and is none, breaks a rule of
    /// trust, or has an item of another plugin's name is an error that names it.
    pub fn discover_asking(path: &SearchPath, ask: &mut Ask) -> Result<Host> {
        let mut host = Host {
            searched: path.dirs.clone(),
            ..Host::default()
        };
        for file in path.plugins()? {
            let (info, functions) = library::load(&file, ask)?;
            host.add(info, functions)?;
        }
        Ok(host)
    }

    /// Adds a plugin that is linked into the program (`PLUGIN` of its crate). A plugin of the same
    /// name that was loaded from a file takes precedence.
    pub fn add_static(&mut self, plugin: &'static abi::Plugin) -> Result<()> {
        let (info, functions) = library::read_linked(plugin)?;
        let known = self.plugins.iter().find(|other| other.name == info.name);
        match known {
            None => self.add(info, functions),
            Some(other) => {
                if !other.is_linked() {
                    self.replaced.push(info.name);
                }
                Ok(())
            }
        }
    }

    /// Whether a plugin's file was taken instead of the plugin of that name that is linked in.
    pub fn replaces_linked(&self, plugin: &PluginInfo) -> bool {
        self.replaced.contains(&plugin.name)
    }

    fn add(&mut self, info: PluginInfo, functions: Vec<Functions>) -> Result<()> {
        for item in &info.items {
            let same = |other: &&ItemInfo| other.kind == item.kind && other.name == item.name;
            let twice = info.items.iter().filter(same).count() > 1;
            let other = self
                .plugins
                .iter()
                .find(|p| p.items.iter().any(|i| same(&i)));
            let reason = match other {
                Some(other) => format!("{} `{}` is also in {}", item.kind, item.name, place(other)),
                None if twice => format!("{} `{}` is in it twice", item.kind, item.name),
                None => continue,
            };
            return Err(Error::Plugin {
                path: info.path,
                reason,
            });
        }
        self.plugins.push(info);
        self.functions.push(functions);
        self.families = OnceLock::new();
        Ok(())
    }

    /// The plugins found.
    pub fn plugins(&self) -> &[PluginInfo] {
        &self.plugins
    }

    /// The names of all architectures, and what they are called elsewhere. Unlike a listing of
    /// plugins this runs code of theirs.
    ///
    /// # Errors
    /// A dialect with something in it that this host does not know.
    pub fn families(&self) -> Result<&[seam::Family]> {
        if let Some(families) = self.families.get() {
            return Ok(families);
        }
        let plugins = self.plugins.iter().zip(&self.functions);
        let items = plugins.flat_map(|(info, f)| info.items.iter().zip(f));
        let read = items
            .filter(|(item, _)| item.kind == Kind::Arch)
            .map(|(item, f)| Ok(seam::Family::new(&item.name, dialect::of(&item.name, f)?)))
            .collect::<Result<Vec<_>>>()?;
        Ok(self.families.get_or_init(|| read))
    }

    /// The architecture for a configuration's `model_type`, made for that configuration
    /// (`config.json`'s text).
    pub fn architecture(
        &self,
        name: &str,
        config_json: &str,
    ) -> Result<Arc<dyn seam::Architecture>> {
        let (item, functions) = self.find(Kind::Arch, name)?;
        let object = Object::new(item, functions, &[], config_json)?;
        Ok(Arc::new(architecture::Loaded::new(object)?))
    }

    /// A loss with its options checked and set, and its slopes checked against finite differences.
    pub fn loss(
        &self,
        name: &str,
        options: &[(String, seam::Value)],
    ) -> Result<Arc<dyn seam::LossFn>> {
        let (item, functions) = self.find(Kind::Loss, name)?;
        let values = options::check(item, options)?;
        let object = Object::new(item, functions, &values, "")?;
        let options = options::in_words(item, &values);
        let loss = loss::Loaded::new(object, options).map_err(Error::Rule)?;
        Ok(Arc::new(loss))
    }

    /// A sampler with its options checked and set.
    pub fn sampler(
        &self,
        name: &str,
        options: &[(String, seam::Value)],
    ) -> Result<Arc<dyn seam::SamplerFn>> {
        let (item, functions) = self.find(Kind::Sampler, name)?;
        let values = options::check(item, options)?;
        let object = Object::new(item, functions, &values, "")?;
        Ok(Arc::new(sampler::Loaded::new(object)))
    }

    fn find(&self, kind: Kind, name: &str) -> Result<(&ItemInfo, Functions)> {
        let plugins = self.plugins.iter().zip(&self.functions);
        let mut items = plugins.flat_map(|(info, f)| info.items.iter().zip(f));
        let found = items.find(|(item, _)| item.kind == kind && item.name == name);
        found
            .map(|(item, functions)| (item, *functions))
            .ok_or_else(|| self.unknown(kind, name))
    }

    fn unknown(&self, kind: Kind, name: &str) -> Error {
        let items = self.plugins.iter().flat_map(|plugin| &plugin.items);
        let mut names: Vec<_> = items
            .filter(|i| i.kind == kind)
            .map(|i| i.name.as_str())
            .collect();
        names.sort_unstable();
        if self.plugins.is_empty() {
            let searched: Vec<_> = self
                .searched
                .iter()
                .map(|d| d.display().to_string())
                .collect();
            return Error::Rule(format!(
                "there is no {kind} `{name}`, for there are no plugins in {}, and none is linked in (`cargo run -p` and `--bin` do not build them; `cargo build` at the root does)",
                searched.join(", ")
            ));
        }
        let hint = nearest(name, names.iter().copied())
            .map_or(String::new(), |near| format!("did you mean `{near}`? "));
        let list = if names.is_empty() {
            "no plugin has one".to_owned()
        } else {
            format!("there are: {}", names.join(", "))
        };
        Error::Rule(format!("there is no {kind} `{name}`; {hint}{list}"))
    }
}

/// A plugin's origin, for messages.
fn place(plugin: &PluginInfo) -> String {
    match plugin.is_linked() {
        true => format!("the plugin {} that is linked in", plugin.name),
        false => plugin.path.display().to_string(),
    }
}
