//! The tensors in which a checkpoint stores one projection, and how they become one.

use super::{Packed, settings::Settings};
use crate::{
    Error, Format, Index, Result,
    auxiliary::{AuxTensor, Read},
    bnb::is_skipped,
};

/// A projection by the name of its module, `model.layers.0.self_attn.q_proj`.
pub(super) struct Module<'a> {
    pub(super) index: &'a Index,
    pub(super) name: &'a str,
}

impl Module<'_> {
    /// A tensor of it that must be there.
    pub(super) fn part(&self, part: &str) -> Read<AuxTensor> {
        let found = self.has(part);
        found.ok_or_else(|| format!("the file lacks {}.{part}", self.name))
    }

    /// A tensor of it.
    pub(super) fn has(&self, part: &str) -> Option<AuxTensor> {
        self.index.auxiliary(&format!("{}.{part}", self.name))
    }
}

/// The modules that have a tensor of this name, `qweight`.
pub(super) fn modules(index: &Index, part: &str) -> Vec<String> {
    let end = format!(".{part}");
    let names = index.tensors.keys();
    let modules = names.filter_map(|name| name.strip_suffix(&end));
    modules.map(str::to_string).collect()
}

/// Joins the tensors of every one of these modules to a weight. `codes` is the tensor that has the
/// codes, `parts` the others that belong to it, whether a module has them or not; `read` says what
/// the matrix is.
///
/// # Errors
/// What `read` refuses, with the module's name; a module that `skipped` says is dense; a method
/// that is named and used nowhere.
pub(super) fn join_all(
    index: &mut Index,
    settings: &Settings,
    modules: &[String],
    codes: &str,
    parts: &[&str],
    skipped: &[&str],
    read: impl Fn(&Module<'_>) -> Read<Packed>,
) -> Result<()> {
    if modules.is_empty() {
        return settings.error(&format!("no module of the model has a {codes}"));
    }
    for name in modules {
        let fail = |what: String| Error::rule(format!("{name} ({}): {what}", settings.method));
        if let Some(skip) = skipped.iter().find(|skip| is_skipped(name, skip)) {
            return Err(fail(format!(
                "config.json's quantization_config says that {skip} is not quantised, but it is"
            )));
        }
        let module = Module {
            index: &*index,
            name,
        };
        let packed = read(&module).map_err(fail)?;
        for part in parts {
            index.tensors.remove(&format!("{name}.{part}"));
        }
        let Some(mut stored) = index.tensors.remove(&format!("{name}.{codes}")) else {
            continue; // `read` has found it
        };
        stored.shape = packed.stored.to_vec();
        stored.format = Format::Packed(Box::new(packed));
        index.add(format!("{name}.weight"), stored)?;
    }
    Ok(())
}

/// Takes away the scales of quantised activations, of keys and of values, which no weight needs.
pub(super) fn drop_activations(index: &mut Index, parts: &[&str]) {
    let of_activations = |name: &str| {
        let last = name.rsplit_once('.').map(|(_, last)| last);
        last.is_some_and(|last| parts.contains(&last))
    };
    index.tensors.retain(|name, _| !of_activations(name));
}
