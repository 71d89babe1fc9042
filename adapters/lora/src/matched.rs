//! Match of a new adapter's settings with a model's projections; an entry that matches nothing is
//! an error.

use std::{collections::BTreeMap, fmt};

use crate::{
    Error, LoraSpec, Projection, Result, Targets,
    spec::saved_by,
    targets::{key_fits, named},
};

/// What a new adapter's settings matched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Matched {
    /// Number of projections by the last component of their names.
    pub projections: BTreeMap<String, usize>,
    /// Full names of the weights trained in full.
    pub saved: Vec<String>,
    /// The weight shared by head and embedding, if the head is adapted or trained in full.
    pub tied: Option<String>,
}

impl fmt::Display for Matched {
    /// `q_proj 2, v_proj 2, lm_head 1 (…)`, then the weights trained in full.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each = self.projections.iter();
        let mut parts: Vec<String> = each.map(|(name, n)| format!("{name} {n}")).collect();
        if !self.saved.is_empty() {
            parts.push(format!("in full: {}", self.saved.join(", ")));
        }
        f.write_str(&parts.join(", "))?;
        match &self.tied {
            Some(weight) => write!(
                f,
                " (head and embedding share {weight}.weight: only the use named here changes, and a merged export unties them)"
            ),
            None => Ok(()),
        }
    }
}

impl LoraSpec {
    /// Matches a new adapter's settings with a model's projections and weights (full names).
    ///
    /// # Errors
    /// An entry of targets, exclude, the patterns or `modules_to_save` that matches nothing, with
    /// similar names; an entry of targets whose projections `exclude` all removes.
    pub fn match_projections(
        &self,
        projections: &[Projection],
        weights: &[String],
    ) -> Result<Matched> {
        let adapted: Vec<&Projection> = projections.iter().filter(|p| self.adapts(p)).collect();
        for (key, targets) in [
            ("targets", Some(&self.targets)),
            ("exclude", self.exclude.as_ref()),
        ] {
            entries(key, targets, projections)?;
        }
        self.excluded(projections)?;
        self.all_experts_alike(projections)?;
        if adapted.is_empty() {
            return Err(Error::rule(format!(
                "no projection matches the adapter's targets {} once `exclude` and `modules_to_save` are taken away; there are: {}",
                as_given(&self.targets),
                last_names(projections).join(", ")
            )));
        }
        let ranks = self.rank_pattern.iter().map(|(key, _)| ("rank", key));
        let alphas = self.alpha_pattern.iter().map(|(key, _)| ("alpha", key));
        for (which, key) in ranks.chain(alphas) {
            if !adapted.iter().any(|p| key_fits(key, &p.name)) {
                return Err(Error::rule(format!(
                    "{which}_pattern: {key:?} matches no projection that gets an update{}",
                    hint(key, &last_names(adapted.iter().copied()))
                )));
            }
        }
        let saved = self.resolve_saved(projections, weights)?;
        let mut counts = BTreeMap::new();
        for p in &adapted {
            *counts.entry(last(&p.name).to_string()).or_insert(0) += 1;
        }
        let tied = projections.iter().find(|p| p.weight != p.name).filter(|p| {
            let own = |name: &str| saved.iter().any(|s| *s == format!("{name}.weight"));
            adapted.contains(p) || p.names().any(own)
        });
        Ok(Matched {
            projections: counts,
            tied: tied.map(|p| p.weight.clone()),
            saved,
        })
    }

    /// Refuses an entry of targets of which `exclude` leaves no projection.
    fn excluded(&self, projections: &[Projection]) -> Result<()> {
        let Targets::Names(list) = &self.targets else {
            return Ok(());
        };
        let kept = |entry: &str| {
            projections.iter().any(|p| {
                p.names()
                    .any(|name| named(entry, name) && !self.excludes(p, name))
            })
        };
        match list.iter().find(|entry| !kept(entry)) {
            Some(entry) => Err(Error::rule(format!(
                "the adapter's exclude takes away every projection that {entry:?} of its targets matches: leave one of the two out"
            ))),
            None => Ok(()),
        }
    }

    /// Full names of the weights that `modules_to_save` matches; a head that shares the embedding's
    /// weight then gets its own.
    ///
    /// # Errors
    /// An entry that matches nothing.
    pub fn resolve_saved(
        &self,
        projections: &[Projection],
        weights: &[String],
    ) -> Result<Vec<String>> {
        let own_heads = projections.iter().filter(|p| p.weight != p.name);
        let own_heads = own_heads.map(|p| format!("{}.weight", p.name));
        let all: Vec<String> = weights.iter().cloned().chain(own_heads).collect();
        let module = |name: &str| {
            let (module, _) = name.rsplit_once('.').unwrap_or((name, ""));
            module.to_string()
        };
        let mut found = Vec::new();
        for entry in &self.modules_to_save {
            let of_it: Vec<&String> = all.iter().filter(|w| saved_by(entry, &module(w))).collect();
            if of_it.is_empty() {
                let mut names: Vec<String> =
                    all.iter().map(|w| last(&module(w)).to_string()).collect();
                names.sort();
                names.dedup();
                return Err(Error::rule(format!(
                    "modules_to_save: the model has no module {entry}{}",
                    hint(entry, &names)
                )));
            }
            found.extend(of_it.into_iter().cloned());
        }
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// Refuses an entry of a list, or a pattern, that matches no projection.
fn entries(key: &str, targets: Option<&Targets>, projections: &[Projection]) -> Result<()> {
    let names = last_names(projections);
    let has = |fits: &dyn Fn(&str) -> bool| projections.iter().any(|p| p.names().any(fits));
    let nothing = |entry: &str, why: &str| {
        Err(Error::rule(format!(
            "no projection matches {entry:?} of the adapter's {key}{why}; there are: {}",
            names.join(", ")
        )))
    };
    match targets {
        Some(Targets::Names(list)) => {
            let stray = list.iter().find(|e| !has(&|name| named(e, name)));
            match stray.map(String::as_str) {
                None => Ok(()),
                Some(word @ "all-linear") => nothing(word, " (it must stand alone)"),
                Some(word) if word.starts_with("regex:") => {
                    nothing(word, " (a pattern must stand alone)")
                }
                Some(word) if last(word) == "embed_tokens" => nothing(
                    word,
                    ": the embedding is looked up, not multiplied; modules_to_save trains it in full",
                ),
                Some(word) => nothing(word, &hint(word, &names)),
            }
        }
        Some(pattern @ Targets::Regex(text)) if !has(&|name| pattern.wants(name)) => {
            nothing(&format!("regex:{text}"), "")
        }
        _ => Ok(()),
    }
}

/// Targets as a recipe gives them.
fn as_given(targets: &Targets) -> String {
    match targets {
        Targets::Names(names) => format!("{names:?}"),
        Targets::Regex(text) => format!("{:?}", format!("regex:{text}")),
        Targets::AllLinear => "\"all-linear\"".into(),
    }
}

/// Last components of the names, without duplicates, sorted.
fn last_names<'a>(projections: impl IntoIterator<Item = &'a Projection>) -> Vec<String> {
    let names = projections.into_iter().map(|p| last(&p.name).to_string());
    names
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect()
}

fn last(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// ` (did you mean q_proj?)`: the most similar name, if any is similar.
fn hint(entry: &str, names: &[String]) -> String {
    let wanted = last(entry);
    let near = names
        .iter()
        .map(|name| (strsim::jaro_winkler(wanted, name), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    near.map_or_else(String::new, |(_, name)| format!(" (did you mean {name}?)"))
}
